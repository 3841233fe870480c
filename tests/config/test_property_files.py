"""Property files of users: which settings they change, and for which models."""
import shutil

import pytest
from conftest import TINY
from recbole.config import Config

from recbole_macrec import UserError
from recbole_macrec.benchmark.compare.run_model import Request, run_config
from recbole_macrec.config import property_files
from recbole_macrec.config.options import check_dataset
from recbole_macrec.config.property_files import property_file


@pytest.fixture
def properties(tmp_path, monkeypatch):
    """A copy of ``properties/`` that is read in its place."""
    folder = tmp_path / "package/properties"
    shutil.copytree(property_file(), folder)
    monkeypatch.setattr(property_files, "files", lambda package: folder.parent)
    return folder


def test_training_preset_of_a_dataset(properties, tiny_dataset):
    (properties / f"dataset/{TINY}.yaml").write_text("training_preset: decoder_only\n")
    config = Config("MACRec", TINY, config_dict={"data_path": str(tiny_dataset)})
    assert (config["training_preset"], config["d_model"]) == ("decoder_only", 320)
    config = Config("MACRec", TINY, config_dict={"data_path": str(tiny_dataset), "training_preset": "narrow"})
    assert (config["training_preset"], config["d_model"]) == ("narrow", 128)


def test_training_preset_of_a_model(properties, tiny_dataset):
    path = properties / "model/TIGER.yaml"
    path.write_text(path.read_text() + "\ntraining_preset: paper\n")
    config = Config("TIGER", TINY, config_dict={"data_path": str(tiny_dataset)})
    assert (config["training_preset"], config["network"], config["epochs"]) == ("paper", "encoder_decoder", 200)


def test_models_without_presets_ignore_training_preset(tiny_dataset, caplog):
    settings = {"data_path": str(tiny_dataset), "training_preset": "decoder_only"}
    with caplog.at_level("WARNING"):
        assert Config("SASRecPerUser", TINY, config_dict=settings)["epochs"] > 0
    assert "SASRecPerUser has no presets, so it ignores training_preset: 'decoder_only'" in caplog.text


@pytest.mark.parametrize("dataset", ["paper", "narrow"])
def test_a_dataset_with_the_name_of_a_preset(dataset):
    assert property_files.preset_files("TIGER", None, dataset) == []


@pytest.mark.parametrize("model", ["MACRec", "SASRecPerUser", "SASRec", "Pop", "VBPR"])
def test_eval_args_of_a_dataset_hold_for_every_model(model, properties, tiny_dataset):
    """Also where RecBole has settings for a type of models, which it reads after those of datasets."""
    (properties / f"dataset/{TINY}.yaml").write_text("eval_args: {mode: uni20}\n")
    config = run_config(model, Request(TINY, settings={"data_path": str(tiny_dataset)}))
    assert config["eval_args"]["mode"] == {"valid": "uni20", "test": "uni20"}
    assert config["eval_args"]["split"] == {"LS": "valid_and_test"} and config["eval_args"]["order"] == "TO"


def test_benchmark_files_of_a_dataset(properties, tmp_path):
    (properties / "dataset/split.yaml").write_text("benchmark_filename: [train, valid, test]\n")
    for name in "split", "whole":
        (tmp_path / "data" / name).mkdir(parents=True)
    check_dataset("split", tmp_path / "data")
    with pytest.raises(UserError, match="Dataset file .*whole.inter does not exist"):
        check_dataset("whole", tmp_path / "data")
