"""RecBole's own models run, save, load and rank on the installed libraries."""
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.quick_start import load_data_and_model, objective_function, quick_start, run_recbole
from recbole.utils import get_model, get_trainer

from recbole_macrec import compat

FAST = {
    "epochs": 1,
    "train_batch_size": 64,
    "show_progress": False,
    "state": "ERROR",
    "MAX_ITEM_LIST_LENGTH": 5,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "price", "categories"]},
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "metrics": ["Hit", "NDCG"],
    "topk": [1, 5, 10],
    "valid_metric": "NDCG@10",
    "selected_features": ["categories"],
    "item_attribute": "categories",
    "save_dataset": True,
}


def fast(data_path, **settings) -> dict:
    return {**FAST, "data_path": str(data_path), **settings}


def checkpoint(tmp_path, model: str) -> str:
    (path,) = [p for p in (tmp_path / "saved").glob(f"{model}-*.pth") if "tiny" not in p.name]
    return str(path)


@pytest.mark.parametrize("model", ["Pop", "SASRec", "BERT4Rec", "GRU4Rec", "LightGCN", "NGCF", "FDSA"])
def test_baseline_runs_and_its_checkpoint_ranks_the_same(model, tiny_dataset, tmp_path):
    result = run_recbole(model, "tiny", config_dict=fast(tiny_dataset))["test_result"]
    assert 0 < result["hit@10"] <= 1
    assert all(type(value) is float for value in result.values())
    config, model, _, _, _, test_data = load_data_and_model(checkpoint(tmp_path, model))
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])
    assert trainer(config, model).evaluate(test_data, load_best_model=False) == result


def test_s3rec_pretrains_then_finetunes(tiny_dataset):
    settings = fast(tiny_dataset, pretrain_epochs=1, save_step=1)
    run_recbole("S3Rec", "tiny", config_dict={**settings, "train_stage": "pretrain"})
    finetune = {**settings, "train_stage": "finetune", "pre_model_path": "./saved/S3Rec-tiny-1.pth"}
    assert run_recbole("S3Rec", "tiny", config_dict=finetune)["test_result"]["hit@10"] > 0


def test_objective_function_reports_to_nobody_without_ray(tiny_dataset):
    result = objective_function(config_dict=fast(tiny_dataset, model="Pop", dataset="tiny"))
    assert result["test_result"]["hit@10"] > 0


@pytest.mark.parametrize("takes_a_dict", [True, False])
def test_report_suits_the_ray_of_the_process(takes_a_dict, monkeypatch):
    seen = {}
    ray, tune = types.ModuleType("ray"), types.ModuleType("ray.tune")
    ray.is_initialized, ray.tune = lambda: True, tune
    if takes_a_dict:
        tune.report = lambda metrics, checkpoint=None: seen.update(metrics)
    else:
        tune.report = lambda **metrics: seen.update(metrics)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.tune", tune)
    quick_start.tune.report(**{"hit@10": 0.5})
    assert seen == {"hit@10": 0.5}


def test_missing_features_are_filled(tiny_dataset):
    dataset = create_dataset(Config("SASRec", "tiny", config_dict=fast(tiny_dataset)))
    items = {token: row for row, token in enumerate(dataset.field2id_token["item_id"])}
    prices = dataset.item_feat["price"]
    assert not prices.isna().any()
    known = [float(i) + 0.5 for i in range(30) if i != 3]
    assert prices[items["i3"]] == pytest.approx(np.mean(known))
    assert len(dataset.item_feat["categories"][items["i5"]]) == 0
    assert len(dataset.item_feat["categories"][items["i4"]]) == 2


def test_torch_gets_writable_columns(tiny_dataset, recwarn):
    config = Config("SASRec", "tiny", config_dict=fast(tiny_dataset))
    data_preparation(config, create_dataset(config))
    assert not [warning for warning in recwarn if "not writable" in str(warning.message)]


def test_repairs_leave_pandas_and_torch_as_they_are(tiny_dataset, tmp_path):
    run_recbole("SASRec", "tiny", config_dict=fast(tiny_dataset))
    with pytest.raises(Exception, match="[Ww]eights.only"):
        torch.load(checkpoint(tmp_path, "SASRec"))
    compat.apply()
    if int(pd.__version__.split(".")[0]) >= 3:
        assert pd.Series([[1, 2], [3]]).agg(len) == 2


@pytest.mark.parametrize("text", ["input.pth", "all.json", "1/0", "saved/S3Rec-tiny-1.pth"])
def test_values_that_are_no_python_stay_text(text, tiny_dataset):
    config = Config("SASRec", "tiny", config_dict=fast(tiny_dataset, pre_model_path=text, epochs="3"))
    assert config["pre_model_path"] == text
    assert config["epochs"] == 3


@pytest.mark.parametrize("name", ["NGCF", "GRU4RecKG"])
def test_no_dropout_while_ranking(name, tiny_dataset):
    rates = {"message_dropout": 0.5, "dropout_prob": 0.5}
    config = Config(name, "tiny", config_dict=fast(tiny_dataset, additional_feat_suffix=None, embedding_size=8, **rates))
    data = (Dataset if name == "NGCF" else SequentialDataset)(config).build()[0]
    data.get_preload_weight = lambda field: np.ones((data.item_num, 8), dtype=np.float32)
    model = get_model(name)(config, data)
    batch = () if name == "NGCF" else (torch.ones(1, 5, dtype=torch.long), torch.tensor([5]))
    first, again, training = model.eval()(*batch), model(*batch), model.train()(*batch)
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], training[0])
