"""``eval_args`` given in part."""
import re
from types import SimpleNamespace

import pytest
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataset import Dataset

from recbole_macrec.benchmark.compare.run_command import main
from recbole_macrec.benchmark.compare.run_model import Request, run_config
from recbole_macrec.config.schema.recbole import EvalArgs, evaluation_modes
from recbole_macrec.errors import UserError

LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO"}
FULL, SAMPLED = ({"valid": mode, "test": mode} for mode in ("full", "uni100"))
RANDOM, BY_TIME = {"RS": [0.8, 0.1, 0.1]}, {"TS": [0.8, 0.1, 0.1]}


@pytest.mark.parametrize("model, given, expected", [
    ("Pop", {"mode": "uni100"}, LEAVE_ONE_OUT | {"mode": SAMPLED}),
    ("SASRec", {"mode": "uni100"}, LEAVE_ONE_OUT | {"mode": SAMPLED}),
    ("TIGER", {"split": {"LS": "test_only"}}, LEAVE_ONE_OUT | {"split": {"LS": "test_only"}, "mode": FULL}),
    ("Pop", {"split": RANDOM}, {"split": RANDOM, "group_by": "user", "order": "RO", "mode": FULL}),
    ("Pop", {"split": BY_TIME}, {"split": BY_TIME, "group_by": "user", "order": "TO", "mode": FULL}),
    ("MMGRec", {"split": RANDOM}, {"split": RANDOM, "group_by": "user", "order": "RO", "mode": FULL}),
    ("SASRec", {"split": RANDOM}, {"split": RANDOM, "group_by": "user", "order": "TO", "mode": FULL}),
    ("TIGER", {"split": RANDOM}, {"split": RANDOM, "group_by": "user", "order": "TO", "mode": FULL}),
])  # fmt: skip
def test_missing_entries_are_those_of_the_protocol(model, given, expected):
    assert run_config(model, Request("arts-toy", settings={"eval_args": given}))["eval_args"] == expected


def test_models_of_recbole_without_our_commands_keep_the_defaults_of_recbole():
    config = Config("Pop", "arts-toy", config_dict={"eval_args": {"mode": "uni100"}})
    assert config["eval_args"] == {"split": RANDOM, "group_by": "user", "order": "RO", "mode": SAMPLED}


@pytest.mark.parametrize("given, expected", [
    ({"split": RANDOM | BY_TIME}, "eval_args.split has RS and TS; expected one of"),
    ({"split": {}}, "eval_args.split has no split; expected one of"),
    ({"split": {"LS": None}}, "eval_args.split has LS; expected one of"),
    ({"split": {"RS": [0.8, 0.2]}}, "eval_args.split.RS is [0.8, 0.2]; expected three numbers >= 0"),
    ({"split": {"TS": [0, 0.5, 0.5]}}, "eval_args.split.TS is [0, 0.5, 0.5]; expected three numbers >= 0, the first above 0"),
    ({"split": BY_TIME, "order": "RO"}, "eval_args has the split TS and the order RO; set order to TO."),
])  # fmt: skip
def test_invalid_splits(given, expected):
    with pytest.raises(UserError, match=re.escape(expected)):
        run_config("Pop", Request("arts-toy", settings={"eval_args": given}))


@pytest.mark.skipif(not hasattr(Dataset, "time_based_split"), reason="RecBole 1.2.0 has no split by time")
@pytest.mark.parametrize("model", ["Pop", "SASRec"])
def test_a_split_by_time(model, tiny_dataset):
    """Users of ``tiny`` are active one after the other, so all tests are of the last ones."""
    eval_args = {"split": BY_TIME}
    config = run_config(model, Request("tiny", settings={"data_path": str(tiny_dataset), "eval_args": eval_args}))
    train, valid, test = create_dataset(config).build()
    latest = max(part.inter_feat["timestamp"].max() for part in (train, valid))
    assert len(test) and test.inter_feat["timestamp"].min() > latest


def test_models_of_one_epoch_are_validated_with_any_eval_step(tiny_dataset, capsys):
    words = ["--model=Pop,EASE", "--dataset=tiny", f"--data_path={tiny_dataset}", "--eval_step=5", "--show_progress=False"]
    assert main([*words, "--state=ERROR"]) == 0
    assert "EASE" in capsys.readouterr().out


@pytest.mark.parametrize("mode, expected", [("labeled", {"labeled"}), ({"valid": "labeled"}, {"labeled"}), ({}, {"full"}),
                                            ({"valid": "full", "test": "uni100"}, {"full", "uni100"})])
def test_a_mode_of_one_evaluation_is_that_of_both(mode, expected):
    """As in RecBole."""
    options = SimpleNamespace(eval_args=EvalArgs(mode=mode))
    assert set(evaluation_modes(options)) == expected
