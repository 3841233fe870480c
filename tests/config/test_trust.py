"""Files of unknown origin cannot run code: checkpoints, pickled datasets, and files named by options."""
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.context_aware_recommender import kd_dagfm
from recbole.quick_start import load_data_and_model, run_recbole
from recbole.trainer import hyper_tuning
from recbole.utils import get_model, get_trainer
from scipy import sparse
from test_compat import checkpoint, fast

from recbole_macrec import UserError
from recbole_macrec.benchmark.__main__ import main as benchmark
from recbole_macrec.benchmark.compare.matrix import Matrix, Variant, matrix_settings
from recbole_macrec.benchmark.compare.run_command import main
from recbole_macrec.benchmark.compare.run_model import Request, run_config
from recbole_macrec.benchmark.compare.runs import open_comparison
from recbole_macrec.config.options import NOT_FROM_CHECKPOINTS, format_value, parse_settings, parse_value
from recbole_macrec.config.plain import plain_config
from recbole_macrec.recommend.__main__ import main as recommend
from recbole_macrec.trainer.checkpoint import as_tensors, from_tensors, load_checkpoint, save_checkpoint
from recbole_macrec.trainer.checkpoint_settings import known_settings

RAN = Path("foreign code ran")  # in the folder of the test


class Foreign:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return RAN.touch, ()


@pytest.fixture
def foreign(tmp_path) -> str:
    """A checkpoint that runs code when it is unpickled."""
    torch.save({"config": Foreign(), "state_dict": {}}, tmp_path / "foreign.pth")
    yield str(tmp_path / "foreign.pth")
    assert not RAN.exists()


def trainer_and_test_data(model: str, data_path, **settings):
    """A trainer with its model, and the test data."""
    config = Config(model, "tiny", config_dict=fast(data_path, save_dataset=False, **settings))
    train, _, test = data_preparation(config, create_dataset(config))
    return get_trainer(config["MODEL_TYPE"], model)(config, get_model(model)(config, train.dataset)), test


def test_foreign_checkpoints_are_not_unpickled(foreign, tiny_dataset, capsys):
    with pytest.raises(UserError, match="foreign.pth is a pickle.*trust_checkpoint=True"):
        load_data_and_model(foreign)
    assert recommend([f"--model_file={foreign}", "--history=i1"]) == 1
    assert capsys.readouterr().err.startswith(f"error: Checkpoint {foreign} is a pickle")
    trainer, test = trainer_and_test_data("SASRec", tiny_dataset)
    for read in (lambda: trainer.evaluate(test, model_file=foreign), lambda: trainer.resume_checkpoint(foreign)):
        with pytest.raises(UserError, match="foreign.pth is a pickle"):
            read()
    with pytest.raises(UserError, match="foreign.pth is a pickle"):
        trainer_and_test_data("S3Rec", tiny_dataset, train_stage="finetune", pre_model_path=foreign)


def test_trusted_checkpoints_are_unpickled(tiny_dataset):
    """A checkpoint written by RecBole without this package."""
    trainer, test = trainer_and_test_data("SASRec", tiny_dataset)
    torch.save({"config": trainer.config, "state_dict": trainer.model.state_dict(), "other_parameter": {}}, "theirs.pth")
    expected = trainer.evaluate(test, load_best_model=False)
    with pytest.raises(UserError, match="theirs.pth is a pickle"):
        load_data_and_model("theirs.pth")
    config, model, _, _, _, test = load_data_and_model("theirs.pth", trust_checkpoint=True)
    assert get_trainer(config["MODEL_TYPE"], "SASRec")(config, model).evaluate(test, load_best_model=False) == expected
    trusting, test = trainer_and_test_data("SASRec", tiny_dataset, trust_checkpoint=True)
    assert trusting.evaluate(test, model_file="theirs.pth") == expected


def test_settings_in_a_checkpoint_cannot_unpickle_files(tiny_dataset, tmp_path):
    expected = run_recbole("SASRec", "tiny", config_dict=fast(tiny_dataset))["test_result"]
    file = checkpoint(tmp_path, "SASRec")
    state = load_checkpoint(file)
    pickled = {name: tmp_path / "saved" / name for name in ("tiny-SequentialDataset.pth", "tiny-for-SASRec-dataloader.pth")}
    for path in pickled.values():
        path.write_bytes(pickle.dumps(Foreign()))
    named = dict(zip(("dataset_save_path", "dataloaders_save_path"), map(str, pickled.values())))
    for changed in ({}, named, {**named, "trust_checkpoint": True, "source": {"format": "amazon-2018"}, "log_wandb": True}):
        state["config"] |= changed
        save_checkpoint(state, file)
        config, model, _, _, _, test = load_data_and_model(file)
        assert not RAN.exists() and not any(config[name] for name in changed)
        assert get_trainer(config["MODEL_TYPE"], "SASRec")(config, model).evaluate(test, load_best_model=False) == expected
    with pytest.raises(AttributeError):  # what it returned is no dataset
        load_data_and_model(file, trust_checkpoint=True)
    assert RAN.exists()


@pytest.mark.parametrize("option", ["dataset_save_path", "dataloaders_save_path"])
def test_options_and_config_files_cannot_unpickle_files(option, tiny_dataset):
    Path("foreign.pth").write_bytes(pickle.dumps(Foreign()))
    Path("their.yaml").write_text(f"{option}: foreign.pth\n")
    with pytest.raises(UserError, match=f"{option} is 'foreign.pth', a pickle.*trust_checkpoint=True"):
        run_recbole("Pop", "tiny", config_file_list=["their.yaml"], config_dict=fast(tiny_dataset))
    assert not RAN.exists()


def test_pickled_dataset_is_read_on_request(tiny_dataset):
    settings = fast(tiny_dataset)
    first = create_dataset(Config("Pop", "tiny", config_dict=settings))
    again = create_dataset(Config("Pop", "tiny", config_dict=settings))
    first.save()
    trusted = create_dataset(Config("Pop", "tiny", config_dict={**settings, "trust_checkpoint": True}))
    assert not trusted.config["trust_checkpoint"]  # as it was saved
    assert torch.equal(torch.as_tensor(trusted.inter_feat["item_id"]), torch.as_tensor(again.inter_feat["item_id"]))


@pytest.mark.parametrize("command", [
    lambda path, *data: main(["--model=Pop", *data, f"--config_files={path}"]),
    lambda path, *data: benchmark(["compare", "--models=Pop", *data, f"--config_files={path}", "--output=out"]),
])
def test_config_files_cannot_enable_unpickling(command, tiny_dataset, capsys):
    Path("their.yaml").write_text("trust_checkpoint: True\n")
    assert command("their.yaml", "--dataset=tiny", f"--data_path={tiny_dataset}") == 1
    assert "error: their.yaml sets trust_checkpoint, which no file can" in capsys.readouterr().err
    with pytest.raises(UserError, match="sets trust_checkpoint"):
        Config("Pop", "tiny", config_file_list=["their.yaml"])


@pytest.mark.parametrize("where", ["settings: {trust_checkpoint: True}", "variants: {a: {trust_checkpoint: True}}",
                                   "sweeps: {trust_checkpoint: [True]}"])
def test_studies_cannot_enable_unpickling(where, capsys):
    Path("their.yaml").write_text(f"kind: variants\nmodel: TIGER\n{where}\n")
    assert benchmark(["study", "their.yaml", "--output=out"]) == 1
    assert "error: their.yaml sets trust_checkpoint, which no file can" in capsys.readouterr().err


def test_unknown_settings_in_a_checkpoint_are_ignored(tiny_dataset):
    settings = plain_config(Config("FDSA", "tiny", config_dict=fast(tiny_dataset)))
    del settings["item_attribute"]  # of S3Rec
    known = known_settings({**settings, "unheard_of": 1})
    assert "unheard_of" not in known and known["hidden_size"] == settings["hidden_size"]
    lost = {key for key in settings if key not in known and settings[key] is not None}
    assert lost <= NOT_FROM_CHECKPOINTS


def test_checkpoints_restore_arrays_and_sparse_matrices():
    """RecBole's models store such values in ``other_parameter``. Reversed and read-only arrays are restored too."""
    array = np.arange(6.0).reshape(2, 3)
    array.flags.writeable = False
    given = {"array": array[:, ::-1], "csr": sparse.csr_matrix(array), "csc": sparse.csc_matrix(array),
             "tuples": {3: [(torch.arange(2), 1.5)]}}  # fmt: skip
    save_checkpoint({"other_parameter": as_tensors(given)}, "other.pth")
    found = from_tensors(load_checkpoint("other.pth")["other_parameter"], "cpu")
    assert np.array_equal(found["array"], given["array"]) and type(found["array"]) is np.ndarray
    for name in ("csr", "csc"):
        assert found[name].format == name and found[name].dtype == given[name].dtype and not (found[name] != given[name]).nnz
    assert torch.equal(found["tuples"][3][0][0], torch.arange(2)) and found["tuples"][3][0][1] == 1.5


CODE = f"4 if __import__('pathlib').Path({str(RAN)!r}).touch() is None else 4"


@pytest.fixture
def code(tmp_path):
    """A config file and a study with code instead of numbers."""
    content = {"metric_decimal_place": CODE}
    Path("code.yaml").write_text(yaml.safe_dump(content))
    Path("study.yaml").write_text(yaml.safe_dump({"kind": "variants", "models": ["Pop"], "settings": content}))
    yield
    assert not RAN.exists()


@pytest.mark.parametrize("argv", [
    ["compare", "--models=Pop", "--config_files=code.yaml", "--output=out"],
    ["compare", "--models=Pop", f"--metric_decimal_place={CODE}", "--output=out"],
    ["study", "study.yaml", "--output=out"],
    ["run", "--model=Pop", "--config_files=code.yaml"],
    ["run", "--model=Pop", f"--metric_decimal_place={CODE}"],
], ids=lambda argv: " ".join(argv)[:25])
def test_values_are_not_evaluated_as_code(argv, code, tiny_dataset, capsys):
    command = (lambda words: main(words[1:])) if argv[0] == "run" else benchmark
    words = [*argv, "--dataset=tiny" if argv[0] != "compare" else "--datasets=tiny", f"--data_path={tiny_dataset}"]
    assert command(words) == 1
    assert "metric_decimal_place is " in capsys.readouterr().err


def test_the_code_creates_a_file_if_it_is_evaluated():
    assert eval(CODE) == 4 and RAN.exists()
    RAN.unlink()


@pytest.mark.parametrize("evaluate, error", [
    (lambda: Config("Pop", "tiny", config_dict={"metric_decimal_place": CODE}), UserError),
    (lambda: kd_dagfm.eval(CODE), KeyError),
    (lambda: hyper_tuning.eval(f"[{CODE}]"), SyntaxError),
])
def test_recbole_does_not_evaluate_strings(evaluate, error, code):
    with pytest.raises(error):
        evaluate()


VALUES = {"metric_decimal_place": 3, "pre_model_path": "3", "topk": [1, 5], "learning_rate": 3e-4, "wandb_project": "None",
          "train_neg_sample_args": None, "user_inter_num_interval": "[0,inf)", "shuffle": False}


def test_comparisons_and_runs_read_config_files_alike(tiny_dataset):
    """Strings stay strings, also those that look like numbers."""
    Path("their.yaml").write_text(yaml.safe_dump(VALUES))
    request = Request("tiny", ("their.yaml",), {"data_path": str(tiny_dataset)})
    alone = run_config("SASRec", request)
    variant = Variant("SASRec", "SASRec")
    Matrix([variant], ["tiny"], [1], matrix_settings(request)).write("out")
    compared = run_config("SASRec", Request("tiny", (), open_comparison("out").runs[0].spec.settings))
    assert {name: alone[name] for name in VALUES} == {name: compared[name] for name in VALUES}
    assert [alone[name] for name in ("metric_decimal_place", "pre_model_path", "wandb_project")] == [3, "3", "None"]


@pytest.mark.parametrize(
    "word, value",
    [
        ("3", 3),
        ("3e-4", 3e-4),
        ("true", True),
        ("['a','b']", ["a", "b"]),
        ("'3'", "3"),
        ("ERROR", "ERROR"),
        ("1/0", "1/0"),
        ("None", None),
        ("a=b", "a=b"),
        ("[0,inf)", "[0,inf)"),
    ],
)
def test_command_line_values_are_read_as_literals(word, value):
    assert parse_settings([f"--state={word}"], ()) == {"state": value}
    assert parse_value(format_value(value)) == value
