"""The example that rebuilds features from tokenizations."""
import runpy
import sys
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).parents[2] / "examples" / "rebuild_features.py"


def test_items_that_share_codes_get_similar_features(tmp_path, monkeypatch):
    codes = np.random.default_rng(0).integers(256, size=(5, 300, 4))
    codes[:, 1] = codes[:, 0]  # the same in all tokenizations
    codes[:3, 2] = codes[:3, 0]  # in three of five
    np.save(tmp_path / "codes.npy", codes.astype(np.uint8))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(tmp_path / "codes.npy"), str(tmp_path / "features.npy")])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    features = np.load(tmp_path / "features.npy")
    assert features.shape == (300, 256) and features.dtype == np.float32
    distance = np.linalg.norm(features - features[0], axis=1)
    assert distance[1] < 1e-3 < distance[2] < distance[3:].min()
