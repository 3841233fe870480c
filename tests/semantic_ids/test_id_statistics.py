"""Statistics on cases small enough to count by hand."""
import json

import numpy as np
import pytest

from recbole_macrec.semantic_ids.statistics import (
    code_statistics,
    collision_rate,
    one_hot,
    predictability,
    usage_and_perplexity,
)


def test_collisions_usage_and_perplexity_by_hand():
    codes = np.array([[0, 1], [0, 1], [2, 3], [2, 1]])
    assert collision_rate(codes) == 0.25
    usage, perplexity = usage_and_perplexity(codes, (4, 4))
    assert usage == [2, 2]
    # level 0 is half and half: exp(log 2); level 1 is 3/4 and 1/4: exp(0.5623)
    assert perplexity == pytest.approx([2.0, 1.755], abs=1e-3)


def test_one_hot_by_hand():
    assert one_hot(np.array([[1, 0], [0, 2]]), (2, 3)).toarray().tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]


def test_predictability_is_high_for_functions_of_the_codes_and_zero_for_noise():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 5, (600, 2))
    words = rng.normal(size=(2, 5, 7))
    predictable = words[0, codes[:, 0]] + words[1, codes[:, 1]]
    half = words[0, codes[:, 0]]  + rng.normal(size=(600, 7)) * words[0].std()
    noise = rng.normal(size=(600, 7))
    own, partly, nothing = (predictability(codes, (5, 5), x, seed=0) for x in (predictable, half, noise))
    assert own > 0.98 and 0.3 < partly < 0.7 and -0.2 < nothing < 0.05
    assert predictability(codes, (5, 5), np.ones((600, 3)), seed=0) == 0.0


def test_unused_codes_do_not_change_predictability_and_many_codes_have_none(monkeypatch):
    rng = np.random.default_rng(0)
    codes, features = rng.integers(0, 5, (600, 2)), rng.normal(size=(600, 7))
    expected = predictability(codes, (5, 5), features, seed=0)
    assert predictability(codes * 3, (40, 40), features, seed=0) == pytest.approx(expected, abs=1e-4)
    monkeypatch.setattr("recbole_macrec.semantic_ids.statistics.MOST_CODES", 9)
    assert predictability(codes, (5, 5), features, seed=0) is None


def test_statistics_are_plain_json_and_complete():
    raw, resolved = np.array([[0, 1], [0, 1], [2, 3]]), np.array([[0, 1], [0, 2], [2, 3]])
    features = {"text": np.eye(3, dtype=np.float32), "image": np.ones((3, 2), dtype=np.float32)}
    statistics = code_statistics(raw, (4, 4), resolved, features, 0, np.float32(0.5))
    assert json.loads(json.dumps(statistics)) == statistics
    assert statistics["items"] == 3 and statistics["distinct"] == 2
    assert statistics["collision_rate"] == pytest.approx(1 / 3) and statistics["collision_rate_after"] == 0
    assert statistics["reconstruction_error"] == 0.5 and set(statistics["predictability"]) == {"text", "image"}
