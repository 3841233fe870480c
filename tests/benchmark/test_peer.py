"""VBPR compared with cornac's: copied parameters, and the message without cornac. With cornac installed, also training."""
import json
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from planted import ITEMS, NAME, prepare, write_planted

from recbole_macrec.benchmark.__main__ import main
from recbole_macrec.benchmark.speed import peer


def test_scores_with_copied_parameters_follow_the_formula(tmp_path):
    """s_ui = b_i + g_u . g_i + t_u . (W x_i) + c . x_i, without the padding."""
    _, model, _, _ = prepare("VBPR", write_planted(tmp_path / "data"))
    rng = np.random.default_rng(0)
    x = model.x[1:].numpy()
    users, (items, features), width = model.n_users - 1, x.shape, model.width
    theirs = SimpleNamespace(
        gamma_user=rng.standard_normal((users, width)), gamma_item=rng.standard_normal((items, width)),
        theta_user=rng.standard_normal((users, width)), emb_matrix=rng.standard_normal((features, width)),
        beta_item=rng.standard_normal(items), beta_prime=rng.standard_normal((features, 1)),
    )
    scores = theirs.beta_item + theirs.gamma_user @ theirs.gamma_item.T + (x @ theirs.beta_prime).T
    scores = scores + theirs.theta_user @ (x @ theirs.emb_matrix).T
    theirs.score = scores.__getitem__
    peer.copy_parameters(theirs, model)
    assert peer.score_difference(theirs, model) < 1e-4
    with torch.no_grad():
        model.feature_bias += 1
    assert peer.score_difference(theirs, model) > 0.1


def test_metrics_of_seeds_by_hand():
    assert peer.mean_and_deviation([{"recall@10": 0.1}, {"recall@10": 0.3}]) == {"recall@10": [0.2, 0.1414]}


def test_without_cornac_a_sentence_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(peer, "find_spec", lambda name: None)
    assert main(["peer", "--dataset=ml-100k"]) == 1
    assert "pip install cornac" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("cornac") is None, reason="cornac is not installed")
def test_both_learn_a_planted_pattern(tmp_path, capsys):
    path = write_planted(tmp_path / "data")
    assert main(["peer", f"--dataset={NAME}", f"--data_path={path}", "--epochs=15", "--batch=64", "--seeds=1"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["score_difference"] < 1e-3
    assert min(record[name]["recall@10"][0] for name in ("ours", "cornac")) > 2 * 10 / ITEMS
