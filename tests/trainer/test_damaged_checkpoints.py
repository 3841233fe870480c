"""Damaged checkpoints and checkpoints with NaN are rejected by every function that reads them."""
import random
from pathlib import Path

import pytest
import torch
from recbole.quick_start import load_data_and_model
from small_models import data_path, prepare  # noqa: F401  data_path is a fixture

from recbole_macrec import Recommender, UserError
from recbole_macrec.recommend.__main__ import main as recommend
from recbole_macrec.trainer.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def trained(data_path):
    _, model, trainer, (_, _, test) = prepare("TIGER", data_path)
    trainer._save_checkpoint(0)
    return model, trainer, test


def test_changed_bytes_are_detected(trained, capsys):
    """One changed byte, and 40 changed bytes of one weight."""
    _, trainer, test = trained
    file = Path(trainer.saved_model_file)
    whole = file.read_bytes()
    weight = next(iter(load_checkpoint(file)["state_dict"].values()))
    place = whole.index(weight.numpy().tobytes())
    for places in ([place], random.Random(0).sample(range(place, place + weight.nbytes), 40)):
        damaged = bytearray(whole)
        for i in places:
            damaged[i] ^= 1
        file.write_bytes(damaged)
        assert recommend([f"--model_file={file}", "--history=i1"]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: Checkpoint {file} is damaged") and error.count("\n") == 1
        for read in (load_data_and_model, Recommender.load, trainer.resume_checkpoint, lambda file: trainer.evaluate(test)):
            with pytest.raises(UserError, match="is damaged: the checksum of its part .* is wrong"):
                read(str(file))


def test_nan_weights_are_rejected(trained, tmp_path):
    model, trainer, test = trained
    state = load_checkpoint(trainer.saved_model_file)
    name, weight = next(iter(state["state_dict"].items()))
    weight.view(-1)[3] = torch.nan
    save_checkpoint(state, trainer.saved_model_file)
    for read in (load_data_and_model, trainer.resume_checkpoint, lambda file: trainer.evaluate(test)):
        with pytest.raises(UserError, match=rf"{trainer.saved_model_file} contains weights that are NaN \({name}\)"):
            read(trainer.saved_model_file)
    with torch.no_grad():
        next(model.parameters()).view(-1)[3] = torch.nan
    Recommender(model).save_pretrained(tmp_path / "folder")
    with pytest.raises(UserError, match=r"folder can't be read .*model.safetensors contains weights that are NaN"):
        Recommender.from_pretrained(tmp_path / "folder")


@pytest.mark.parametrize("change, expected", [
    (lambda state: state.pop("config"), "contains no settings of a model"),
    (lambda state: state["config"].pop("model"), "do not name a model and a dataset"),
    (lambda state: state.pop("state_dict"), "lacks state_dict"),
    (lambda state: state.update(state_dict=[1]), "contains a list as state_dict"),
    (lambda state: state["config"].update(model="TIGRE"), "Unknown model 'TIGRE'. Did you mean 'TIGER'?"),
    (lambda state: state["config"].update(d_model=10**7), "d_model is 10000000; expected a whole number from 1 to 65536"),
])
def test_incomplete_checkpoints_are_rejected(change, expected, trained, capsys):
    file = trained[1].saved_model_file
    state = load_checkpoint(file)
    change(state)
    save_checkpoint(state, file)
    assert recommend([f"--model_file={file}", "--history=i1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and expected in error
    with pytest.raises(UserError):
        load_data_and_model(file)


@pytest.mark.parametrize("name", ["optimizer", "randomness", "epoch", "state_dict"])
def test_resuming_from_an_incomplete_checkpoint_is_a_user_error(name, trained):
    _, trainer, _ = trained
    state = load_checkpoint(trainer.saved_model_file)
    del state[name]
    save_checkpoint(state, trainer.saved_model_file)
    with pytest.raises(UserError, match=f"lacks {name}"):
        trainer.resume_checkpoint(trainer.saved_model_file)


def test_file_with_a_list_is_rejected(trained, capsys):
    _, trainer, test = trained
    torch.save([1, 2], "list.pth")
    assert recommend(["--model_file=list.pth", "--history=i1"]) == 1
    assert "list.pth" in capsys.readouterr().err
    for read in (load_data_and_model, trainer.resume_checkpoint, lambda file: trainer.evaluate(test, model_file=file)):
        with pytest.raises(UserError, match="list.pth"):
            read("list.pth")
