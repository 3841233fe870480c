"""Values with which RecBole would fail later are rejected when the settings are read, also from Python."""
import pytest
from conftest import TINY
from recbole.config import Config

from recbole_macrec.config.validation import check_valid_metric
from recbole_macrec.errors import UserError


def config(data_path, **settings):
    return Config(
        "Pop",
        TINY,
        config_dict={"data_path": str(data_path), "metrics": ["Hit"], "topk": 5, "valid_metric": "Hit@5", **settings},
    )


@pytest.mark.parametrize("name, value, expected", [
    ("epochs", "abc", ">= 0"),
    ("epochs", -2, ">= 0"),
    ("eval_step", 0.5, ">= 0"),
    ("train_batch_size", 0, ">= 1"),
    ("eval_batch_size", True, ">= 1"),
    ("seed", "abc", "from 0 to 4294967295"),
    ("learning_rate", "fast", "a number"),
    ("learning_rate", -1, "a number"),
    ("valid_metric", "Hit@10", "Hit@5"),
    ("valid_metric", "NDCG@5", "Hit@5"),
    ("valid_metric", "Hit", "Hit@5"),
])
def test_invalid_values_are_rejected(name, value, expected, tiny_dataset):
    with pytest.raises(UserError, match=f"^{name} is {value!r}.*{expected}"):
        check_valid_metric(config(tiny_dataset, **{name: value}))


@pytest.mark.parametrize("name, value, expected", [
    ("num_beams", 5, "at least 10, the largest topk"),
    ("num_beams", "many", ">= 1"),
    ("num_heads", 0, "from 1 to 1024"),
    ("d_model", True, "from 1 to 65536"),
    ("dropout_prob", 0.999, "from 0 to 0.99"),
    ("dropout_prob", "much", "a number"),
    ("fusion", "sum", "official, mean, lse or rescore"),
    ("decode", "exakt", "Did you mean 'exact'"),
    ("decode", "certifed", "Did you mean 'certified'"),
    ("certified_rows", 0, ">= 1"),
    ("precision", "fp8", "auto, fp32, tf32 or bf16"),
    ("scheduler", "step", "cosine, linear or constant"),
    ("quantizer", "rqvea", "Did you mean 'rqvae'"),
    ("codebook_size", 0, ">= 2"),
    ("semantic_ids", "guess", "learn"),
])
def test_invalid_options_of_our_models_are_rejected_before_data_is_read(name, value, expected, tmp_path):
    settings = {"data_path": str(tmp_path), "topk": [10], "valid_metric": "Hit@10", "decode": "beam", name: value}
    with pytest.raises(UserError, match=f"^{name} is {value!r}.*{expected}"):
        Config("TIGER", "no such dataset", config_dict=settings)


@pytest.mark.parametrize("settings", [
    {},
    {"valid_metric": "hit@5", "learning_rate": 0, "seed": 0},
    {"valid_metric": "MRR@10", "eval_step": 0},
    {"metrics": ["AUC"], "valid_metric": "AUC", "eval_args": {"mode": "labeled"}},
    {"metrics": ["Hit", "GAUC"], "valid_metric": "GAUC"},
    {"metrics": "Recall", "topk": [10, 20], "valid_metric": "Recall@20"},
])
def test_valid_values_are_accepted(settings, tiny_dataset):
    check_valid_metric(config(tiny_dataset, **settings))
