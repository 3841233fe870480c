"""Published results: small JSON files without paths, and the page that is generated from them."""
import importlib.util
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, write_tiny_dataset

from recbole_macrec.benchmark.__main__ import main
from recbole_macrec.benchmark.compare import run_command as command_line
from recbole_macrec.benchmark.compare.publish import (
    published_record,
    published_study,
    published_tests,
    published_tries,
    tries_chosen_from,
)
from recbole_macrec.benchmark.compare.ranks import TargetRanks
from recbole_macrec.benchmark.compare.run_files import write_json
from recbole_macrec.benchmark.compare.runs import RunSpec, file_name, open_comparison, write_run_spec
from recbole_macrec.benchmark.compare.statistics import RowMetrics
from recbole_macrec.benchmark.study.study import parse, read_study, variants_of
from recbole_macrec.config.options import check_options

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def builder():
    spec = importlib.util.spec_from_file_location("build_results", DOCS / "build_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def published(tmp_path, capsys) -> tuple[Path, dict]:
    """The folder with the published file of one run, and the result of that run."""
    data_path = write_tiny_dataset(tmp_path / "data")
    argv = ["compare", "--models=SASRec", f"--datasets={TINY}", f"--data_path={data_path}", "--epochs=2", "--hidden_size=8",
            "--inner_size=8", f"--output={tmp_path / 'out'}"]
    assert main(argv) == 0
    assert main(["publish", str(tmp_path / "out"), f"--to={tmp_path / 'results'}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "results" / TINY / "SASRec-seed-2020.json")
    return tmp_path / "results", open_comparison(tmp_path / "out").runs[0].result


def test_published_file_has_results_but_no_paths(published, tmp_path):
    folder, record = published
    (file,) = folder.rglob("*.json")
    content = json.loads(file.read_text())
    for name in ("model", "dataset", "seed", "test_result", "epochs", "seconds", "commit"):
        assert content[name] == record[name]
    assert content["machine"] == record["hardware"] and content["settings"]["epochs"] == 2
    assert content["command"].startswith(
        f"python run_recbole_macrec.py --model=SASRec --dataset={TINY} --data_path=data --seed=2020 "
    )
    assert "--hidden_size=8" in content["command"]
    cpu = [entry["cpu_seconds"] for entry in content["curve"]]
    assert len(cpu) == 2 and min(cpu) > 0 and content["seconds"]["cpu"] >= sum(cpu)
    assert str(tmp_path) not in file.read_text()


def test_published_command_runs_on_other_devices_and_with_the_model_option_output(tmp_path):
    settings = {"data_path": str(tmp_path), "gpu_id": "0", "output": "trie", "epochs": 2}
    run = write_run_spec(tmp_path / "run", RunSpec("TIGER", "TIGER", TINY, 1, settings))
    write_json({"test_result": {}, "hardware": {}}, run.folder / "result.json")
    record = published_record(run)
    assert record["settings"] == {"output": "trie", "epochs": 2}
    first, _, command = record["command"].partition(" && ")
    assert first == "echo 'output: trie' > output.yaml"
    Path("output.yaml").write_text("output: trie\n")
    args, settings = command_line.parse(shlex.split(command)[2:])
    assert args.model == "TIGER" and args.output is None and args.config_files == "output.yaml"
    assert settings == {"data_path": "data", "seed": 1, "epochs": 2}


def test_published_command_has_no_options_of_other_models(tmp_path):
    run = write_run_spec(tmp_path / "run", RunSpec("VBPR", "VBPR", TINY, 1, {"d_model": 8, "embedding_size": 4, "epochs": 2}))
    write_json({"test_result": {}, "hardware": {}}, run.folder / "result.json")
    record = published_record(run)
    assert record["settings"] == {"embedding_size": 4, "epochs": 2} and "d_model" not in record["command"]


def test_the_published_command_of_a_study_runs():
    options = {"models": "TIGER,TIGER (image)", "seeds": "2", "tune": 3, "topk": [5, 10], "encoders": "1"}
    record = published_study({"name": "own", "file": "my studies/own.yaml", "dataset": TINY, "options": options})
    args, settings = parse(shlex.split(record["command"])[4:])
    assert (args.name, args.models, args.seeds, args.tune) == ("my studies/own.yaml", "TIGER,TIGER (image)", "2", 3)
    assert settings == {"data_path": "data", "topk": [5, 10], "encoders": "1"}


def test_page_shows_the_published_results(published, builder):
    folder, record = published
    records = builder.read_records(folder)
    text = builder.page(records, builder.read_studies(records))
    row = next(line for line in text.partition(f"## {TINY}\n")[2].splitlines() if line.startswith("| SASRec | "))
    assert f"{record['test_result']['hit@10']:.4f}" in row and f"{record['test_result']['ndcg@10']:.4f}" in row


def test_page_shows_published_figures_beside_those_by_id(builder):
    records = builder.read_records(DOCS / "results")
    studies = builder.read_studies(records)
    studies["published"].published["Instruments"]["MACRec"] = {"hit@10": 0.5, "ndcg@10": 0.25}
    assert "| 0.5000 | 0.2500 |" in builder.page([r for r in records if r["study"] == "published"], studies)


def test_rows_are_in_descending_order_of_the_validation_metric(builder):
    """The settings of a fusion do not name it. Rows without it are the last ones."""
    metrics, settings = ({"ndcg@20": 0.1}, {"ndcg@20": 0.2}, {"ndcg@10": 0.9}), {"valid_metric": "NDCG@20"}
    records = [{"label": label, "settings": own, "test_result": result}
               for label, own, result in zip(("A + B", "A", "B"), ({}, settings, settings), metrics)]
    assert list(builder.by_label(records)) == ["A", "A + B", "B"]


def test_results_in_the_folder_of_another_study_have_its_metrics(published, builder):
    folder, record = published
    (file,) = folder.rglob("*.json")
    (folder / "mmgrec_table2").mkdir()
    file.parent.rename(folder / "mmgrec_table2" / TINY)
    records = builder.read_records(folder)
    text = builder.page(records, builder.read_studies(records))
    assert f"Models of MMGRec's Table 2: {TINY}\n" in text and "| model | recall@10 | ndcg@10 | recall@20 |" in text


def test_the_table_of_a_study_shows_rows_of_another_dataset(published, builder, monkeypatch):
    folder, _ = published
    (folder / "mmgrec_table2_leave_one_out").mkdir()
    shutil.copytree(folder / TINY, folder / "mmgrec_table2_leave_one_out" / f"{TINY}-rebuilt")
    (file,) = (folder / "mmgrec_table2_leave_one_out").rglob("*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"label": "General", "dataset": f"{TINY}-rebuilt"}))
    monkeypatch.setitem(builder.BESIDE, ("mmgrec_table2_leave_one_out", f"{TINY}-rebuilt"), (TINY, ("SASRec", "not run")))
    records = builder.read_records(folder)
    text = builder.page(records, builder.read_studies(records))
    _, _, section = text.partition(f"with leave-one-out: {TINY}-rebuilt\n")
    table = section.partition("### By item")[2].partition("###")[0]
    assert f"the runs of [{TINY}](#{TINY.lower()})" in table and "| General | " in table and "| SASRec | " in table
    training = section.partition("### Training")[2].partition("###")[0]
    assert "| General | " in training and "| SASRec | " not in training


def test_tries_of_a_tuning(published, builder, tmp_path):
    """Finished tries have their scores, and one that was stopped has its validations so far."""
    folder, record = published
    run = open_comparison(tmp_path / "out").runs[0]
    tries = tmp_path / "tuned" / "tune" / TINY / "SASRec"
    for number, settings in enumerate([{}, {"dropout_prob": 0.3}, {"dropout_prob": 0.1}]):
        shutil.copytree(run.folder, tries / f"try-{number:03d}")
        spec = json.loads((run.folder / "run_spec.json").read_text())
        spec["settings"] |= settings
        (tries / f"try-{number:03d}" / "run_spec.json").write_text(json.dumps(spec))
    (tries / "try-001" / "result.json").unlink()
    (tries / "try-002" / "result.json").unlink()
    (tries / "try-002" / "curve.json").unlink()
    assert main(["publish", str(tmp_path / "tuned"), f"--to={folder}"]) == 0
    (tuning,) = builder.read_all(folder / "tries")
    assert [entry["settings"] for entry in tuning["tries"]] == [{}, {"dropout_prob": 0.3}, {"dropout_prob": 0.1}]
    assert str(tmp_path) not in json.dumps(tuning)
    assert len(builder.read_records(folder)) == 1
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in builder.tries_section(tuning).splitlines()[-3:]]
    best = f"{record['best_valid_score']:.4f}"
    assert rows == [
        ["0", "default", best, f"{record['test_result']['ndcg@10']:.4f}", "2"],
        ["1", "0.3", best, "", ""],
        ["2", "0.1", "", "", ""],
    ]


def test_only_tries_that_a_row_was_chosen_from_are_published(published, builder, tmp_path):
    """Neither a later try nor an unfinished tuning of a model that is not in the comparison."""
    folder, _ = published
    run = open_comparison(tmp_path / "out").runs[0]
    own = run.spec.label
    for label, number in ((own, 0), (own, 1), ("other", 0)):
        place = tmp_path / "out" / "tune" / TINY / label / f"try-{number:03d}"
        shutil.copytree(run.folder, place)
        (place / "run_spec.json").write_text(json.dumps(json.loads((place / "run_spec.json").read_text()) | {"label": label}))
    chosen = {"settings": {}, "best_valid_score": 0.1, "scores": {"try-000": 0.1}}
    (tmp_path / "out" / "tune" / TINY / own / "best.json").write_text(json.dumps(chosen))
    assert main(["publish", str(tmp_path / "out"), f"--to={folder}"]) == 0
    (tuning,) = builder.read_all(folder / "tries")
    assert tuning["label"] == own and len(tuning["tries"]) == 1
    for place in (tmp_path / "out" / "tune" / TINY / own).glob("try-*"):  # to save the space of their checkpoints
        shutil.rmtree(place)
    assert main(["publish", str(tmp_path / "out"), f"--to={folder}"]) == 0
    assert builder.read_all(folder / "tries") == [tuning]


def test_the_settings_of_all_tries_are_those_of_the_first_one_although_it_failed(tmp_path):
    for number, drawn in enumerate([{}, {"n_layers": 1}, {"n_layers": 3}]):
        spec = RunSpec("SASRec", "SASRec", TINY, 1, {"epochs": 2, "data_path": str(tmp_path), **drawn})
        run = write_run_spec(tmp_path / f"try-{number:03d}", spec)
        write_json({"error": "x", "test_result": {}}, run.folder / ("result.json" if number else "failure.json"))
    write_json({"scores": {"try-001": 0.1, "try-002": 0.2}}, tmp_path / "best.json")
    record = published_tries(tries_chosen_from(tmp_path))
    assert record["settings"] == {"epochs": 2}
    assert [entry["settings"] for entry in record["tries"]] == [{"n_layers": 1}, {"n_layers": 3}]


def test_page_names_the_tries_and_the_chosen_settings_of_a_tuned_study(builder):
    tries = [{"settings": {}, "best_valid_score": 0.1}, {"settings": {"n_layers": 2}, "best_valid_score": 0.3},
             {"settings": {"n_layers": 3}, "best_valid_score": None}]  # fmt: skip
    text = builder.choices_section([{"label": "A", "tries": tries}, {"label": "B", "tries": tries[:1]}], "Recall@10")
    assert text.splitlines()[-2:] == ["| A | 0.1000, 0.3000 | n_layers=2 |", "| B | 0.1000 | default values |"]
    assert "highest Recall@10 on validation" in text


def test_page_shows_the_paired_tests_of_several_seeds(tmp_path, builder):
    data_path = write_tiny_dataset(tmp_path / "data")
    argv = ["compare", "--models=Pop,SASRec", f"--datasets={TINY}", f"--data_path={data_path}", "--epochs=1", "--hidden_size=8",
            "--inner_size=8", "--seeds=2", f"--output={tmp_path / 'out'}"]
    assert main(argv) == 0
    assert main(["publish", str(tmp_path / "out"), f"--to={tmp_path / 'results'}"]) == 0
    records, tests = builder.read_records(tmp_path / "results"), builder.read_tests(tmp_path / "results")
    assert len(records) == 4
    text = builder.page(records, builder.read_studies(records), tests=tests).partition("### Paired tests")[2]
    (table,) = json.loads((tmp_path / "out" / "table.json").read_text())["tables"]
    for test in table["tests"]:
        start = f"| {test['first']} | {test['second']} | {test['metric']} | "
        row = next(line for line in text.splitlines() if line.startswith(start))
        verdict = test["verdict"].replace("no difference", "no different")
        assert f"{test['difference']:+.4f}" in row and row.endswith(f"| {verdict} |")
    assert len(table["tests"]) == 2 and table["test_notes"][0] in text


def compare_and_publish(models: str, seeds: str, folder: Path, to: Path, data_path: str, *words: str) -> None:
    argv = ["compare", f"--models={models}", f"--datasets={TINY}", f"--data_path={data_path}", "--epochs=1", seeds, *words]
    assert main([*argv, f"--output={folder}"]) == 0
    assert main(["publish", str(folder), f"--to={to}"]) == 0


def test_paired_tests_of_rows_that_were_published_one_after_the_other(tmp_path, capsys):
    """Their tests equal those of one comparison of all rows, except for rows that were published without ranks."""
    data_path = write_tiny_dataset(tmp_path / "data")
    compare_and_publish("Pop,SASRec,GRU4Rec", "--seeds=2", tmp_path / "all", tmp_path / "together", data_path)
    compare_and_publish("Pop", "--seed=2020", tmp_path / "pop", tmp_path / "apart", data_path)
    compare_and_publish("Pop", "--seed=2021", tmp_path / "pop2", tmp_path / "apart", data_path)
    compare_and_publish("SASRec", "--seeds=2", tmp_path / "sasrec", tmp_path / "apart", data_path)
    apart, together = (tmp_path / folder / "tests" / f"{TINY}.json" for folder in ("apart", "together"))
    assert len(json.loads(apart.read_text())["tests"]) == 2
    (tmp_path / "apart" / TINY / "SASRec-seed-2021.npz").rename(tmp_path / "kept.npz")
    capsys.readouterr()
    compare_and_publish("GRU4Rec", "--seeds=2", tmp_path / "gru", tmp_path / "apart", data_path)
    assert "Not tested, because they were published without ranks: SASRec\n" in capsys.readouterr().out
    assert {test["first"] for test in json.loads(apart.read_text())["tests"]} <= {"Pop", "GRU4Rec"}
    (tmp_path / "kept.npz").rename(tmp_path / "apart" / TINY / "SASRec-seed-2021.npz")
    assert main(["publish", str(tmp_path / "gru"), f"--to={tmp_path / 'apart'}"]) == 0
    assert json.loads(apart.read_text()) == json.loads(together.read_text())
    (table,) = json.loads((tmp_path / "all" / "table.json").read_text())["tables"]
    own = {(t["first"], t["second"], t["metric"]): t for t in table["tests"]}
    published = {(t["first"], t["second"], t["metric"]): t for t in json.loads(apart.read_text())["tests"]}
    assert own == published and len(own) == 4


def test_paired_tests_follow_a_run_that_is_replaced(tmp_path):
    """They are computed again, or removed if the new run has no ranks."""
    data_path, to = write_tiny_dataset(tmp_path / "data"), tmp_path / "to"
    compare_and_publish("Pop,SASRec", "--seeds=2", tmp_path / "both", to, data_path)
    file = to / "tests" / f"{TINY}.json"
    before = file.read_text()
    compare_and_publish("GRU4Rec", "--seed=2021", tmp_path / "other", to, data_path)
    assert file.read_text() == before
    compare_and_publish("SASRec", "--seed=2021", tmp_path / "again", to, data_path, "--learning_rate=0.1")
    after = json.loads(file.read_text())
    assert {(test["first"], test["second"]) for test in json.loads(before)["tests"]} == {("Pop", "SASRec")}
    assert after == published_tests(to / TINY, [2020, 2021], [("Pop", "SASRec")]) != json.loads(before)
    (to / TINY / "SASRec-seed-2020.npz").unlink()
    assert main(["publish", str(tmp_path / "again"), f"--to={to}"]) == 0
    assert not file.exists()


def test_published_ranks_give_the_published_metrics(published):
    folder, record = published
    (file,) = folder.rglob("*.npz")
    ranks = TargetRanks.load(file)
    assert ranks.ranks.max() <= 10
    metrics = {name: value for name, value in record["test_result"].items() if name.partition("@")[0] in ("hit", "ndcg")}
    values = RowMetrics.of(ranks, list(metrics)).values
    assert {name: values[name].mean() for name in metrics} == pytest.approx(metrics, abs=5e-5) and metrics


def test_page_shows_collisions_and_reconstruction_of_learnt_ids(builder):
    records = builder.read_records(DOCS / "results")
    (record,) = (r for r in records if (r["dataset"], r["label"], r["seed"]) == ("Instruments-rebuilt", "TIGER (cid)", 2020))
    assert "| TIGER (cid) | 2020 | text | 0.00% |  |" in builder.page([record], builder.read_studies([record]))
    record["semantic_ids"]["text"] |= {"collision_rate": 0.125, "reconstruction_error": 0.25}
    assert "| TIGER (cid) | 2020 | text | 12.50% | 0.2500 |" in builder.page([record], builder.read_studies([record]))


def test_page_shows_the_table_of_a_study_without_speed(builder):
    study = {"title": "Ways of ranking", "dataset": "Arts", "command": "the command", "commit": "1a2b"}
    study |= {"columns": ["", "hit@10", "users/s"], "rows": [["TIGER", 0.125, 70]]}
    lines = builder.page([], builder.read_studies([]), [], [study]).splitlines()
    assert "## Ways of ranking: Arts" in lines and "`the command`, commit 1a2b; see [Studies](studies.md)." in lines
    assert "| model | hit@10 |" in lines and "| TIGER | 0.1250 |" in lines


def table2_lines(text: str, dataset: str) -> list[list[str]]:
    """Cells of the rows of MACRec's Table 2 on ``dataset``."""
    table = text.partition(f"### Table 2 on {dataset}\n\n")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_table_2_shows_ours_beside_the_published_figures(published, builder):
    """The rows have runs on the released and on rebuilt features; a model without semantic IDs counts by item."""
    folder, record = published
    (file,) = folder.rglob("*.json")
    for dataset in ("Instruments", "Instruments-rebuilt"):
        (folder / dataset).mkdir()
        content = json.loads(file.read_text()) | {"dataset": dataset}
        (folder / dataset / "SASRec-seed-2020.json").write_text(json.dumps(content))
    records = builder.read_records(folder)
    text = builder.page(records, builder.read_studies(records))
    lines = table2_lines(text, "Instruments")
    start = [line[0] for line in lines].index("SASRec")
    theirs, ours, rebuilt = lines[start : start + 3]
    assert theirs == ["SASRec", "published", "0.0318", "0.0946", "0.1233", "0.0654", "0.0746"]
    figures = [f"{record['test_result'][metric]:.4f}" for metric in builder.METRICS]
    assert ours == ["", "ours", *figures] and rebuilt == ["", "ours, rebuilt features", *figures]
    assert ["", "not run here", *[""] * 5] in table2_lines(text, "Arts")
    commands = [line for line in text.splitlines() if line.startswith(("| Instruments |", "| Arts |"))]
    assert any("| Arts | SASRec | `python -m recbole_macrec.benchmark study published --datasets=Arts" in c for c in commands)
    assert not any(c.startswith("| Instruments | SASRec |") for c in commands)


def test_every_row_of_table_2_has_our_figure_or_a_command_that_runs(builder):
    records = builder.read_records(DOCS / "results")
    studies = builder.read_studies(records)
    text = builder.table2(records, studies)
    paper = ["BERT4Rec", "SASRec", "FDSA", "S3Rec", "MISSRec", "P5", "VIP5", "TIGER", "MQL4GRec", "MACRec"]
    for dataset in builder.TABLE2_DATASETS:
        assert [line[0] for line in table2_lines(text, dataset) if line[1] == "published"] == paper
        for label, plan in studies["macrec_table2"].rows.items():
            run = builder.table2_runs(records, plan["study"], dataset, label)
            assert run or f"| {dataset} | {label} | `{builder.table2_command(plan, dataset, label)}` | {plan['cost']} |" in text
    for label, plan in studies["macrec_table2"].rows.items():
        args, settings = parse(shlex.split(builder.table2_command(plan, "Arts", label))[4:])
        (variant,) = variants_of(read_study(args.name), [args.models], args.datasets, settings)
        check_options({**settings, **variant.settings}, [variant.model], "Arts", "the command")


def test_impossible_figures_of_table_2_are_marked(builder):
    """With one target per user, its rank is 1, 2 to 5, or 6 to 10, which bounds NDCG by the hit rates."""
    studies = builder.read_studies([])
    checked = 0
    for dataset, marks in studies["macrec_table2"].impossible.items():
        for label in studies["macrec_table2"].rows:
            figures = builder.published_figures(studies, dataset, label)
            assert set(marks.get(label, ())) <= set(figures)
            if set(figures) < set(builder.METRICS):
                continue
            hit1, hit5, hit10, ndcg5, ndcg10 = (figures[metric] for metric in builder.METRICS)
            bounds = {"ndcg@5": (hit1, hit5 - hit1, 2, 5, ndcg5), "ndcg@10": (ndcg5, hit10 - hit5, 6, 10, ndcg10)}
            broken = [
                metric
                for metric, (start, more, first, last, found) in bounds.items()
                if not start + more / np.log2(last + 1) - 1e-4 <= found <= start + more / np.log2(first + 1) + 1e-4
            ]
            marked = marks.get(label, [])
            assert (marked == ["hit@5"] and broken) if "hit@5" in marked else marked == broken  # hit@5 is part of both bounds
            checked += 1
    assert checked == 13
    text = builder.table2([], studies)
    assert ["MISSRec", "published", "0.0723", "0.1089", "0.1361", "0.0797†", "0.0880"] in table2_lines(text, "Instruments")
    assert sum(cell.endswith("†") for d in builder.TABLE2_DATASETS for line in table2_lines(text, d) for cell in line) == 11


def test_published_ranks_give_the_published_tests():
    """Of all files with tests whose rows were published with ranks."""
    checked = 0
    for file in DOCS.glob("results/**/tests/*.json"):
        record, folder = json.loads(file.read_text()), file.parents[1] / file.stem
        pairs = list(dict.fromkeys((test["first"], test["second"]) for test in record["tests"]))
        names = {file_name(label) for pair in pairs for label in pair}
        if all((folder / f"{name}-seed-{seed}.npz").is_file() for name in names for seed in record["seeds"]):
            again = published_tests(folder, record["seeds"], pairs)["tests"]
            assert len(again) == len(record["tests"])
            for own, published in zip(again, record["tests"]):
                assert own == pytest.approx(published)
            checked += 1
    assert checked


def test_results_page_is_up_to_date(builder):
    folder = DOCS / "results"
    records, others = builder.read_records(folder), [builder.read_all(folder / name) for name in ("tries", "studies")]
    others += [builder.read_tests(folder), builder.read_choices(folder)]
    page = builder.page(records, builder.read_studies(records), *others)
    assert (DOCS / "results.md").read_text(encoding="utf-8") == page
    for record in records:
        assert record["commit"] and record["machine"]["cores"] and record["seconds"]["cpu"] > 0


README_ROWS = {
    "BERT4Rec (RecBole's defaults)": "BERT4Rec", "BERT4Rec, best of 9 settings": "BERT4Rec (tuned)",
    "GRU4Rec (RecBole's defaults)": "GRU4Rec",
    "SASRec (RecBole's defaults), 3 seeds": "SASRec", "SASRec, best of 9 settings": "SASRec (tuned)",
    "SASRecPerUser (our SASRec, one pass per user), 3 seeds": "SASRecPerUser",
    "MISSRec (reads item features, here rebuilt ones)": "MISSRec (rebuilt features)", "TIGER on text, 3 seeds": "TIGER",
    "MQL4GRec": "MQL4GRec", "MACRec, 3 seeds": "MACRec",
    "MQL4GRec, wide network ‡": "Wide MQL4GRec", "MACRec, wide network ‡": "Wide MACRec",
    "SequentialEASE (a linear model)": "SequentialEASE",
    "SASRecPerUser + SequentialEASE (fusion), 3 seeds": "SASRecPerUser + SequentialEASE",
}  # fmt: skip


def test_the_table_of_the_readme_has_the_published_figures():
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    table = readme.partition("published, by ID |\n")[2].partition("\n\n")[0]
    lines = [[cell.strip().strip("*") for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]
    assert {line[0] for line in lines} == set(README_ROWS)
    records = [json.loads(file.read_text()) for file in (DOCS / "results" / "Instruments").glob("*.json")]
    for name, _, by_item, by_id, _ in lines:
        own = [record for record in records if record["label"] == README_ROWS[name]]
        assert len(own) == 3 or "3 seeds" not in name
        for shown, results in (
            (by_item, [record["test_result"] for record in own]),
            (by_id, [record["test_detail"]["fused"]["id"] for record in own] if by_id else []),
        ):
            if shown:
                means = [np.mean([result[metric] for result in results]) for metric in ("hit@10", "ndcg@10")]
                assert shown == " / ".join(f"{mean:.4f}" for mean in means), name
