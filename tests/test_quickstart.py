"""The notebook in ``examples/`` runs from top to bottom."""
import json
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
from conftest import NETWORK

ROOT = Path(__file__).resolve().parents[1]


def test_quickstart_runs(tmp_path, monkeypatch, capsys):
    """Uses one epoch instead of twelve, a small network, and a copy of the dataset."""
    shutil.copytree(
        ROOT / "dataset" / "arts-toy",
        tmp_path / "dataset" / "arts-toy",
        ignore=shutil.ignore_patterns("semantic_ids", "features"),
    )
    (tmp_path / "examples").mkdir()
    monkeypatch.chdir(tmp_path / "examples")
    plt.switch_backend("agg")
    cells = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert "epochs = 12" in sources[0]
    assert '"epochs": epochs,' in sources[1]
    sources[0] = sources[0].replace("epochs = 12", "epochs = 1")
    sources[1] = sources[1].replace('"epochs": epochs,', f'"epochs": epochs, **{NETWORK},')
    names: dict = {}
    for source in sources:
        exec(compile(source, "quickstart.ipynb", "exec"), names)
    plt.close("all")
    assert "| MQL4GRec |" in capsys.readouterr().out
    last = names["recommender"].recommend({"ann": ["toy242", "toy240"]}, k=5, exclude_seen=True)
    assert len(last) == 5 and not {"toy242", "toy240"} & set(last["item"])
