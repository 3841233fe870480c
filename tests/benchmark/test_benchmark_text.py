"""``benchmark text``: every text-to-text model ranks the same items as ``generate`` of transformers. Times are not checked."""
import json

import pytest
from conftest import TINY
from small_models import ITEMS, data_path  # noqa: F401  a fixture

from recbole_macrec.benchmark.__main__ import main
from recbole_macrec.benchmark.speed import text

SMALL = [
    "--batch=64",
    "--repeats=1",
    "--training_steps=3",
    "--users=16",
    "--reference_users=8",
    "--reference_batch=5",
    "--timed_steps=1",
]


def test_ranking_equals_generate_of_transformers(data_path, capsys, monkeypatch):
    folder = data_path / TINY
    for file in (folder / "features").glob("text.*"):  # without text features the published IDs are used
        file.unlink()
    (folder / "semantic_ids").mkdir()
    ids = {f"i{i}": [f"<a_{i % 3}>", f"<b_{i // 3 % 4}>", f"<c_{i}>"] for i in range(ITEMS)}
    (folder / "semantic_ids" / "text.json").write_text(json.dumps(ids))
    monkeypatch.setattr(text, "in_own_process", lambda measure, *arguments: measure(*arguments))
    assert main(["text", f"--dataset={TINY}", f"--data_path={data_path}", *SMALL]) == 0
    record = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    for name in ("P5", "VIP5", "LCRec"):
        measured = record[name]
        assert measured["same_lists"] == 1 and measured["backbone"].startswith("tiny (random weights")
        assert measured["training_samples_per_s"] > 0 and measured["peak_memory_mib"] > 50
        assert measured["speedup"] == pytest.approx(measured["users_per_s"] / measured["reference_users_per_s"], rel=0.01)
    assert record["VIP5"]["trained_parameters"] < record["VIP5"]["parameters"]
