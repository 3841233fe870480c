"""Several processes train one model together, on one machine or on several without a shared folder.

The processes are started with the environment variables of torchrun. A folder for each process simulates a machine.
"""
import json
import os
import shutil
import signal
import socket
import sys
from collections import defaultdict
from contextlib import redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import as_words
from planted import NAME as PLANTED, OWN, SMALL as PLANTED_SMALL, write_planted
from process_pool import free_port
from recbole.data.dataset import Dataset
from recbole.model.general_recommender import Pop
from recbole.quick_start import run
from small_models import ITEMS, SMALL, T5, TINY, data_path  # noqa: F401  data_path is a fixture

from recbole_macrec.baselines.invrl import InvRL
from recbole_macrec.benchmark.compare import run_command
from recbole_macrec.benchmark.compare.run_callbacks import ProgressWriter
from recbole_macrec.benchmark.compare.run_command import main
from recbole_macrec.benchmark.compare.runs import open_comparison
from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids import Execution, SemanticIDs, SemanticIDSettings, represent_and_learn
from recbole_macrec.trainer.checkpoint import load_checkpoint
from recbole_macrec.utils import distributed

EPOCHS = 3
SETTINGS = {**SMALL, "modalities": "['text']", "max_modalities": 1, "epochs": EPOCHS}


def words_of(model: str, **options) -> list[str]:
    settings = {**(SETTINGS if "TIGER" in model else {"epochs": EPOCHS, "state": "ERROR", "show_progress": False}), **options}
    return [f"--model={model}", f"--dataset={TINY}", "--data_path=data", "--result_file=r.json",
            *as_words(settings)]


def process(folder: Path, rank: int, port: int, command, words: list[str], change) -> None:
    """Run one of two processes. ``change(rank)`` is called first; output goes to the files ``out<rank>`` and ``err<rank>``."""
    os.chdir(folder)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))
    with open(f"out{rank}", "w") as out, open(f"err{rank}", "w") as err, redirect_stdout(out), redirect_stderr(err):
        change(rank)
        code = command(words)
    sys.exit(code)


def no_change(rank: int) -> None:
    pass


def run_both(process_pool, words: list[str], folders=(Path(), Path()), command=main, change=no_change) -> list[int | None]:
    """Run ``command`` in two processes and return their exit codes."""
    port = free_port()
    return process_pool.exit_codes(
        *((process, folder.absolute(), rank, port, command, words, change) for rank, folder in enumerate(folders))
    )


def printed(folder: Path = Path()) -> list[str]:
    return [(folder / name).read_text() for name in ("out0", "err0", "out1", "err1") if (folder / name).is_file()]


def result(folder: Path = Path()) -> dict:
    record = json.loads((folder / "r.json").read_text())
    return {name: record[name] for name in ("test_result", "best_valid_result", "test_detail", "epochs")}


@pytest.fixture
def data(data_path, tmp_path):
    """The folder ``data`` with the dataset, in the working directory."""
    if data_path != tmp_path / "data":
        shutil.copytree(data_path, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("model", ["TIGER", "GRU4Rec"])
def test_processes_write_one_table_and_one_checkpoint(model, data, process_pool):
    assert run_both(process_pool, words_of(model)) == [0, 0], printed()
    first, _, other, errors = printed()
    assert first.count("test results") == 1 and other == errors == ""
    assert len([path for path in Path("saved").glob("*.pth") if ".last" not in path.name]) == 1
    assert len(list(Path("log", model).iterdir())) == 1 and len(list(Path("log_tensorboard").iterdir())) == 1


def write_final_mask(rank: int) -> None:
    prepare = InvRL.long_preparation

    def long_preparation(self):
        yield from prepare(self)
        torch.save(self.mask, f"mask{rank}.pth")

    InvRL.long_preparation = long_preparation


def test_processes_train_invrl_with_one_mask(tmp_path, process_pool):
    write_planted(tmp_path / "data")
    settings = {**PLANTED_SMALL, **OWN["InvRL"], "epochs": 1}
    words = ["--model=InvRL", f"--dataset={PLANTED}", "--data_path=data", *as_words(settings)]
    assert run_both(process_pool, words, change=write_final_mask) == [0, 0], printed()
    first, second = torch.load("mask0.pth"), torch.load("mask1.pth")
    assert torch.equal(first, second) and (first < 1).any()


def fail_on_second(rank: int) -> None:
    def calculate_loss(*args):
        raise UserError("simulated failure")

    if rank == 1:
        Pop.calculate_loss = calculate_loss


def test_comparison_repeats_a_failed_run_last(data, process_pool):
    words = [word for word in words_of("TIGER,Pop,GRU4Rec", epochs=1) if "result_file" not in word] + ["--output=out"]
    assert run_both(process_pool, words, change=fail_on_second) == [1, 0], printed()
    comparison = open_comparison("out")
    assert [run.finished for run in comparison.runs] == [True, False, False]
    assert "simulated failure (on " in comparison.runs[1].error
    first, _, other, errors = printed()
    assert first.count("test results") == 1 and other == ""
    assert errors.splitlines() == ["error: Pop on tiny, seed 2020: simulated failure"]
    assert run_both(process_pool, words, change=fail_on_second) == [1, 0], printed()
    assert [run.finished for run in open_comparison("out").runs] == [True, False, True]
    assert run_both(process_pool, words) == [0, 0], printed()
    assert all(run.finished for run in open_comparison("out").runs)
    assert run_both(process_pool, words_of("GRU4Rec", epochs=1, learning_rate=0.01, train_batch_size=64)) == [0, 0]
    assert open_comparison("out").runs[2].result["test_result"] == result()["test_result"]


def machines() -> tuple[Path, Path]:
    """Two folders; the first one has the data."""
    for name in ("a", "b"):
        Path(name).mkdir()
    Path("data").rename("a/data")
    return Path("a"), Path("b")


def test_machine_without_data_receives_files_and_semantic_ids(data, process_pool):
    assert run_both(process_pool, words_of("TIGER")) == [0, 0], printed()
    together = result()
    shutil.rmtree("data/tiny/semantic_ids")
    a, b = machines()
    assert run_both(process_pool, words_of("TIGER"), (a, b)) == [0, 0], printed(a) + printed(b)
    assert result(a) == together
    assert not (b / "data/tiny/semantic_ids").exists()
    files = [path.name for path in (b / "data/tiny").iterdir() if path.is_file()]
    assert sorted(files) == [f"{TINY}.inter", f"{TINY}.item"]
    assert all((a / "data/tiny" / name).read_bytes() == (b / "data/tiny" / name).read_bytes() for name in files)
    assert sorted(path.name for path in b.iterdir()) == ["data", "err1", "out1"] and (b / "err1").read_text() == ""


def change_fingerprint(rank: int) -> None:
    if rank == 1:
        SemanticIDs.fingerprint = lambda self: "other"


def change_rows(rank: int) -> None:
    """Simulate a library version that reads the same files differently."""
    load = Dataset._load_inter_feat

    def _load_inter_feat(self, *args):
        load(self, *args)
        self.inter_feat[self.time_field] += rank

    Dataset._load_inter_feat = _load_inter_feat


@pytest.mark.parametrize("what, change", [("inter", no_change), ("IDs", change_fingerprint), ("rows", change_rows)])
def test_different_data_on_another_machine_is_a_one_line_error(what, change, data, process_pool):
    a, b = machines()
    if what == "inter":
        (b / "data/tiny").mkdir(parents=True)
        (b / "data/tiny/tiny.inter").write_text((a / "data/tiny/tiny.inter").read_text() + "u0\ti3\t999999\n")
    assert run_both(process_pool, words_of("TIGER"), (a, b), change=change) == [1, 1]
    errors = [line for line in "".join(printed(a) + printed(b)).splitlines() if line.startswith("error")]
    expected = {"inter": "data/tiny/tiny.inter on ", "IDs": "the semantic IDs of process 2 on ",
                "rows": "the rows to train and test on of process 2 on "}
    assert len(errors) == 1 and expected[what] in errors[0]


def die_in_third_epoch(rank: int) -> None:
    update = ProgressWriter.update

    def die(self, trainer, done, always=False):
        update(self, trainer, done, always)
        if done > 2 and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    ProgressWriter.update = die


@pytest.mark.parametrize("model", ["TIGER", "GRU4Rec"])
def test_killed_process_ends_the_run_and_the_same_command_resumes_it(model, data, process_pool):
    words = words_of(model)
    assert run_both(process_pool, words) == [0, 0], printed()
    whole = result()
    assert run_both(process_pool, words, change=die_in_third_epoch) == [1, -signal.SIGKILL]
    (error,) = Path("err0").read_text().splitlines()
    assert error.startswith("error: another process of this run ended") and "--resume=FILE" in error
    assert run_both(process_pool, words) == [0, 0], printed()
    assert "Resuming the unfinished run of this command" in Path("out0").read_text()
    assert result() == whole


def short_timeouts(rank: int) -> None:
    distributed.JOIN_TIMEOUT, distributed.NOTICE_SECONDS = timedelta(seconds=2), 0.3


def test_error_names_a_process_that_does_not_join(data, process_pool):
    port = free_port()
    assert process_pool.exit_codes((process, Path().absolute(), 0, port, main, words_of("GRU4Rec"), short_timeouts)) == [1]
    waiting, error = Path("err0").read_text().splitlines()
    assert waiting == f"Waiting for all 2 processes to join at 127.0.0.1:{port}; it gives up after 2 s."
    assert "of 2 processes, number 2 did not join" in error and "--world_size" in error
    assert process_pool.exit_codes((process, Path().absolute(), 1, port, main, words_of("GRU4Rec"), short_timeouts)) == [1]
    lines = [line for line in Path("err1").read_text().splitlines() if line.startswith(("Waiting", "error"))]
    assert len(lines) == 2 and "process 2 of 2 could not connect to the first one" in lines[1] and "--port" in lines[1]


def test_error_names_a_port_in_use(data, process_pool, capsys):
    with socket.socket() as blocker:
        blocker.bind(("127.0.0.1", 0))
        blocker.listen()
        port = blocker.getsockname()[1]
        assert process_pool.exit_codes((process, Path().absolute(), 0, port, main, words_of("GRU4Rec"), no_change)) == [1]
        assert main([*words_of("GRU4Rec"), "--nproc=2", f"--port={port}"]) == 1
    for error in Path("err0").read_text(), capsys.readouterr().err:
        assert error.splitlines()[-1].startswith(f"error: port {port} of this machine is in use") and "--port" in error


def test_invalid_options_are_reported_once(data, process_pool):
    assert run_both(process_pool, [*words_of("GRU4Rec"), "--hiden_size=3"]) == [1, 1]
    errors = "".join(printed()).splitlines()
    assert len(errors) == 1 and "Did you mean 'hidden_size'?" in errors[0]


@pytest.mark.parametrize("model, own", [
    ("TIGER", {**SMALL, **T5, "modalities": ["text"], "quantizer": "rq_kmeans"}),
    ("TIGER", {**SMALL, "training": "per_user", "modalities": ["text"], "quantizer": "rq_kmeans"}),
    ("SASRecPerUser", {"topk": [5], "valid_metric": "NDCG@5"}),
], ids=["per_target", "per_user", "SASRecPerUser"])
def test_one_step_of_two_processes_is_that_of_one(model, own, data_path):
    """Also where the two halves of the batch have different numbers of targets."""
    options = {**own, "dropout_prob": 0.0, "precision": "fp32",
               "learner": "sgd", "learning_rate": 1.0, "scheduler": "constant", "warmup_ratio": 0.0, "weight_decay": 0.0,
               "clip_grad_norm": None, "shuffle": False, "train_batch_size": 60, "epochs": 1, "data_path": str(data_path),
               "state": "ERROR", "show_progress": False}
    weights = []
    for name, processes in (("one", {}), ("two", {"nproc": 2, "port": str(free_port())})):
        run(model, TINY, config_dict={**options, "checkpoint_dir": name}, **processes)
        (file,) = [path for path in Path(name).glob(f"{model}-*.pth") if ".last" not in path.name]
        weights.append(load_checkpoint(file)["state_dict"])
    one, two = weights
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-4, rtol=1e-3)


def test_a_world_of_one_process_starts_no_others(data, monkeypatch, capsys):
    monkeypatch.setattr(run_command, "start_processes", lambda *args: pytest.fail("starts processes"))
    assert main([*words_of("Pop"), "--world_size=1"]) == 0
    assert "Pop" in capsys.readouterr().out


@pytest.mark.parametrize("words, expected", [
    (["--nproc=2", "--world_size=2", "--group_offset=1"], "--world_size is 2 and --group_offset 1"),
    (["--nproc=2", "--group_offset=5"], "--world_size is 2 and --group_offset 5"),
    (["--nproc=2", "--port=99999"], "--port is 99999; expected a port from 1 to 65535"),
    (["--nproc=2", "--port=-1"], "--port is -1"),
])  # fmt: skip
def test_incompatible_options_are_errors(words, expected, capsys):
    assert main([*words_of("GRU4Rec"), *words]) == 1
    assert expected in capsys.readouterr().err


def features_of(name: str) -> tuple[dict, SemanticIDSettings]:
    """203 items, so that the last batch has as many items as there are processes, or one less."""
    rng = np.random.default_rng(1)
    features = {
        modality: rng.standard_normal((203, width)).astype(np.float32) for modality, width in (("text", 12), ("image", 7))
    }
    options = (
        {"quantizer": "rqvae"}
        if name == "rqvae"
        else {
            "quantizer": "cross_modal_rqvae",
            "lambda_con": 0.1,
            "lambda_align": 0.1,
            "con_layers": [0, 1],
            "codes_epoch": "lowest_collision",
        }
    )
    batch = 67 if name == "rqvae" else 101
    sizes = {
        **SMALL,
        "codebook_size": 4,
        "rqvae_batch_size": batch,
        "rqvae_epochs": 4,
        "rqvae_warmup_epochs": 3,
        "semantic_id_seed": 3,
    }
    return features, SemanticIDSettings.from_config(defaultdict(lambda: None, {**sizes, **options}), ["text", "image"])


def learn_and_save(words: list[str]) -> int:
    """Learn codes in all processes; the first one writes them to a file."""
    features, settings = features_of(*words)
    with distributed.group() as processes:
        learnt = represent_and_learn(features, None, settings, Execution(show_progress=False, group=processes))
    if processes.first:
        torch.save(
            {m: {**part.weights, "codes": torch.from_numpy(part.codes)} for m, part in learnt.modalities.items()}, "learnt.pth"
        )
        Path("history.json").write_text(json.dumps(learnt.history))
    return 0


@pytest.mark.parametrize("name", ["rqvae", "cross_modal"])
def test_quantizer_trained_in_two_processes_equals_one_process(name, process_pool, tmp_path):
    assert learn_and_save([name]) == 0
    alone, history = torch.load("learnt.pth"), json.loads(Path("history.json").read_text())
    Path("learnt.pth").unlink()
    assert run_both(process_pool, [name], command=learn_and_save) == [0, 0], printed()
    together = torch.load("learnt.pth")
    for modality, weights in alone.items():
        for weight, value in weights.items():
            assert torch.allclose(together[modality][weight], value, rtol=0, atol=1e-5), (modality, weight)
    for one, two in zip(history, json.loads(Path("history.json").read_text()), strict=True):
        assert two["total"] == pytest.approx(one["total"], abs=1e-5) and two.get("health") == one.get("health")
