"""Runs that start in the same second use different files."""
import gc
import json
import os
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from recbole.config import Config
from recbole.trainer import trainer as recbole_trainer
from recbole.utils import get_trainer, logger
from torch import nn

from recbole_macrec.benchmark.compare import run_model as compare_run, worker
from recbole_macrec.benchmark.compare.run_command import main, unique_folder
from recbole_macrec.benchmark.compare.runs import Run
from recbole_macrec.utils.unique_names import unique_file


@pytest.fixture
def same_second(monkeypatch):
    """Every run starts in the same second."""
    for module in (recbole_trainer, logger):
        monkeypatch.setattr(module, "get_local_time", lambda: "Jan-01-2026_00-00-00")


@pytest.mark.parametrize("create", [unique_file, unique_folder])
def test_names_are_unique(create, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda _: create(tmp_path / "in" / "a.b.log"), range(40)))
    assert len(set(created)) == 40 and all(path.exists() for path in created) and tmp_path / "in" / "a.b.log" in created


@pytest.mark.parametrize("model", ["SASRec", "TIGER"])
def test_trainers_created_in_the_same_second_use_different_files(model, same_second, tiny_dataset, tmp_path):
    """Both trainers are created before either saves a file; files that stay empty are removed with their trainer."""
    config = Config(model, "tiny", config_dict={"data_path": str(tiny_dataset), "train_neg_sample_args": None})
    config["modalities"] = ["text"]
    trainers = [get_trainer(config["MODEL_TYPE"], model)(config, nn.Linear(1, 1)) for _ in range(2)]
    files = [Path(trainer.saved_model_file) for trainer in trainers]
    assert [file.name for file in files] == [f"{model}-Jan-01-2026_00-00-00.pth", f"{model}-Jan-01-2026_00-00-00-2.pth"]
    files[0].write_bytes(b"weights")
    del trainers
    gc.collect()
    assert files[0].read_bytes() == b"weights" and not files[1].exists()


def test_runs_in_the_same_second_have_their_own_checkpoints_and_logs(same_second, tiny_dataset, tmp_path):
    argv = [
        "--model=GRU4Rec",
        "--dataset=tiny",
        f"--data_path={tiny_dataset}",
        "--epochs=1",
        "--show_progress=False",
        "--state=ERROR",
    ]
    for seed in (1, 2):
        assert main([*argv, f"--seed={seed}", f"--result_file={seed}.json"]) == 0
    one, two = (json.loads(Path(f"{seed}.json").read_text()) for seed in (1, 2))
    assert one["checkpoint"] != two["checkpoint"] and all(Path(run["checkpoint"]).stat().st_size for run in (one, two))
    assert len(list((tmp_path / "log" / "GRU4Rec").iterdir())) == 2


@pytest.fixture
def s3rec(tiny_dataset) -> list[str]:
    """Arguments of a quick run of S3Rec."""
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "categories"]}
    return ["--model=S3Rec", "--dataset=tiny", f"--data_path={tiny_dataset}", "--epochs=1", "--pretrain_epochs=1",
            "--state=ERROR", "--show_progress=False", "--item_attribute=categories", f"--load_col={columns}"]  # fmt: skip


def killed_after_pretraining(words: list[str]) -> None:
    """Run a command, and kill the process that opens the moved weights of the pre-training."""

    def kill(event, arguments):
        if event == "open" and str(arguments[0]).endswith("S3Rec-tiny-1.pth"):
            os.kill(os.getpid(), signal.SIGKILL)

    # The process is a fork, in which the runs of a comparison can be forks as well: they inherit the hook.
    worker.multiprocessing.get_all_start_methods = list
    worker.multiprocessing.get_context = lambda method: get_context("fork")
    sys.addaudithook(kill)
    sys.exit(main(words))


@pytest.mark.parametrize("more", [["--output=out"], ["--result_file=r.json", "--fresh"]])
def test_a_killed_pretraining_leaves_no_files_behind(more, s3rec, tmp_path, process_pool):
    """The process is killed before it moves the pre-trained weights; the same command then starts the pre-training again."""
    (code,) = process_pool.exit_codes((killed_after_pretraining, [*s3rec, *more]))
    assert code == (1 if "--output=out" in more else -signal.SIGKILL)
    assert list(tmp_path.rglob("pretraining/S3Rec-tiny-1.pth"))
    assert main([*s3rec, *more]) == 0
    assert not list(tmp_path.rglob("pretraining*")) and list(tmp_path.rglob("S3Rec-tiny-1.pth"))


def test_pretrained_weights_that_were_moved_are_trained_again(s3rec, tmp_path):
    """A comparison that was interrupted in the fine-tuning is moved to another folder."""
    assert main([*s3rec, "--output=old"]) == 0
    (run,) = (Run(path.parent) for path in tmp_path.glob("old/**/result.json"))
    (run.folder / "result.json").unlink()
    shutil.move("old", "new")
    assert main([*s3rec, "--output=new"]) == 0
    (record,) = (Run(path.parent).result for path in tmp_path.glob("new/**/result.json"))
    assert Path(record["settings"]["pre_model_path"]).is_relative_to(tmp_path / "new")


def test_seconds_of_s3rec_contain_its_pretraining(s3rec, monkeypatch):
    records, run = [], compare_run._run

    def recorded(*args):
        records.append(run(*args))
        return json.loads(json.dumps(records[-1]))

    monkeypatch.setattr(compare_run, "_run", recorded)
    assert main([*s3rec, "--result_file=r.json"]) == 0
    seconds, parts = json.loads(Path("r.json").read_text())["seconds"], [record["seconds"] for record in records]
    assert len(parts) == 2 and min(part["cpu"] for part in parts) > 0
    for name in ("cpu", "total"):
        assert seconds[name] == pytest.approx(sum(part[name] for part in parts), abs=2e-3)


def test_pretrained_weights_of_another_run_are_kept(s3rec, tmp_path):
    used = []
    for seed in (1, 2):
        assert main([*s3rec, "--result_file=r.json", f"--seed={seed}"]) == 0
        used.append(Path(json.loads(Path("r.json").read_text())["settings"]["pre_model_path"]).name)
    assert used == ["S3Rec-tiny-1.pth", "S3Rec-tiny-1-2.pth"]
    one, two = ((tmp_path / "saved" / name).read_bytes() for name in used)
    assert one and two and one != two and not (tmp_path / "saved" / "pretraining").exists()
