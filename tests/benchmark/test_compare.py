"""``benchmark compare``: resuming a matrix of runs after a kill, and the contents of its folder."""
import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY, write_tiny_dataset
from filelock import FileLock
from helpers import as_words, histories_of, write_features
from small_models import SMALL

from recbole_macrec.benchmark.__main__ import main
from recbole_macrec.benchmark.compare import pool, run_callbacks
from recbole_macrec.benchmark.compare.comparison import write_matrix
from recbole_macrec.benchmark.compare.matrix import Matrix, Variant, parse_seeds
from recbole_macrec.benchmark.compare.ranking_collector import RankingCollector, full_rank
from recbole_macrec.benchmark.compare.run_callbacks import PauseAtDeadline
from recbole_macrec.benchmark.compare.run_files import write_json
from recbole_macrec.benchmark.compare.run_model import Request
from recbole_macrec.benchmark.compare.runs import Run, RunSpec, open_comparison, shown_epochs, write_run_spec
from recbole_macrec.benchmark.compare.statistics import user_values
from recbole_macrec.benchmark.compare.worker import Resources
from recbole_macrec.benchmark.fuse.command import fuse
from recbole_macrec.data.encoders.encoded_manifest import manifest_file
from recbole_macrec.data.features import FeatureTable, feature_paths
from recbole_macrec.errors import UserError
from recbole_macrec.trainer.callbacks import TEST
from recbole_macrec.trainer.epoch_checkpointer import Paused

ITEMS = 30


@pytest.fixture(scope="module")
def data_path(tmp_path_factory) -> Path:
    """The dataset ``tiny`` with features of two modalities, shared so that its semantic IDs are learnt once."""
    path = write_tiny_dataset(tmp_path_factory.mktemp("data"))
    write_features(path / TINY, "text", "image")
    return path


@pytest.fixture(scope="module")
def arguments(data_path) -> list[str]:
    own = ("learning_rate", "epochs", "modalities")
    settings = {**{k: v for k, v in SMALL.items() if k not in own}, "modalities": "['text','image']", "epochs": 4}
    settings |= {"max_modalities": 1, "learning_rate": 0.003, "semantic_id_seed": 1}
    return [f"--datasets={TINY}", f"--data_path={data_path}", *as_words(settings)]


def figures(folder: Path) -> list:
    """The tables without times and memory, and the figures of each run."""
    comparison = open_comparison(folder)
    assert not comparison.unfinished
    (table,) = json.loads((folder / "table.json").read_text())["tables"]
    rows = [
        {name: row["figures"][name] for name in [*table["metrics"], "parameters"]} | {"collisions": row["collisions"]}
        for row in table["rows"]
    ]
    return [rows, table["tests"], *map(run_figures, comparison.runs)]


def run_figures(run: Run) -> list:
    """The curve of a run without seconds, its ranks, and its metrics."""
    curve = [{name: value for name, value in entry.items() if "seconds" not in name} for entry in run.curve]
    return [curve, run.ranks.ranks.tolist(), run.result["test_result"], run.result["test_detail"]]


MODELS = "--models=BERT4Rec,TIGER"  # RecBole's trainer, and masks by Python's random numbers; ours


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory) -> Path:
    """A comparison that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(["compare", MODELS, "--seeds=2", f"--output={folder}", *arguments]) == 0
    return folder


def killed_in_second_epoch(argv: list[str], folder: Path) -> None:
    """Start a comparison, and kill this process when the run of ``folder`` has recorded two epochs."""

    def kill():
        while len(Run(folder).curve) < 2:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    main(argv)


def test_resumed_comparison_equals_an_uninterrupted_one(whole, arguments, tmp_path, process_pool):
    """The second run is killed; the first one has finished."""
    argv = ["compare", "--models=TIGER", "--seeds=2", "--output=killed", *arguments]
    folder = tmp_path / "killed" / "runs" / TINY / "TIGER" / "seed-2021"
    assert process_pool.exit_codes((killed_in_second_epoch, argv, folder)) == [-signal.SIGKILL]
    with FileLock(folder / ".lock"):  # its own process ends with the one that started it
        assert not Run(folder).finished
        seconds = Run(folder).curve[0]["seconds"]
    assert main(argv) == 0
    assert Run(folder).curve[0]["seconds"] == seconds  # the epoch trained before the kill, not a second one
    expected = open_comparison(whole).of(TINY, "TIGER")
    assert [run_figures(run) for run in open_comparison("killed").runs] == [run_figures(run) for run in expected]


def test_a_sampled_test_keeps_no_rankings_of_the_full_validation(arguments):
    mode = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": {"valid": "full", "test": "uni10"}}
    words = [word for word in arguments if not word.startswith("--epochs")] + ["--epochs=1", f"--eval_args={mode}"]
    assert main(["compare", "--models=TIGER", "--output=sampled", *words]) == 0
    (run,) = open_comparison("sampled").runs
    assert run.result["best_valid_result"]["hit@10"] > 0 and run.result["test_detail"] == {}
    assert run.ranks.item_ranks == {} and run.ranks.id_ranks == {}
    assert np.mean(run.ranks.ranks <= 10) == pytest.approx(run.result["test_result"]["hit@10"], abs=1e-4)


def test_finished_runs_are_not_repeated(whole, arguments):
    before = {run.folder: (run.folder / "result.json").stat().st_mtime_ns for run in open_comparison(whole).runs}
    assert main(["compare", MODELS, "--seeds=2", f"--output={whole}", *arguments]) == 0
    assert all((folder / "result.json").stat().st_mtime_ns == then for folder, then in before.items())


def test_every_call_makes_progress_within_any_time_limit(whole, arguments, capsys):
    """With a time limit of zero, a call trains one batch of the next run or evaluates it once. Two runs at the same time give
    the same results as one after the other."""
    argv = ["compare", MODELS, "--seeds=2", "--output=parts", *arguments]
    seen = []
    for _ in range(5):
        assert main([*argv, "--minutes=0.0001"]) == 0
        printed = capsys.readouterr()
        assert "4 of 4 runs are not finished" in printed.out and "1.0 of 4 runs" not in printed.err
        first, *others = open_comparison("parts").runs
        seen.append((first.progress.split(",")[0], [bool(entry["valid"]) for entry in first.curve]))
        assert {other.progress for other in others} == {"not started"}
    assert seen == [
        ("0.333 of 4 epochs", []), ("0.667 of 4 epochs", []), ("1 of 4 epochs", [False]), ("1.33 of 4 epochs", [True]),
        ("1.67 of 4 epochs", [True]),
    ]  # fmt: skip
    assert main([*argv, "--jobs=2"]) == 0
    assert figures(Path("parts")) == figures(whole)


def test_run_folder_contains_ranks_of_every_user(whole):
    comparison = open_comparison(whole)
    assert comparison.labels == ["BERT4Rec", "TIGER"] and comparison.seeds == [2020, 2021]
    for run in comparison.runs:
        ranks, result = run.ranks, run.result
        assert len(set(ranks.users)) == len(ranks.users) == result["test_users"] == 40
        for metric in ("hit@1", "hit@10", "ndcg@10"):
            assert user_values(ranks.ranks, metric).mean() == pytest.approx(result["test_result"][metric], abs=1e-4)
        for row, (rank, target) in enumerate(zip(ranks.ranks, ranks.targets)):
            listed = ranks.top[row].tolist()
            assert listed[rank - 1] == target if rank <= 10 else target not in listed
        assert (run.folder / result["checkpoint"]).is_file()
        assert len(run.curve) == result["epochs"] > 0 and run.curve[0]["valid"]["ndcg@10"] >= 0
        assert run.last_checkpoint() is None
    run = comparison.of(TINY, "TIGER")[0]
    ids, ranks = run.codes, run.ranks
    assert ids["codes"]["text"].shape[0] == ITEMS == len(ranks.items) - 1
    assert set(ranks.id_ranks) == set(ranks.item_ranks) == {"fused", "text"}
    hits = user_values(ranks.id_ranks["fused"], "hit@10").mean()
    assert hits == pytest.approx(run.result["test_detail"]["fused"]["id"]["hit@10"], abs=1e-4)


def test_histories_and_counts_equal_those_of_the_atomic_file(whole, data_path):
    for run in open_comparison(whole).runs:
        assert_histories_of_the_atomic_file(run, data_path)


def test_histories_contain_validation_items_that_are_not_evaluated(data_path):
    words = [f"--datasets={TINY}", f"--data_path={data_path}", "--valid_users=7", "--epochs=1", "--state=ERROR"]
    assert main(["compare", "--models=Pop,SequentialEASE", "--output=limited", *words]) == 0
    fuse("limited", ["SequentialEASE", "Pop"], 10)
    runs = open_comparison("limited").runs
    assert len(runs) == 3
    for run in runs:
        assert_histories_of_the_atomic_file(run, data_path)


def assert_histories_of_the_atomic_file(run: Run, data_path: Path) -> None:
    """The expected values are read from the atomic file: all but the last two items of a user are for training."""
    sequences = histories_of(data_path / TINY / f"{TINY}.inter")
    ranks = run.ranks
    for user, target, history in zip(ranks.users, ranks.targets, ranks.histories):
        assert ranks.items[history].tolist() == sequences[user][:-1] and ranks.items[target] == sequences[user][-1]
    trained = [item for items in sequences.values() for item in items[:-2]]
    assert dict(zip(ranks.items[1:].tolist(), ranks.counts[1:].tolist())) == {
        f"i{i}": trained.count(f"i{i}") for i in range(len(ranks.items) - 1)
    }


def test_folder_of_other_settings_is_rejected(whole, arguments, capsys):
    argv = [word for word in arguments if not word.startswith("--epochs")]
    assert main(["compare", MODELS, "--seeds=2", f"--output={whole}", *argv, "--epochs=9"]) == 1
    assert "epochs was 4 and is 9 now" in capsys.readouterr().err


def test_none_differs_from_a_setting_that_is_not_set(tmp_path):
    """None can replace a default value, so a run without the setting is another one."""
    spec = RunSpec("SASRec", "SASRec", TINY, 1, {"epochs": 1})
    changed = replace(spec, settings={"epochs": 1, "clip_grad_norm": None})
    write_run_spec(tmp_path / "a", spec)
    with pytest.raises(UserError, match="clip_grad_norm was not set and is None now"):
        write_run_spec(tmp_path / "a", changed)
    write_run_spec(tmp_path / "b", changed)
    with pytest.raises(UserError, match="clip_grad_norm was None and is not set now"):
        write_run_spec(tmp_path / "b", spec)


def test_another_number_of_loader_processes_is_another_run(tmp_path):
    """RecBole draws negative items in the processes of the loader."""
    spec = RunSpec("BPR", "BPR", TINY, 1, {"worker": 0})
    write_run_spec(tmp_path, spec)
    with pytest.raises(UserError, match="worker was 0 and is 1 now"):
        write_run_spec(tmp_path, replace(spec, settings={"worker": 1}))


def test_the_specification_of_a_finished_run_stays_as_it_is(tmp_path):
    spec = RunSpec("SASRec", "SASRec", TINY, 1, {"data_path": "old"})
    moved = replace(spec, settings={"data_path": "new"})
    write_run_spec(tmp_path, spec)
    assert write_run_spec(tmp_path, moved).spec == moved  # unfinished: it continues with the new path
    (tmp_path / "result.json").write_text("{}")
    assert write_run_spec(tmp_path, spec).spec == moved


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["--models=TIGER,TIGER"], "named twice"),
        (["--models=TIGRE"], "Did you mean 'TIGER'?"),
        (["--models=Pop", "--hiden_size=3"], "Unknown option 'hiden_size'"),
        (["--models=Pop", "--jops=3"], "Did you mean 'jobs'?"),
        (["--models=Pop", "--jobs=0"], "--jobs is 0"),
        (["--models=Pop", "--jobs=2", "--ray=auto"], "--jobs is 2, with --ray; leave it out"),
        (["--models=Pop", "--seeds=x"], "--seeds=x"),
        (["--models=Pop", "--seed=x"], "seed is 'x'; expected a whole number"),
        (["--models=Pop", "--seed=[1,2]"], "seed is [1, 2]"),
        (["--models=Pop", "--seed=3.7"], "seed is 3.7"),
        (["--models=Pop", "--seeds=1,7", "--seed=5"], "--seeds=1,7 names the seeds, and --seed=5 one more"),
        (["--model=Pop", "--dataset=arts-toi"], "Did you mean 'arts-toy'?"),
        (["--models=Pop,SASRec", "--pairs=Pop:SASRek"], "Did you mean 'SASRec'?"),
        (["--models=Pop,SASRec", "--pairs=Pop"], "expected two labels"),
        (["--models=Pop,SASRec", "--pairs=Pop:Pop"], "expected each pair of different labels once"),
        (["--models=Pop,SASRec", "--pairs=Pop:SASRec,SASRec:Pop"], "--pairs has 'SASRec:Pop'; expected each pair"),
        (["--models=Pop", "--minutes=nan"], "--minutes is nan"),
        (["--models=Pop", "--datasets=arts-toi"], "Did you mean 'arts-toy'?"),
        (["--models=Pop", "--datasets="], "no dataset"),
        (["--models=Pop", "--output="], "--output is empty"),
        (["--models=Pop", f"--output={__file__}/run"], f"{__file__} is a file; give the name of a folder"),
        (["--models=Pop", "--models=SASRec"], "--models is given twice, as 'Pop' and 'SASRec'; give it once."),
        (["--models=Pop", "--topk=[]"], "topk []; name a metric, and a k"),
        (["--models=TIGER", "--datasets=arts-toy", "--metrics=[]"], "metrics is []; expected"),
        (["--models=Pop", "--valid_metric=NDCG@7"], "valid_metric is 'NDCG@7', which is not computed"),
    ],
)
def test_invalid_arguments_are_one_line_errors(argv, expected, capsys):
    assert main(["compare", "--output=out", *argv]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and expected in error
    assert not Path("out").exists()


def test_the_test_is_expected_to_take_as_long_per_row_as_the_validation(monkeypatch):
    monkeypatch.setattr(run_callbacks.time, "time", lambda: 100.0)
    curve = SimpleNamespace(epochs=[{"valid_seconds": 3.0}, {"valid_seconds": 2.0}, {"valid_seconds": None}])
    trainer = SimpleNamespace(resumable=True)
    valid, test = SimpleNamespace(sample_size=10), SimpleNamespace(sample_size=40)
    for deadline, pauses in ((111.9, True), (112.1, False)):
        limit = PauseAtDeadline(deadline, curve)
        limit.on_train_begin(trainer, None, valid)
        limit.on_evaluation_end(trainer, "valid", {})
        limit.on_evaluation_begin(trainer, "valid", valid)
        if pauses:
            with pytest.raises(Paused):
                limit.on_evaluation_begin(trainer, "test", test)
        else:
            limit.on_evaluation_begin(trainer, "test", test)


def test_results_that_the_command_does_not_name_are_reported(tmp_path, capsys):
    both = Matrix([Variant("Pop", "Pop"), Variant("EASE", "EASE")], [TINY], [1, 2], {})
    for run in write_matrix(both, tmp_path).runs:
        write_json({}, run.folder / "result.json")
    assert capsys.readouterr().out == ""
    write_matrix(replace(both, variants=both.variants[:1], seeds=[1]), tmp_path)
    sentence = f"{tmp_path} also has results of EASE, seed 2; they are left out of the tables, because this command does not"
    assert capsys.readouterr().out == f"{sentence} name them.\n"
    write_matrix(both, tmp_path)
    assert capsys.readouterr().out == ""


def test_error_names_a_damaged_or_missing_folder(tmp_path):
    with pytest.raises(UserError, match="has no compare.json"):
        open_comparison(tmp_path)
    (tmp_path / "compare.json").write_text("{")
    with pytest.raises(UserError, match="compare.json can't be read"):
        open_comparison(tmp_path)


def test_numbers_of_epochs_as_text():
    assert list(map(shown_epochs, (0.25, 2, 1 / 3, 99.96, 299.5, 1234.5))) == ["0.25", "2", "0.333", "100", "300", "1234"]


def test_progress_has_the_best_value_of_the_validation_metric(tmp_path):
    validations = [{"ndcg@10": 0.2, "giniindex@10": 5.0}, {"ndcg@10": 0.1, "giniindex@10": 3.0}, None]
    for metric, best in (("NDCG@10", "ndcg@10 0.2000"), ("GiniIndex@10", "giniindex@10 3.0000")):
        run = write_run_spec(tmp_path / metric, RunSpec("Pop", "Pop", TINY, 1, {"valid_metric": metric}))
        write_json({"epochs": 3, "of": 10}, run.folder / "progress.json")
        write_json([{"valid": metrics} for metrics in validations], run.folder / "curve.json")
        assert run.progress == f"3 of 10 epochs, best validation {best}"


def test_seeds_as_a_number_or_a_list():
    assert parse_seeds("3") == [2020, 2021, 2022] and parse_seeds("1,7") == [1, 7]
    assert parse_seeds("2", Request("", settings={"seed": 7})) == [7, 8]


def test_config_files_of_a_comparison_name_no_model_or_dataset(tiny_dataset, capsys):
    Path("their.yaml").write_text("dataset: other\n")
    words = ["--models=Pop", f"--datasets={TINY}", f"--data_path={tiny_dataset}", "--output=out", "--config_files=their.yaml"]
    assert main(["compare", *words]) == 1
    assert "their.yaml sets dataset, which --datasets names here" in capsys.readouterr().err


def test_results_on_other_data_are_not_continued(tiny_dataset):
    """Neither finished nor unfinished ones; folders of earlier versions do not say on which data they are."""
    def matrix(models):
        return Matrix([Variant(m, m) for m in models], [TINY], [1], {"data_path": str(tiny_dataset)})

    (run,) = write_matrix(matrix(["Pop"]), "out").runs
    write_matrix(matrix(["Pop", "EASE"]), "out")
    file = tiny_dataset / TINY / f"{TINY}.inter"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")
    for finished in (False, True):
        if finished:
            write_json({}, run.folder / "result.json")
        with pytest.raises(UserError, match=f"on {TINY}, seed 1 was started with other data: {TINY}.inter has changed"):
            write_matrix(matrix(["Pop", "BPR"]), "out")
        with pytest.raises(UserError, match="was started with other data"):
            write_matrix(matrix(["BPR"]), "out")  # the runs of a folder are on the same data, named or not
    for spec in Path("out").glob("runs/*/*/*/run_spec.json"):
        content = json.loads(spec.read_text())
        del content["data"]
        write_json(content, spec)
    write_matrix(matrix(["Pop", "BPR"]), "out")


def test_results_with_other_features_or_published_ids_are_not_continued(tiny_dataset):
    """Features that a run computes, and those that are imported later, are no change."""
    def write():
        return write_matrix(Matrix([Variant("Pop", "Pop")], [TINY], [1], {"data_path": str(tiny_dataset)}), "out")

    folder = tiny_dataset / TINY
    (folder / "semantic_ids").mkdir()
    ids = folder / "semantic_ids" / "text.json"
    ids.write_text("{}")
    table = FeatureTable(("i0", "i1"), np.eye(2, dtype=np.float32))
    table.save(folder, "text")
    write()
    computed, _ = feature_paths(folder, "image")
    table.save(folder, "image")
    manifest_file(computed).write_text("{}")
    table.save(folder, "audio")
    write()
    table.save(folder, "text")  # the same content
    write()
    ids.write_text("{ }")
    with pytest.raises(UserError, match="other data: semantic_ids/text.json has changed"):
        write()
    ids.write_text("{}")
    FeatureTable(table.item_tokens, 2 * table.matrix).save(folder, "text")
    with pytest.raises(UserError, match="other data: features/text.npy has changed"):
        write()


def test_full_rank_extends_topk_and_breaks_ties_by_item():
    scores = torch.tensor([[-torch.inf, 3.0, 1.0, 1.0, 2.0, 1.0]] * 4)
    top = torch.topk(scores, 2, dim=-1).indices
    assert full_rank(scores, top, torch.tensor([1, 4, 3, 5])).tolist() == [1, 2, 4, 5]
    tied = torch.tensor([[-torch.inf, 1.0, 1.0, 1.0, 1.0]] * 4)
    top = torch.tensor([[3, 1]] * 4)  # whichever two the top-k took of the four
    assert full_rank(tied, top, torch.tensor([1, 2, 3, 4])).tolist() == [2, 3, 1, 4]


def test_items_that_a_model_leaves_out_are_none_of_its_best():
    """On a small catalogue a general model has fewer than k items outside the history."""
    kept, trainer = RankingCollector(), SimpleNamespace(config={"topk": [2, 3]}, model=None)
    kept._train = SimpleNamespace(uid_field="user")
    scores = torch.tensor([[-torch.inf, 1.0, -torch.inf, 2.0]])
    kept.on_evaluation_batch(trainer, TEST, scores, {"user": torch.tensor([7])}, torch.tensor([0]), torch.tensor([1]))
    assert kept._batches["top"][0].tolist() == [[3, 1, 0]] and kept._batches["ranks"][0].tolist() == [[2]]


@pytest.mark.parametrize("devices, settings, expected", [
    (["0", "1"], {}, ["0", "1", "0", "1"]), (["0", "1"], {"gpu_id": "1"}, [None] * 4), (["0"], {}, [None] * 4),
])
def test_runs_at_a_time_share_threads_and_gpus(devices, settings, expected, monkeypatch):
    given = []

    def start(folder, resources):
        given.append((resources.threads, resources.gpu))
        reader, writer = os.pipe()
        os.close(writer)  # the process has ended
        return SimpleNamespace(sentinel=reader, is_alive=lambda: False, terminate=lambda: None), SimpleNamespace(value=0.0)

    for name, value in {"start": start, "visible_gpus": lambda: devices, "_report_end": lambda *arguments: None,
                        "torch": SimpleNamespace(get_num_threads=lambda: 8)}.items():
        monkeypatch.setattr(pool, name, value)
    runs = [SimpleNamespace(folder=None, spec=SimpleNamespace(name="r", settings=settings), finished=False, error=None)
            for _ in range(4)]
    pool.run_all(runs, 2, Resources())
    assert given == [(4, gpu) for gpu in expected]
