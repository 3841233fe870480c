"""``run_recbole_macrec.py`` with one model: a command resumes its unfinished run, but no run of another command."""
import json
from pathlib import Path

import pytest
from helpers import as_words, write_features
from recbole.config import Config
from small_models import ITEMS, SMALL, TINY, data_path  # noqa: F401  data_path is a fixture

from recbole_macrec.benchmark.compare.run_callbacks import ProgressWriter
from recbole_macrec.benchmark.compare.run_command import main
from recbole_macrec.benchmark.compare.run_files import write_json
from recbole_macrec.benchmark.compare.unfinished import unfinished_run

EPOCHS = 4


def argv(model: str, path: Path, *more: str, **options) -> list[str]:
    settings = {**SMALL, "modalities": "['text']", "max_modalities": 1, "semantic_id_seed": 1} if model == "TIGER" else {}
    settings |= {"epochs": EPOCHS, "state": "ERROR", "show_progress": False, "data_path": path, **options}
    return [f"--model={model}", f"--dataset={TINY}", "--result_file=r.json", *as_words(settings), *more]


def interrupted(monkeypatch, words: list[str], epochs: int = 2) -> None:
    """Run a command and interrupt it after ``epochs`` epochs."""
    update = ProgressWriter.update

    def stop(self, trainer, done, always=False):
        update(self, trainer, done, always)
        if done > epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ProgressWriter, "update", stop)
        assert main(words) == 130


def result() -> dict:
    record = json.loads(Path("r.json").read_text())
    return {name: record[name] for name in ("test_result", "best_valid_result", "test_detail", "epochs")}


@pytest.mark.parametrize("model", ["TIGER", "GRU4Rec"])
def test_same_command_resumes_and_equals_an_uninterrupted_run(model, data_path, monkeypatch, capsys):
    words = argv(model, data_path)
    assert main([*words, "--fresh"]) == 0
    whole = result()
    assert whole["epochs"] == EPOCHS and "Resuming" not in capsys.readouterr().out
    interrupted(monkeypatch, words)
    (folder,) = Path("saved", "unfinished").iterdir()
    capsys.readouterr()
    assert main(words) == 0
    assert (
        "Resuming the unfinished run of this command" in (printed := capsys.readouterr().out)
        and "--fresh starts from the beginning" in printed
    )
    assert f"{folder.parent.parent.name}/{model}-" in printed
    assert result() == whole and not folder.parent.exists()
    record = json.loads(Path("r.json").read_text())
    assert Path(record["checkpoint"]).is_file() and record["seconds"]["training"] > 0
    assert bool(list(Path("saved").glob("*.last.pth"))) == (model == "TIGER")
    assert main(words) == 0  # finished: run again
    assert "Resuming" not in capsys.readouterr().out and result() == whole


def test_resuming_from_a_checkpoint_file_reports_all_epochs(data_path, capsys):
    assert main(argv("TIGER", data_path)) == 0
    (checkpoint,), whole = Path("saved").glob("*.last.pth"), result()
    for epochs in (EPOCHS, EPOCHS + 2):
        assert main(argv("TIGER", data_path, resume=checkpoint, epochs=epochs)) == 0
        assert result()["epochs"] == epochs and (epochs > EPOCHS or result() == whole)


@pytest.mark.parametrize(
    "model, change",
    [*(("GRU4Rec", change) for change in ("settings", "data", "fresh")), ("TIGER", "features"), ("VBPR", "features")],
)
def test_other_commands_do_not_resume(model, change, data_path, monkeypatch, capsys):
    words = argv(model, data_path)
    interrupted(monkeypatch, words)
    capsys.readouterr()
    if change == "settings":
        words = argv(model, data_path, learning_rate=0.02)
    elif change == "data":
        file = data_path / TINY / f"{TINY}.inter"
        file.write_text(file.read_text() + "u0\ti3\t999999\n")
    elif change == "features":
        write_features(data_path / TINY, "text", seed=9)
    else:
        words = [*words, "--fresh"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "Resuming" not in printed and result()["epochs"] == EPOCHS
    changed = "semantic IDs" if model == "TIGER" else "item features"
    assert (f"The {changed} have changed" in printed) == (change == "features")
    left = list(Path("saved", "unfinished").glob("*"))
    assert len(left) == (change in ("settings", "data"))
    if left:  # the first one is still there
        assert change == "data" or main(argv(model, data_path)) == 0
        assert ("Resuming" in capsys.readouterr().out) == (change == "settings")


def test_simultaneous_runs_of_a_command_have_their_own_folders(data_path, tmp_path):
    config = Config("GRU4Rec", TINY, config_dict={"data_path": str(data_path), "train_neg_sample_args": None})
    (tmp_path / "newest.pth").touch()
    with pytest.raises(KeyboardInterrupt), unfinished_run(config, 1, False) as first:
        write_json({"checkpoint": str(tmp_path / "newest.pth")}, first.folder / "run.json")
        with unfinished_run(config, 1, False) as second:  # neither resumes nor disturbs the first
            assert second.folder != first.folder and second.last_checkpoint() is None
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), unfinished_run(config, 1, False) as again:
        assert again.folder == first.folder and again.last_checkpoint() == tmp_path / "newest.pth"
        raise KeyboardInterrupt
    with unfinished_run(config, 2, False) as other:  # another number of processes
        assert other.folder != first.folder


def test_option_fresh_needs_a_single_model(capsys):
    assert main(["--model=Pop,GRU4Rec", "--fresh"]) == 1
    assert "--fresh is for one model" in capsys.readouterr().err
