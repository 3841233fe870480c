"""``eval_args`` given in part."""
import pytest
from recbole.config import Config

from recbole_macrec.benchmark.compare.command import main
from recbole_macrec.benchmark.compare.run_model import Request, config_of

LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO"}
FULL, SAMPLED = ({"valid": mode, "test": mode} for mode in ("full", "uni100"))
RANDOM = {"RS": [0.8, 0.1, 0.1]}


@pytest.mark.parametrize("model, given, expected", [
    ("Pop", {"mode": "uni100"}, LEAVE_ONE_OUT | {"mode": SAMPLED}),
    ("SASRec", {"mode": "uni100"}, LEAVE_ONE_OUT | {"mode": SAMPLED}),
    ("TIGER", {"split": {"LS": "test_only"}}, LEAVE_ONE_OUT | {"split": {"LS": "test_only"}, "mode": FULL}),
    ("Pop", {"split": RANDOM}, {"split": RANDOM, "group_by": "user", "order": "RO", "mode": FULL}),
    ("MMGRec", {"split": RANDOM}, {"split": RANDOM, "group_by": "user", "order": "RO", "mode": FULL}),
    ("SASRec", {"split": RANDOM}, {"split": RANDOM, "group_by": "user", "order": "TO", "mode": FULL}),
    ("TIGER", {"split": RANDOM}, {"split": RANDOM, "group_by": "user", "order": "TO", "mode": FULL}),
])  # fmt: skip
def test_missing_entries_are_those_of_the_protocol(model, given, expected):
    assert config_of(model, Request("arts-toy", settings={"eval_args": given}))["eval_args"] == expected


def test_models_of_recbole_without_our_commands_keep_the_defaults_of_recbole():
    config = Config("Pop", "arts-toy", config_dict={"eval_args": {"mode": "uni100"}})
    assert config["eval_args"] == {"split": RANDOM, "group_by": "user", "order": "RO", "mode": SAMPLED}


def test_models_of_one_epoch_are_validated_with_any_eval_step(tiny_dataset, capsys):
    words = ["--model=Pop,EASE", "--dataset=tiny", f"--data_path={tiny_dataset}", "--eval_step=5", "--show_progress=False"]
    assert main([*words, "--state=ERROR"]) == 0
    assert "EASE" in capsys.readouterr().out
