"""Data whose users have so few interactions that a split leaves nothing to train on, to validate or to test."""
import json
import logging
from pathlib import Path

import pytest
from recbole.quick_start import run_recbole
from small_models import SMALL, TINY, data_path  # noqa: F401  data_path is a fixture

from recbole_macrec.benchmark.compare.run_command import main
from recbole_macrec.errors import UserError

COLUMNS = {"inter": ["user_id", "item_id", "timestamp"]}


def shorten(path: Path, *lengths: int) -> None:
    """Keep the first interactions of each user; ``lengths`` gives their numbers in turn."""
    file = path / TINY / f"{TINY}.inter"
    kept, counts = [], {}
    for line in file.read_text().splitlines():
        user = line.split("\t")[0]
        counts[user] = counts.get(user, 0) + 1
        most = lengths[len(counts) % len(lengths)]
        kept += [line] * (counts[user] <= most or not kept)
    file.write_text("\n".join(kept) + "\n")


def arguments(model: str, path: Path, **options) -> list[str]:
    settings = {**SMALL, "epochs": 1, "rqvae_epochs": 2, "rqvae_warmup_epochs": 1, "data_path": path, **options}
    settings = {
        name: value
        for name, value in settings.items()
        if model == "TIGER" or name in ("data_path", "epochs", "eval_args", "state")
    }
    if model == "TIGER":
        settings |= {"modalities": "['text']", "max_modalities": 1}
    return [
        f"--model={model}",
        f"--dataset={TINY}",
        "--show_progress=False",
        *(f"--{k}={v}" for k, v in settings.items() if k != "show_progress"),
    ]


@pytest.mark.parametrize(
    "model, lengths, expected",
    [
        (
            "TIGER",
            (1,),
            "leaves no interaction to train on: the 40 users have at most 1 interaction each, and TIGER needs three",
        ),
        ("SASRec", (1,), "leaves no interaction to train on"),
        ("TIGER", (2,), "leaves no interaction to test: the 40 users have at most 2 interactions each, and TIGER needs three"),
        ("GRU4Rec", (1, 2), "leaves no interaction to test"),
        (
            "BPR",
            (1,),
            "leaves no interaction to test: the 40 users have at most 1 interaction each, and BPR needs two per user",
        ),
    ],
)
def test_missing_data_is_a_one_line_error_before_training(model, lengths, expected, data_path, capsys):
    shorten(data_path, *lengths)
    assert main(arguments(model, data_path)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: tiny: the split") and error.count("\n") == 1 and expected in error
    assert not (data_path / TINY / "semantic_ids").exists() and not list(Path("saved").glob("*.pth"))


@pytest.mark.parametrize("model, length", [("TIGER", 3), ("GRU4Rec", 3), ("BPR", 2)])
def test_last_epoch_is_tested_without_validation_data(model, length, data_path, caplog):
    shorten(data_path, length)
    argv = [word for word in arguments(model, data_path) if not word.startswith("--state")]
    assert main([*argv, "--result_file=r.json"]) == 0
    record = json.loads(Path("r.json").read_text())
    assert record["test_result"]["hit@10"] >= 0 and record["best_valid_result"] is None and record["best_valid_score"] is None
    assert "No interaction is left to validate" in caplog.text


def test_split_without_test_data_is_an_error(data_path, capsys):
    split = {"split": {"LS": "valid_only"}, "order": "TO", "group_by": "user", "mode": "full"}
    assert main(arguments("GRU4Rec", data_path, eval_args=split)) == 1
    assert "which leaves no test data for the results" in capsys.readouterr().err
    logging.getLogger().setLevel(logging.ERROR)
    config = {"data_path": str(data_path), "eval_args": split, "epochs": 1, "show_progress": False,
              "train_neg_sample_args": None, "load_col": COLUMNS}  # fmt: skip
    assert run_recbole("GRU4Rec", TINY, config_dict=config)["test_result"] is None  # as in RecBole


def test_recboles_quick_start_raises_the_same_error(data_path):
    shorten(data_path, 2)
    config = {"data_path": str(data_path), "epochs": 1, "train_neg_sample_args": None, "load_col": COLUMNS,
              "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}}  # fmt: skip
    with pytest.raises(UserError, match="leaves no interaction to test"):
        run_recbole("SASRec", TINY, config_dict=config)
