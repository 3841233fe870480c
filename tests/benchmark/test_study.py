"""``benchmark study``: every shipped study is valid, and every kind creates its figures from a small comparison."""
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from conftest import TINY, write_tiny_dataset
from helpers import as_words, write_features
from planted import NAME, write_planted
from recbole.quick_start import load_data_and_model
from recbole.utils import get_trainer
from small_models import ITEMS, SMALL

from recbole_macrec.benchmark.__main__ import main
from recbole_macrec.benchmark.compare.matrix import Matrix, Variant
from recbole_macrec.benchmark.compare.ranks import Ranks
from recbole_macrec.benchmark.compare.run_files import write_json
from recbole_macrec.benchmark.compare.runs import Comparison, Run, RunSpec, open_comparison, run_folder, write_run_spec
from recbole_macrec.benchmark.compare.statistics import user_values
from recbole_macrec.benchmark.study import kinds, rankings, study as study_command
from recbole_macrec.benchmark.study.definition import StudyDefinition
from recbole_macrec.benchmark.study.kinds import Spread, StudyResult, as_markdown, bucket_counts, group_of
from recbole_macrec.benchmark.study.study import check_table, read_study, study_folder, study_names, variants_of
from recbole_macrec.data import DATA_PATH
from recbole_macrec.errors import UserError
from recbole_macrec.trainer.dense_share import choose_dense_share

SETTINGS = {**SMALL, "modalities": "['text','image']", "epochs": 1, "rqvae_epochs": 3, "num_beams": 10}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    """Arguments of studies on a small dataset with features."""
    data_path = write_tiny_dataset(tmp_path_factory.mktemp("data"))
    for modality, seed in (("text", 0), ("image", 1)):
        write_features(data_path / TINY, modality, seed=seed)
    folders = {"data_path": data_path, "output": tmp_path_factory.mktemp("out")}
    return [f"--datasets={TINY}", *as_words(folders | SETTINGS)]


def study(arguments: list[str], **content) -> tuple[Path, dict, list[str]]:
    """Run a study with this content; return its folder, study.json, and the names of its new figures (PNG and PDF)."""
    Path("own.yaml").write_text(yaml.safe_dump(content))
    folder = Path(next(word for word in arguments if word.startswith("--output=")).removeprefix("--output="))
    before = {path: path.stat().st_mtime_ns for path in folder.glob("figures/*")}
    assert main(["study", "own.yaml", *arguments]) == 0
    saved = [path for path in folder.glob("figures/*") if before.get(path) != path.stat().st_mtime_ns]
    for path in saved:
        assert path.read_bytes().startswith({".png": b"\x89PNG", ".pdf": b"%PDF"}[path.suffix])
    assert all(path.with_suffix(".pdf") in saved and path.with_suffix(".png") in saved for path in saved)
    return folder, json.loads((folder / "study.json").read_text()), sorted({path.stem for path in saved})


def definition(kind: str, **content) -> StudyDefinition:
    return StudyDefinition(title="t", kind=kind, **content)


@pytest.mark.parametrize("name", study_names())
def test_every_shipped_study_is_valid(name):
    content = read_study(name)
    settings = {"data_path": DATA_PATH} | content.settings
    variants = variants_of(content, content.models, "arts-toy", settings)
    Matrix(variants, ["arts-toy"], [1], settings).check()
    check_table(content, variants, "arts-toy", settings)
    assert len(variants) > 1 and content.title != name


def test_sweep_skips_impossible_values_of_a_dataset():
    """arts-toy has 3 layers of 32 codes, and L_con at layer 0 only."""
    labels = [v.label for v in variants_of(read_study("sensitivity"), [], "arts-toy", {"data_path": DATA_PATH})]
    assert labels[0] == "default" and "codebook_levels=3" not in labels and "codebook_levels=2" in labels
    assert "first_con_layer=2" in labels and "first_con_layer=3" not in labels and "lambda_con=0.03" not in labels


def test_sweep_on_a_dataset_whose_modalities_are_found_in_its_folder(arguments):
    data_path = next(word for word in arguments if word.startswith("--data_path=")).removeprefix("--data_path=")
    labels = [v.label for v in variants_of(read_study("sensitivity"), [], TINY, {"data_path": data_path})]
    assert labels[0] == "default" and "codebook_size=64" in labels


def test_every_user_is_in_one_group(arguments):
    folder, result, figures = study(
        arguments, kind="groups", models=["MACRec", "SASRec"], by="target_count", bounds=[0, 3, 9]
    )
    assert figures == ["target_count-hit-10", "target_count-ndcg-10"]
    rows = [dict(zip(result["columns"], row)) for row in result["rows"]]
    for run in open_comparison(folder).runs:
        own = [row for row in rows if row[""] == run.spec.label]
        assert [row["target_count"] for row in own] == ["0-2", "3-8", "9+"] and sum(row["users"] for row in own) == 40
        whole = sum(row["users"] * row["hit@10"] for row in own if row["users"]) / 40
        assert whole == pytest.approx(run.result["test_result"]["hit@10"], abs=1e-4)


def test_groups_by_hand():
    nothing = np.zeros(3, int)
    histories = [np.zeros(length, int) for length in (1, 5, 12)]
    ranks = Ranks(np.array(["a", "b", "c"]), nothing, np.array([1, 2, 3]), nothing, nothing, np.array([0, 0, 4, 30]), histories)
    assert group_of(ranks, "target_count", [1, 5]).tolist() == [-1, 0, 1]
    assert group_of(ranks, "history_length", [1, 5, 10]).tolist() == [0, 1, 2]


def test_many_beams_equal_exact_ranking(arguments, monkeypatch):
    """The model has at most 64 IDs, so 64 beams find all items. The ranking with 10 beams is that of the run. The options of
    the loaded model do not change."""
    models, data_paths = [], []

    def load(file, data_path):
        loaded = load_data_and_model(file, data_path)
        models.append(loaded[1])
        data_paths.append(data_path)
        return loaded

    monkeypatch.setattr(rankings, "load_data_and_model", load)
    folder, result, figures = study(arguments, kind="beams", models=["TIGER"], beams=[10, 64], settings={"decode": "beam"})
    assert figures == ["beams-hit-10", "beams-ndcg-10"]
    found = {row[1]: dict(zip(result["columns"], row)) for row in result["rows"]}
    assert found["64"]["ndcg@10"] == found["exact"]["ndcg@10"] and found["64"]["ndcg@10 less than exact"] == 0
    (run,) = open_comparison(folder).runs
    assert data_paths == [run.spec.settings["data_path"]]  # that of the command: the data may have been moved after the run
    assert found["10"]["hit@10"] == run.result["test_result"]["hit@10"]
    assert [(model.ranking.decode, model.ranking.num_beams) for model in models] == [("beam", 10)]


def test_rankings_of_a_trained_model(arguments):
    """Gained and lost hits are the difference of the hit rate. ``fusion`` changes nothing for a single modality."""
    ways = {
        "certified": {"decode": "certified", "fusion": "official"},
        "few beams": {"decode": "beam", "num_beams": 10, "fusion": "official"},
        "mean": {"decode": "certified", "fusion": "mean"},
    }
    tiger = {"model": "TIGER", "modalities": ["text"]}
    argv = [word for word in arguments if not word.startswith("--modalities")]
    argv = [word + "-ways" if word.startswith("--output") else word for word in argv]
    content = {"kind": "rankings", "variants": {"MACRec": {"model": "MACRec"}, "TIGER": tiger}, "rankings": ways,
               "settings": {"decode": "beam", "fusion": "official"}}
    folder, result, _ = study(argv, **content)
    rows = [dict(zip(result["columns"], row)) for row in result["rows"]]
    assert [(row[""], row["ranking"]) for row in rows] == [
        ("MACRec", "certified"), ("MACRec", "few beams"), ("MACRec", "mean"), ("TIGER", "certified"), ("TIGER", "few beams"),
    ]  # fmt: skip
    first = {row[""]: row for row in rows if row["ranking"] == "certified"}
    for row in rows:
        difference = row["hit@10"] - first[row[""]]["hit@10"]
        assert row["gained"] - row["lost"] == pytest.approx(difference, abs=1e-3)
        own = open_comparison(folder).of(TINY, row[""])[0].result["test_result"]
        assert row["ranking"] != "few beams" or row["ndcg@10"] == pytest.approx(own["ndcg@10"], abs=1e-4)
    assert any(row["gained"] + row["lost"] > 0 for row in rows)
    assert main(["publish", str(folder), f"--to={folder / 'published'}"]) == 0
    published = json.loads((folder / "published" / "studies" / f"own-{TINY}.json").read_text())
    assert published["rows"] == result["rows"] and "figures" not in published and "options" not in published
    command = published["command"].split()
    assert command[:5] == ["python", "-m", "recbole_macrec.benchmark", "study", "own.yaml"]
    assert {f"--datasets={TINY}", "--data_path=data", f"--d_model={SMALL['d_model']}"} <= set(command)
    assert main(["fuse", str(folder), "--models=MACRec,TIGER"]) == 0
    assert study(argv, **content)[1]["rows"] == result["rows"]  # a fusion has no ways of ranking


def test_a_run_that_was_trained_again_is_ranked_again(tmp_path, monkeypatch):
    """Its result then names another checkpoint."""
    model = SimpleNamespace(with_ranking=lambda **options: SimpleNamespace(ranking=SimpleNamespace(decode="beam")))
    loaded: list[str] = []

    def load(file, data_path):
        loaded.append(Path(file).name)
        return {}, model, None, None, None, None

    def ranked(config, model, test_data, options, topk):
        return rankings.RankingResult(options, {"hit@10": 0.5}, [0], 2, 1.0)

    monkeypatch.setattr(rankings, "load_data_and_model", load)
    monkeypatch.setattr(rankings, "_ranked", ranked)
    write_json({"few": {"options": {"num_beams": 10}, "metrics": {}, "hits": [], "rows": 2, "seconds": 1.0}},
               tmp_path / "rankings.json")  # of an older version
    run = write_run_spec(tmp_path, RunSpec("TIGER", "TIGER", TINY, 1))
    for name in ("first.pth", "first.pth", "second.pth"):
        result = {"checkpoint": name, "settings": {"topk": [10]}, "test_detail": {"text": {}}}
        write_json({"test_result": {}, **result}, tmp_path / "result.json")
        assert rankings.rank_with(Run(run.folder), {"few": {"num_beams": 10}})["few"].metrics == {"hit@10": 0.5}
    assert loaded == ["first.pth", "second.pth"]


def test_rows_with_other_topk_are_compared_in_their_common_metrics(arguments):
    argv = [*arguments[:2], f"{arguments[2]}-topk", "--valid_metric=NDCG@5", "--show_progress=False"]
    rows = {"Pop": {"model": "Pop", "topk": [5, 10]}, "EASE": {"model": "EASE", "topk": [5]}}
    _, result, _ = study(argv, kind="variants", variants=rows)
    assert result["columns"] == ["", "hit@5", "hit@5 std", "ndcg@5", "ndcg@5 std"]
    assert {row[0] for row in result["rows"]} == {"Pop", "EASE"}


def test_collisions_and_code_distribution_need_no_training(arguments):
    argv = [word for word in arguments if not word.startswith("--epochs")] + ["--epochs=0"]
    argv = [word + "-ids" if word.startswith("--output") else word for word in argv]
    folder, result, figures = study(argv, kind="collisions", models=["MQL4GRec", "MACRec"])
    assert figures == ["collisions"] and len(result["rows"]) == 4
    for run in open_comparison(folder).runs:
        for modality, raw in run.codes["raw_codes"].items():
            (row,) = [row for row in result["rows"] if row[:2] == [run.spec.label, modality]]
            assert row[2] == pytest.approx(1 - len(np.unique(raw, axis=0)) / ITEMS)
    folder, result, figures = study(argv, kind="code_distribution", models=["MQL4GRec", "MACRec"], layer=1, bucket=3)
    assert figures == ["codes-image", "codes-text"]
    run = open_comparison(folder).of(TINY, "MACRec")[0]
    expected = [sum(code // 3 == b for code in run.codes["raw_codes"]["text"][:, 1]) for b in range(3)]
    assert bucket_counts(run, "text", 1, 3) == expected and sum(expected) == ITEMS
    rows = [row for row in result["rows"] if row[:2] == ["MACRec", "text"]]
    assert [row[2] for row in rows] == ["0-2", "3-5", "6-8"] and [row[3] for row in rows] == expected


def test_variants_and_sweeps(arguments):
    argv = [word + "-variants" if word.startswith("--output") else word for word in arguments]
    content = {"full": {}, "w/o explicit": {"explicit_alignment": False}}
    folder, result, figures = study(argv, kind="variants", model="MACRec", variants=content)
    assert figures == ["collisions", "metrics"] and [row[0] for row in result["rows"]] == ["full", "w/o explicit"]
    assert open_comparison(folder).pairs == [("full", "w/o explicit")]
    without = open_comparison(folder).of(TINY, "w/o explicit")[0]
    assert without.folder.parent.name == "w-o-explicit" and without.result["settings"]["explicit_alignment"] is False
    argv = [word + "-sweeps" if word.startswith("--output") else word for word in arguments]
    folder, result, figures = study(
        argv, kind="sweeps", model="MACRec", sweeps={"codebook_size": [6, 8], "first_con_layer": [0, 1, 2]}
    )
    assert figures == ["codebook_size", "first_con_layer"]
    assert [row[:2] for row in result["rows"]] == [
        ["codebook_size", "6"], ["codebook_size", "8 (default)"], ["first_con_layer", "0"], ["first_con_layer", "1 (default)"],
    ]  # fmt: skip
    assert len(open_comparison(folder).runs) == 3
    size = open_comparison(folder).of(TINY, "codebook_size=6")[0]
    assert size.result["settings"]["codebook_size"] == 6 and user_values(size.ranks.ranks, "hit@10").mean() == pytest.approx(
        result["rows"][0][2], abs=1e-4
    )


def test_options_that_variants_set_themselves_are_named(arguments, capsys, monkeypatch):
    monkeypatch.setattr(study_command, "compare", lambda *args: 0)  # no runs
    content = {"a": {"epochs": 0}, "b": {"epochs": 1}, "c": {}, "d": {"epochs": 0, "num_beams": 20}}
    Path("own.yaml").write_text(yaml.safe_dump({"kind": "variants", "model": "TIGER", "variants": content}))
    others = [word for word in arguments if not word.startswith("--output=")]
    assert main(["study", "own.yaml", *others, "--output=own"]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if "has no effect" in line]
    assert sorted(printed) == [
        "epochs=1 has no effect on a, d: the study sets epochs there.",
        "num_beams=10 has no effect on d: the study sets num_beams there.",
    ]


@pytest.mark.parametrize("words", [[], ["--models=BPR,EASE"], ["--models=BPR"]])
def test_the_pairs_of_a_study_stay_with_fewer_rows(words, monkeypatch):
    """``publish`` tests them with the other published rows."""
    compared = []
    monkeypatch.setattr(study_command, "compare", lambda matrix, *args: compared.append(matrix) or 0)
    models = ["Pop", "BPR", "EASE"]
    content = {"kind": "groups", "by": "target_count", "bounds": [0], "models": models, "pairs": [models[1:]]}
    Path("own.yaml").write_text(yaml.safe_dump(content))
    assert main(["study", "own.yaml", "--output=own", *words]) == 0
    assert compared[0].pairs == [("BPR", "EASE")]


def test_the_time_limit_is_for_all_datasets(monkeypatch):
    now, limits = [0.0], []

    def compare(matrix, output, jobs, minutes, *others):
        limits.append(minutes)
        now[0] += 240
        return 0

    monkeypatch.setattr(study_command, "compare", compare)
    monkeypatch.setattr(study_command.time, "monotonic", lambda: now[0])
    Path("own.yaml").write_text(yaml.safe_dump({"kind": "variants", "models": ["Pop", "BPR"]}))
    for minutes in (7, 3):
        assert main(["study", "own.yaml", "--datasets=arts-toy,ml-100k", "--output=out", f"--minutes={minutes}"]) == 0
    assert limits == [7, 3, 3, 0]


def test_a_dataset_keeps_its_folder_when_others_are_added(tmp_path):
    assert study_folder(tmp_path, "a", alone=True) == tmp_path
    assert study_folder(tmp_path, "a", alone=False) == tmp_path / "a"
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "b" / "tune" / "b").mkdir(parents=True)
    (tmp_path / "b" / "compare.json").touch()
    for alone in (True, False):
        assert study_folder(tmp_path, "a", alone) == tmp_path and study_folder(tmp_path, "b", alone) == tmp_path / "b"
    with pytest.raises(UserError, match=f"expected one of the comparisons in it: {tmp_path / 'b'}"):
        open_comparison(tmp_path)


def test_a_failed_model_prevents_only_its_own_fusions(tmp_path, monkeypatch):
    comparison = planted_comparison(tmp_path, ["Pop", "BPR", "EASE"], failed=["EASE"])
    content = definition("variants", models=["Pop", "BPR", "EASE"], fusions=[["Pop", "BPR"], ["Pop", "EASE"]])
    fused = []
    monkeypatch.setattr(study_command, "fuse", lambda folder, labels, data_path: fused.append(labels))
    monkeypatch.setattr(study_command, "write_and_print_tables", lambda comparison: 0)
    (tmp_path / "runs" / TINY / "BPR" / "seed-1" / "result.json").rename(tmp_path / "result.json")
    study_command._fuse_finished(open_comparison(tmp_path), content)
    assert fused == []
    (tmp_path / "result.json").rename(tmp_path / "runs" / TINY / "BPR" / "seed-1" / "result.json")
    study_command._fuse_finished(comparison, content)
    assert fused == [["Pop", "BPR"]]


@pytest.mark.parametrize("waiting, failed, written", [
    ([], [], True), (["BPR"], [], False), ([], ["EASE"], True), (["BPR"], ["EASE"], False), ([], ["Pop", "BPR", "EASE"], False),
])  # fmt: skip
def test_a_study_has_no_table_while_a_run_is_waiting_or_if_all_failed(waiting, failed, written, tmp_path, monkeypatch):
    """It then continues with its next dataset."""
    labels, run = ["Pop", "BPR", "EASE"], []

    def compare(matrix, output, *others):
        run.extend(matrix.datasets)
        planted_comparison(output, labels, failed)
        for label in waiting:
            (run_folder(output, TINY, label, 1) / "result.json").unlink()
        return 0

    monkeypatch.setattr(study_command, "compare", compare)
    Path("own.yaml").write_text(yaml.safe_dump({"kind": "variants", "models": labels}))
    assert main(["study", "own.yaml", "--datasets=arts-toy,ml-100k", f"--output={tmp_path}"]) == 0
    assert run == ["arts-toy", "ml-100k"]
    assert {(tmp_path / dataset / "study.json").is_file() for dataset in run} == {written}


def test_nothing_runs_if_one_of_the_datasets_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study_command, "compare", None)
    assert main(["study", "collisions", "--datasets=arts-toy,nosuch", f"--output={tmp_path}"]) == 1
    assert "nosuch does not exist" in capsys.readouterr().err


def test_the_command_names_settings_of_the_study_that_it_replaces(monkeypatch, capsys):
    monkeypatch.setattr(study_command, "_run", lambda *arguments: 0)
    assert main(["study", "collisions", "--epochs=3", "--output=out"]) == 0
    assert capsys.readouterr().out == "epochs=3 replaces epochs=0 of the study.\n"


def test_the_default_of_a_sweep_can_be_set_by_the_protocol_or_not_at_all(monkeypatch):
    def labels() -> list[str]:
        own = definition("sweeps", model="SASRec", sweeps={"exclude_seen": [False, True]})
        return [variant.label for variant in variants_of(own, [], "arts-toy", {"data_path": DATA_PATH})]

    assert labels() == ["default", "exclude_seen=True"]
    monkeypatch.setattr(study_command, "default_values", lambda *arguments: {})
    assert labels() == ["default", "exclude_seen=False", "exclude_seen=True"]


def test_table_of_a_study_as_json_and_markdown():
    """In JSON a mean and its deviation over the seeds have two columns, in Markdown one cell."""
    rows = [["a|b", 3, Spread(0.25, 0.125), 0.5], ["c", None, Spread(None, None), None]]
    result = StudyResult(["", "users", "hit@10", "published"], rows)
    record = result.record()
    assert record["columns"] == ["", "users", "hit@10", "hit@10 std", "published"]
    assert record["rows"] == [["a|b", 3, 0.25, 0.125, 0.5], ["c", None, None, None, None]]
    assert StudyResult.of_record(json.loads(json.dumps(record))) == result
    lines = as_markdown(result, "t").splitlines()[2:]
    assert [lines[0], *lines[2:]] == [
        "|  | users | hit@10 | published |", "| a\\|b | 3 | 0.2500 ± 0.1250 | 0.5000 |", "| c |  |  |  |",
    ]  # fmt: skip


def test_code_distribution_of_codebooks_of_different_sizes(tmp_path, monkeypatch):
    comparison = planted_comparison(tmp_path, ["large", "small"], failed=[])
    for run in comparison.runs:
        write_json({"semantic_ids": {"text": {}}, "test_result": {}}, run.folder / "result.json")
    counts = {"large": [3.0, 0.0, 1.0, 2.0], "small": [5.0, 1.0]}
    monkeypatch.setattr(kinds, "bucket_counts", lambda run, *arguments: counts[run.spec.label])
    result = kinds.code_distribution(comparison, definition("code_distribution", models=["TIGER"], layer=0, bucket=2))
    assert [[*row[:3], row[3].mean] for row in result.rows] == [
        ["large", "text", "0-1", 3.0], ["large", "text", "2-3", 0.0], ["large", "text", "4-5", 1.0],
        ["large", "text", "6-7", 2.0], ["small", "text", "0-1", 5.0], ["small", "text", "2-3", 1.0],
    ]  # fmt: skip
    assert result.figures["codes-text"].ticks == ["0-1", "2-3", "4-5", "6-7"]


def planted_comparison(folder: Path, labels: list[str], failed: list[str]) -> Comparison:
    """A comparison whose runs are finished, except for the labels ``failed``."""
    write_json({"format": 1, "labels": labels, "datasets": [TINY], "seeds": [1], "pairs": []}, folder / "compare.json")
    for label in labels:
        run = write_run_spec(run_folder(folder, TINY, label, 1), RunSpec(label, "MACRec", TINY, 1))
        name = "failure.json" if label in failed else "result.json"
        settings = {"codebook_levels": 4}
        write_json({"error": "x", "test_result": {"hit@10": 0.5}, "settings": settings, "semantic_ids": {}}, run.folder / name)
    return open_comparison(folder)


@pytest.mark.parametrize("failed, expected", [
    ("default", [["size", "8"], ["first_con_layer", "0"]]),
    ("size=8", [["size", "9 (default)"], ["first_con_layer", "0"], ["first_con_layer", "1 (default)"]]),
])  # fmt: skip
def test_a_sweep_leaves_out_values_whose_runs_failed(failed, expected, tmp_path):
    comparison = planted_comparison(tmp_path, ["default", "size=8", "first_con_layer=0"], [failed])
    swept = {"size": [8, 9], "first_con_layer": [0, 1, 4]}
    result = kinds.sweeps(comparison, definition("sweeps", model="TIGER", sweeps=swept))
    assert [row[:2] for row in result.rows] == expected


@pytest.mark.parametrize("settings, way, message", [
    ({}, {"decod": "beam"}, "'decod'"),
    ({}, {"decode": "Exact"}, "decode is 'Exact'; expected"),
    ({}, {"num_beams": "many"}, "num_beams is 'many'; expected"),
    ({}, {"decode": "fused"}, "decode is fused, which needs dense_head: True"),
    ({"tokenizations": 2}, {"fusion": "official"}, "2 tokenizations are ranked and fusion is official"),
])
def test_ways_of_ranking_are_checked_before_the_models_are_trained(settings, way, message):
    content = definition("rankings", models=["MACRec"], rankings={"first": {}, "a": way}, settings=settings)
    variants = variants_of(content, content.models, "arts-toy", {"data_path": DATA_PATH, **settings})
    with pytest.raises(UserError, match=f"The ranking a of the study: .*{message}"):
        check_table(content, variants, "arts-toy", {"data_path": DATA_PATH, **settings})


def test_a_study_chooses_the_weight_of_the_dense_head(arguments):
    """A training with another decode chooses none. Several tokenizations are not several modalities."""
    argv = [word for word in arguments if not word.startswith("--modalities")]
    argv = [word + "-dense" if word.startswith("--output") else word for word in argv]
    ways = {"certified": {}, "fused": {"decode": "fused"}, "mean": {"fusion": "mean"}}
    settings = {"dense_head": True, "network": "decoder_only", "training": "per_user", "decode": "certified",
                "modalities": ["text"], "tokenizations": 2}
    folder, result, _ = study(argv, kind="rankings", variants={"TIGER": {"model": "TIGER"}}, rankings=ways, settings=settings)
    assert [row[1] for row in result["rows"]] == ["certified", "fused"]
    (run,) = open_comparison(folder).runs
    _, model, _, _, valid, test = load_data_and_model(str(run.folder / run.result["checkpoint"]))
    fused = model.with_ranking(decode="fused")
    assert fused.dense_head.share == 0.5
    choose_dense_share(fused, valid, "NDCG@10")
    assert fused.dense_head.share != 0.5
    config = fused.config
    expected = get_trainer(config["MODEL_TYPE"], config["model"])(config, fused).evaluate(test, load_best_model=False)
    assert result["rows"][1][2] == pytest.approx(expected["hit@10"])


def test_rankings_leave_out_models_whose_runs_failed(tmp_path, monkeypatch):
    ranked = rankings.RankingResult({}, {"hit@10": 0.5}, [0], 2, 1.0)
    monkeypatch.setattr(kinds, "rank_with", lambda run, ways, data_path: dict.fromkeys(ways, ranked))
    comparison = planted_comparison(tmp_path, ["TIGER", "MACRec"], ["TIGER"])
    result = kinds.rankings(comparison, definition("rankings", models=["TIGER"], rankings={"a": {}, "b": {}}))
    assert [row[:2] for row in result.rows] == [["MACRec", "a"], ["MACRec", "b"]]


def test_study_with_published_values_shows_results_and_progress(arguments):
    argv = [word + "-published" if word.startswith("--output") else word for word in arguments]
    content = {"kind": "published", "models": ["SASRec", "TIGER"], "published": {TINY: {"TIGER": {"hit@10": 0.25}}},
               "fusions": [["SASRec", "TIGER"], ["TIGER", "MACRec"]]}  # fmt: skip
    folder, result, figures = study([*argv, "--minutes=0.0001"], **content)
    assert figures == ["published-hit-10"]
    assert [row[1:3] for row in result["rows"]] == [["unfinished: 0.333 of 1 epochs", None], ["unfinished: not started", None]]
    folder, result, _ = study(argv, **content)
    ours, theirs, fused = (dict(zip(result["columns"], row)) for row in result["rows"])
    assert fused[""] == "SASRec + TIGER" and fused["trained"] == "" and fused["hit@10"] is not None
    assert "SASRec + TIGER" in (folder / "table.json").read_text()
    run = open_comparison(folder).of(TINY, "TIGER")[0]
    assert theirs["trained"] == "1 epochs" and theirs["published hit@10"] == 0.25 and ours["published hit@10"] is None
    assert theirs["hit@10"] == run.result["test_result"]["hit@10"] and ours["hit@10 of IDs"] is None
    assert theirs["hit@10 of IDs"] == pytest.approx(user_values(run.ranks.id_ranks["fused"], "hit@10").mean(), abs=1e-4)


def test_selected_variants_of_several_models(tmp_path):
    content = {"kind": "published", "variants": {"Pop": {"model": "Pop"}, "TIGER (image)": {"model": "TIGER", "d_model": 8}}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    read = read_study(str(tmp_path / "own.yaml"))
    image = Variant("TIGER (image)", "TIGER", {"d_model": 8})
    assert variants_of(read, [], TINY, {}) == [Variant("Pop", "Pop"), image]
    assert variants_of(read, ["TIGER (image)", "SASRec"], TINY, {}) == [image, Variant("SASRec", "SASRec")]
    with pytest.raises(UserError, match="'TIGER .imgae.', which is no row of the study. Did you mean 'TIGER .image.'"):
        variants_of(read, ["TIGER (imgae)"], TINY, {})
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"kind": "published", "variants": {"Pop": {}}}))
    with pytest.raises(UserError, match="that each have a 'model'"):
        read_study(str(tmp_path / "own.yaml"))


@pytest.mark.parametrize(("lines", "message"), [
    ("kind: variants\nmodels: Pop", "models is 'Pop'; expected a list of names"),
    ("kind: variants\nvariants: {Pop: 3}", "variants is .'Pop': 3.; expected a dictionary of dictionaries"),
    ("kind: variants\nmodels: [Pop]\nsettings:", "settings is None; expected a dictionary"),
    ("kind: sweeps\nmodel: Pop\nsweeps: {topk: 5}", "sweeps is .'topk': 5.; expected a dictionary of lists"),
    ("kind: beams\nmodels: [TIGER]", "'beams' is missing, which a study of kind beams needs"),
    ("kind: variants\nmodels: [Pop, BPR]\npairs: [Pop, BPR]", "pairs is .'Pop', 'BPR'.; expected a list of lists of two rows"),
    ("kind: variants\nmodels: [Pop, BPR]\nfusions: [[Pop, BPRR]]", "fusions names 'BPRR', which is neither a row .* 'BPR'"),
    ("kind: variants\nmodel: TIGER", "expected 'models', 'model' with 'variants' or 'sweeps'"),
    ("kind: variants\nvariants: {}", "expected 'models', 'model' with 'variants' or 'sweeps'"),
    ("kind: groups\nmodels: [Pop]\nby: count\nbounds: [0]", "by is 'count'; expected target_count or history_length"),
    ("kind: groups\nmodels: [Pop]\nby: target_count\nbounds: [20, 5, 0]", "bounds is .20, 5, 0.; expected ascending numbers"),
    ("kind: sweeps\nmodel: BPR\nsweeps: {seed: [1, 2]}", "own.yaml sets seed, which --seeds names here"),
    ("kind: variants\nmodells: [Pop]", "Unknown option 'modells'. Did you mean 'models'"),
    ("kind: published\nmodels: [Pop]\npublished: {a: {Pop: {hit@10: x}}}", "expected figures by dataset, row and metric"),
])  # fmt: skip
def test_a_study_file_with_wrong_values_is_refused(tmp_path, lines, message):
    (tmp_path / "own.yaml").write_text(lines)
    with pytest.raises(UserError, match=message):
        read_study(str(tmp_path / "own.yaml"))


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["published"], "no published results on arts-toy"),
        (["ablatoin"], "Did you mean 'ablation'?"),
        (["ablation", "--models=SASRec"], "leave --models out"),
        (["own.yaml"], "kind is 'guess'; expected variants, collisions"),
        (["rows.yaml"], "The rows 'Pop: a' and 'Pop/ a' have the same folder Pop-a; rename one."),
        (["sweep.yaml"], "Unknown option 'd_modle' in the sweeps of the study sweep. Did you mean 'd_model'?"),
        (["ranking", "--models=SASRec"], "SASRec has no beam search; choose generative models"),
        (["beam_vs_exact", "--topk=[20]", "--valid_metric=NDCG@20"], "beams has 10, below the largest topk 20"),
        (["metrics.yaml"], "table has Hit@10, hit@3, which is not computed for Pop (it has hit@1, hit@5, hit@10, ndcg@1, "),
        (["quantizers", "--topk=[10,20]"], "table has hit@1, hit@5, ndcg@5, which is not computed for TIGER (rqvae)"),
        (["ablation", "--datasets=,"], "--datasets names no dataset"),
        (["pairs.yaml"], "pairs names 'EASI', which is neither a row of the study nor a model. Did you mean 'EASE'?"),
        (["collisions", "--models=SASRec,Pop"], "about semantic IDs, which SASRec and Pop do not have; name other --models."),
    ],
)
def test_user_errors_are_one_line(argv, expected, capsys):
    Path("own.yaml").write_text("kind: guess\n")
    Path("rows.yaml").write_text("kind: variants\nmodel: Pop\nvariants: {'Pop: a': {}, 'Pop/ a': {}}\n")
    Path("sweep.yaml").write_text("kind: sweeps\nmodel: TIGER\nsweeps: {d_modle: [8]}\n")
    Path("metrics.yaml").write_text("kind: published\nmodels: [Pop]\nmetrics: [Hit@10, hit@3, ndcg@10]\n")
    Path("pairs.yaml").write_text("kind: variants\nmodels: [Pop, BPR]\npairs: [[Pop, EASI]]\n")
    assert main(["study", *argv, "--output=out"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and expected in error


def test_the_study_of_table_2_runs_on_a_small_dataset(tmp_path):
    """With two of its models and tuning; there are no published results on the dataset."""
    data_path = write_planted(tmp_path / "data")
    argv = [
        "study",
        "mmgrec_table2",
        f"--datasets={NAME}",
        f"--data_path={data_path}",
        "--models=VBPR,Pop",
        "--tune=2",
        "--epochs=2",
        "--eval_step=1",
        f"--output={tmp_path / 'out'}",
        "--embedding_size=8",
    ]
    assert main([*argv, "--minutes=0"]) == 0
    assert not (tmp_path / "out" / "study.json").exists()
    assert main(argv) == 0
    study_result = json.loads((tmp_path / "out" / "study.json").read_text())
    assert [name for name in study_result["columns"] if "std" not in name] == [
        "",
        "trained",
        *read_study("mmgrec_table2").metrics,
    ]
    rows = {row[0]: dict(zip(study_result["columns"], row)) for row in study_result["rows"]}
    for run in open_comparison(tmp_path / "out").runs:
        assert run.result["settings"]["eval_args"]["split"] == {"RS": [0.8, 0.1, 0.1]}
        for metric, value in run.result["test_result"].items():
            assert rows[run.spec.label][metric] == pytest.approx(value)
    tries = {path.name for path in (tmp_path / "out" / "tune").glob("*/VBPR/try-*")}
    assert tries == {"try-000", "try-001"}


def test_published_values_of_table_2_are_complete():
    content = read_study("mmgrec_table2")
    compared = set(content.variants) - {"Pop", "BPR"}
    for figures in content.published.values():
        assert set(figures) == compared and all(set(row) == {"recall@10", "ndcg@10"} for row in figures.values())
