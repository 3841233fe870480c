"""On a full disk a command ends with a one-line error that names the file, and leaves no incomplete file.

The tests limit the size of files, with which writing fails in the same way in every library.
"""
import resource
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from small_ids import SMALL, build
from test_resume_single import argv, data_path, interrupted  # noqa: F401  data_path is a fixture

from recbole_macrec.benchmark.__main__ import main as benchmark
from recbole_macrec.benchmark.compare.ranks import Ranks
from recbole_macrec.benchmark.compare.run_command import main
from recbole_macrec.benchmark.compare.run_files import write_json
from recbole_macrec.benchmark.compare.runs import run_folder
from recbole_macrec.benchmark.figures import Figure
from recbole_macrec.errors import UserError
from recbole_macrec.trainer.checkpoint import load_checkpoint, save_checkpoint
from recbole_macrec.utils.files import replace_folder


@contextmanager
def room_for(size: int):
    """Limit the size of files to ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def checkpoint(path: Path) -> None:
    save_checkpoint({"state_dict": {"weight": torch.zeros(100_000)}}, path)


def bundle(path: Path) -> None:
    build(path.parent, SMALL.replace(quantizer="rq_kmeans", rqvae_hidden_sizes=(8,)))


def folder(path: Path) -> None:
    with replace_folder(path, overwrite=True) as fresh:
        (fresh / "large").write_bytes(bytes(10**6))


def ranks(path: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 10**9, 10_000)
    Ranks(numbers.astype(str), numbers.astype(str), numbers, numbers, numbers, numbers, [numbers]).save(path)


WRITERS = {
    "model.pth": checkpoint,
    "result.json": lambda path: write_json(["x" * 100_000], path),
    "ranks.npz": ranks,
    "figure.png": lambda path: Figure("t", "x", "y", ["a", "b"], {"s": ([1, 2], [None, None])}).save(path.parent, path.stem),
    "dataset": folder,
    "semantic_ids-": bundle,
}


@pytest.mark.parametrize("name", WRITERS)
def test_error_names_the_file_that_was_not_written(name, tmp_path):
    target = tmp_path / "out" / name
    target.parent.mkdir()
    with room_for(1000), pytest.raises(UserError, match=rf"{target}\S* can't be written: file too large; free some space"):
        WRITERS[name](target)
    assert {path.suffix for path in target.parent.iterdir()} <= {".lock"}
    WRITERS[name](target)
    assert any(path.name.startswith(name) for path in target.parent.iterdir())


def test_failed_write_keeps_the_old_file(tmp_path):
    checkpoint(tmp_path / "model.pth")
    with room_for(1000), pytest.raises(UserError, match="can't be written"):
        save_checkpoint({"state_dict": {"weight": torch.ones(100_000)}}, tmp_path / "model.pth")
    assert load_checkpoint(tmp_path / "model.pth")["state_dict"]["weight"].sum() == 0


@pytest.mark.parametrize("model", ["GRU4Rec", "TIGER"])
def test_run_on_a_full_disk_is_a_one_line_error(model, data_path, capsys):
    with room_for(60_000):
        assert main(argv(model, data_path)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: saved/") and ".pth can't be written: file too large" in error and error.count("\n") == 1
    assert not [path for path in Path("saved").rglob("*") if path.is_file() and path.stat().st_size]
    assert main(argv(model, data_path)) == 0


@pytest.mark.parametrize("model", ["GRU4Rec", "TIGER"])
def test_a_run_removes_incomplete_files_of_a_killed_process(model, data_path, monkeypatch):
    words = argv(model, data_path)
    interrupted(monkeypatch, words)
    (newest,) = Path("saved").glob("*.last.pth")
    (unfinished,) = Path("saved", "unfinished").iterdir()
    other = Path("saved/.Another.pth.4242")  # of another run, which may be writing it
    left = [newest.with_name(f".{newest.name}.4242"), newest.with_name(f".{newest.name.replace('.last', '')}.4242"),
            unfinished / ".curve.json.4242", Path(".r.json.4242")]
    for path in [other, *left]:
        path.touch()
    assert main(words) == 0
    assert other.exists() and not any(path.exists() for path in left)


def test_a_comparison_removes_incomplete_files_of_killed_processes(data_path):
    words = [
        "compare",
        "--models=GRU4Rec",
        f"--datasets={TINY}",
        f"--data_path={data_path}",
        "--epochs=1",
        "--state=ERROR",
        "--output=out",
    ]
    run = run_folder(Path("out"), TINY, "GRU4Rec", 2020)
    left = [
        Path("out/.compare.json.4242"),
        run / ".run_spec.json.4242",
        run / ".curve.json.4242",
        run / "saved/.GRU4Rec.last.pth.4242",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert benchmark(words) == 0
    assert not any(path.exists() for path in left) and (run / "result.json").is_file()
