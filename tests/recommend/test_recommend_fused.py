"""Recommendations of SASRecPerUser, and of several models together."""
from functools import cache

import numpy as np
import pytest
import torch
from recbole.utils.case_study import full_sort_topk
from small_models import ITEMS, data_path, prepare, write_small_dataset  # noqa: F401  data_path is a fixture

from recbole_macrec import Recommender, UserError

HISTORIES = {"a": ["i4", "i5", "i6"], "b": ["i9"], "c": ["i1", "i2", "i3", "i1"]}


@pytest.fixture(scope="module")
def train_pair(tmp_path_factory):
    """Function that trains the models of ``pair``, once for all tests."""

    @cache
    def train() -> list[Recommender]:
        path, pair = write_small_dataset(tmp_path_factory.mktemp("pair") / "data"), []
        options = {"decode": "certified", "fusion": "lse"}
        for name, own in (("MACRec", options), ("SASRecPerUser", {})):
            _, model, trainer, (train, _, _) = prepare(name, path, epochs=2, **own)
            trainer.fit(train, None, saved=False)
            model.eval()
            pair.append(Recommender(model))
        return pair

    return train


@pytest.fixture
def pair(train_pair):
    """A generative and a dense model after a short training."""
    return train_pair()


def lists(frame):
    return {user: list(rows["item"]) for user, rows in frame.groupby("user", sort=False)}


@pytest.mark.parametrize("item_features", ["none", "codes"])
def test_recommendations_of_a_dense_model_equal_full_sort_topk(item_features, data_path, tmp_path):
    _, model, _, (_, _, test) = prepare("SASRecPerUser", data_path, item_features=item_features)
    data, tokens = test.dataset.inter_feat, np.array(model.item_tokens)
    rows = zip(data["item_id_list"].tolist(), data["item_length"].tolist())
    recommender = Recommender(model)
    frame = recommender.recommend([list(tokens[items[:n]]) for items, n in rows], k=7)
    _, items = full_sort_topk(data["user_id"].numpy(), model, test, k=7)
    assert frame["item"].tolist() == tokens[items.flatten()].tolist()
    seen = recommender.recommend(HISTORIES, k=ITEMS, exclude_seen=True)
    assert lists(seen)["b"].count("i9") == 0 and len(lists(seen)["a"]) == ITEMS - 3
    some = recommender.recommend(HISTORIES, 5, candidates=["i3", "i8"])
    assert set(some["item"]) == {"i3", "i8"}
    scores = recommender.recommend(HISTORIES, k=ITEMS).set_index(["user", "item"])["score"]  # of a softmax over all items
    assert some["score"].tolist() == scores.loc[list(zip(some["user"], some["item"]))].tolist()
    recommender.save_pretrained(tmp_path / "folder")
    again = Recommender.load(tmp_path / "folder")
    assert again.recommend(HISTORIES).equals(recommender.recommend(HISTORIES))


def test_a_dense_model_cannot_read_new_items(data_path):
    _, model, _, _ = prepare("SASRecPerUser", data_path)
    with pytest.raises(UserError, match="an embedding of its own for every item"):
        Recommender(model).add_items({"text": {"new": np.zeros(12)}, "image": {"new": np.zeros(12)}})


def test_fused_scores_are_the_weighted_log_probabilities_of_all_items(pair):
    """If all items are candidates, the list equals brute force over the catalogue."""
    fused = Recommender.fuse(pair, [0.7, 0.3], top=ITEMS)
    frame = fused.recommend(HISTORIES, k=ITEMS)
    names = pair[0].item_tokens
    total = torch.zeros(len(HISTORIES), ITEMS)
    for recommender, weight in zip(pair, (0.7, 0.3)):
        numbers = {token: i for i, token in enumerate(recommender.item_tokens, 1)}
        rows = [[numbers[item] for item in history] for history in HISTORIES.values()]
        items = torch.tensor([numbers[name] for name in names]).expand(len(rows), -1)
        with torch.no_grad():
            total += weight * recommender.scores(rows, items)
    for user, scores in zip(HISTORIES, total):
        found = frame[frame["user"] == user]
        expected = scores.sort(descending=True).values
        np.testing.assert_allclose(found["score"], expected, atol=1e-5)
        by_name = dict(zip(names, scores.tolist()))
        np.testing.assert_allclose([by_name[item] for item in found["item"]], expected, atol=1e-5)


def test_zero_weight_gives_the_list_of_the_other_model(pair):
    assert lists(Recommender.fuse(pair, [0, 1], top=10).recommend(HISTORIES)) == lists(pair[1].recommend(HISTORIES))
    assert lists(Recommender.fuse(pair, [2, 0], top=10).recommend(HISTORIES)) == lists(pair[0].recommend(HISTORIES))


def test_candidates_and_exclude_seen_apply_to_every_model(pair):
    fused = Recommender.fuse(pair, [1, 1], top=5)
    assert set(fused.recommend(HISTORIES, 4, candidates=["i3", "i8"])["item"]) == {"i3", "i8"}
    seen = lists(fused.recommend(HISTORIES, 20, exclude_seen=True))
    assert all(not set(HISTORIES[user]) & set(items) for user, items in seen.items())


def test_few_recommendations_are_the_first_of_many(pair):
    """The candidates are the ``top`` best items of each model, however few are recommended."""
    fused = Recommender.fuse(pair, [1, 1], top=10)
    many = lists(fused.recommend(HISTORIES, 10))
    for k in (1, 2, 3):
        assert lists(fused.recommend(HISTORIES, k)) == {user: items[:k] for user, items in many.items()}


def test_seen_items_are_excluded_if_a_model_was_trained_without_them(data_path):
    models = [Recommender(prepare("SASRecPerUser", data_path, exclude_seen=excluded)[1]) for excluded in (False, True)]
    assert Recommender.fuse(models, [1, 1]).excludes_seen and not Recommender.fuse(models[:1] * 2, [1, 1]).excludes_seen


def test_a_fusion_is_saved_as_one_folder(pair, tmp_path):
    fused = Recommender.fuse(pair, [0.7, 0.3])
    fused.save_pretrained(tmp_path / "fused")
    again = Recommender.load(tmp_path / "fused")
    assert again.recommend(HISTORIES).equals(fused.recommend(HISTORIES))
    with pytest.raises(UserError, match="already exists"):
        fused.save_pretrained(tmp_path / "fused")
    fused.save_pretrained(tmp_path / "fused", overwrite=True)
    for foreign in ("notes.txt", "0/notes.txt"):
        (tmp_path / "fused" / foreign).write_text("mine")
        with pytest.raises(UserError, match="already exists"):
            fused.save_pretrained(tmp_path / "fused", overwrite=True)
        (tmp_path / "fused" / foreign).unlink()
    (tmp_path / "fused" / "fusion.json").write_text("{}")
    with pytest.raises(UserError, match="can't be read as a fusion"):
        Recommender.load(tmp_path / "fused")


def test_items_added_to_the_models_of_a_fusion(data_path):
    models = [Recommender(prepare(name, data_path)[1]) for name in ("MACRec", "MQL4GRec")]
    fused = Recommender.fuse(models, [0.5, 0.5], top=2 * ITEMS)
    fused.recommend(HISTORIES)
    x, y = {"x": np.zeros(12)}, {"y": np.ones(12)}
    models[0].add_items({"text": x | y, "image": x | y})
    with pytest.raises(UserError, match="know different items"):
        fused.recommend(HISTORIES)
    models[1].add_items({"text": y | x, "image": y | x})  # numbered in another order
    frame = fused.recommend([["i4", "y"]], k=2 * ITEMS)
    assert set(frame["item"]) == set(fused.item_tokens) == set(models[0].item_tokens) and len(frame) == ITEMS + 2
    assert frame.equals(Recommender.fuse(models, [0.5, 0.5], top=2 * ITEMS).recommend([["i4", "y"]], k=2 * ITEMS))
    assert set(fused.recommend([["i4", "y"]], candidates=["i3", "x"])["item"]) == {"i3", "x"}
    total = torch.zeros(ITEMS + 2)
    for model in models:
        numbers = {token: number for number, token in enumerate(model.item_tokens, 1)}
        items = torch.tensor([[numbers[token] for token in fused.item_tokens]])
        total += 0.5 * model.scores([[numbers["i4"], numbers["y"]]], items)[0].detach()
    np.testing.assert_allclose(frame.set_index("item")["score"][list(fused.item_tokens)], total, atol=1e-5)


@pytest.mark.parametrize("weights", [[1], [0, 0], [-1, 2], [float("nan"), 1], ["a", "b"]])
def test_invalid_weights_are_user_errors(pair, weights):
    with pytest.raises(UserError, match="weights"):
        Recommender.fuse(pair, weights)


@pytest.mark.parametrize("top", [0, 2.5, "10"])
def test_an_invalid_number_of_candidates_is_a_user_error(pair, top):
    with pytest.raises(UserError, match="top is .*; expected a whole number >= 1"):
        Recommender.fuse(pair, [1, 1], top=top)


def test_only_single_models_are_fused(pair):
    with pytest.raises(UserError, match="recommenders contains a FusedRecommender; .* those of its models"):
        Recommender.fuse([pair[0], Recommender.fuse(pair, [1, 1])], [1, 1])
