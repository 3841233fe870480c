"""Recommendations of a trained model equal the ranking of RecBole's evaluation, for any history and any candidates."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, write_tiny_dataset
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.quick_start import load_data_and_model
from recbole.utils import get_model, get_trainer
from recbole.utils.case_study import full_sort_topk
from small_models import ITEMS, SMALL, data_path, prepare  # noqa: F401  data_path is a fixture

from recbole_macrec import Recommender, UserError
from recbole_macrec.generation.decoding.eligible import blocked_nodes, is_blocked
from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.model import MODELS
from recbole_macrec.recommend.__main__ import main

SEARCHES = [("beam", "official"), ("beam", "rescore"), ("exact", "official"), ("certified", "lse"), ("certified", "official")]
HISTORY = ["i4", "i5", "i6", "i7"]


def histories_of(model, test_data):
    """User token -> history of the test part, and the internal user numbers."""
    dataset = test_data.dataset
    users = dataset.inter_feat["user_id"]
    rows = zip(users.tolist(), dataset.inter_feat["item_id_list"].tolist(), dataset.inter_feat["item_length"].tolist())
    tokens = model.semantic_ids.item_tokens
    histories = {dataset.id2token("user_id", u): [tokens[i - 1] for i in items[:n]] for u, items, n in rows}
    return histories, users


def items_of(frame: pd.DataFrame) -> dict:
    return {user: list(rows["item"]) for user, rows in frame.groupby("user", sort=False)}


@pytest.mark.parametrize("name", [model.__name__ for model in MODELS if not model.requires_users])
@pytest.mark.parametrize("decode, fusion", SEARCHES)
def test_recommendations_equal_full_sort_topk(name, decode, fusion, data_path):
    """Both rank more items than the evaluation."""
    _, model, _, (_, _, test) = prepare(name, data_path, decode=decode, fusion=fusion, num_beams=5, topk=[5])
    histories, users = histories_of(model, test)
    frame = model.recommend(histories, k=7)
    scores, items = full_sort_topk(users.numpy(), model, test, k=7)
    assert list(frame.columns) == ["user", "item", "rank", "score"] and len(frame) == 7 * len(users)
    assert list(frame["user"].unique()) == list(histories)
    assert frame["item"].tolist() == test.dataset.id2token("item_id", items.flatten()).tolist()
    assert frame["rank"].tolist() == list(range(1, 8)) * len(users)
    np.testing.assert_allclose(frame["score"], scores.flatten(), atol=1e-4)


@pytest.mark.parametrize("decode", ["exact", "certified"])
def test_few_recommendations_are_the_first_of_the_evaluation(decode, data_path):
    """fusion: official depends on the length of the fused lists, which is that of the evaluation, not k."""
    options = {"decode": decode, "fusion": "official", "num_beams": 3, "topk": [1, 10]}
    _, model, _, (_, _, test) = prepare("MQL4GRec", data_path, **options)
    histories, users = histories_of(model, test)
    _, items = full_sort_topk(users.numpy(), model, test, k=3)
    assert model.recommend(histories, k=3)["item"].tolist() == test.dataset.id2token("item_id", items.flatten()).tolist()


@pytest.mark.parametrize("decode, fusion", SEARCHES)
def test_only_candidates_are_recommended(decode, fusion, data_path):
    _, model, _, (_, _, test) = prepare("MACRec", data_path, decode=decode, fusion=fusion, num_beams=2, topk=[1, 2])
    histories, _ = histories_of(model, test)
    allowed = [f"i{i}" for i in (0, 3, 8, 9, 17, 29)]
    found = items_of(model.recommend(histories, k=6, candidates=allowed))
    assert len(found) == len(histories) and all(sorted(items) == sorted(allowed) for items in found.values())
    few = items_of(model.recommend(histories, k=20, candidates=iter(allowed + allowed[:2])))
    assert few == found
    first = items_of(model.recommend(histories, k=3, candidates=allowed))
    assert all(set(items) <= set(allowed) and len(items) == 3 for items in first.values())


@pytest.mark.parametrize("decode", ["exact", "certified"])
def test_exact_candidates_without_seen_items_equal_the_filtered_full_ranking(decode, data_path):
    _, model, _, (_, _, test) = prepare("MQL4GRec", data_path, decode=decode, fusion="mean")
    histories, _ = histories_of(model, test)
    everything = items_of(model.recommend(histories, k=ITEMS))
    allowed = {f"i{i}" for i in range(0, ITEMS, 3)}
    chosen = items_of(model.recommend(histories, k=5, candidates=allowed, exclude_seen=True))
    for user, items in chosen.items():
        assert items == [i for i in everything[user] if i in allowed and i not in histories[user]][:5]


@pytest.mark.parametrize("decode, fusion", SEARCHES)
def test_exclude_seen_recommends_all_other_items(decode, fusion, data_path):
    """Users get k unseen items if there are k, even if all items of the best beams were seen."""
    _, model, _, _ = prepare("MACRec", data_path, decode=decode, fusion=fusion, num_beams=3, topk=[1])
    long = [f"i{i}" for i in range(25)]  # longer than what the model reads, each item twice
    histories = {"all but five": long + long, "a few": HISTORY, "everything": [f"i{i}" for i in range(ITEMS)]}
    found = items_of(model.recommend(histories, k=10, exclude_seen=True))
    assert sorted(found["all but five"]) == [f"i{i}" for i in range(25, 30)]
    assert len(found["a few"]) == 10 and not set(found["a few"]) & set(HISTORY)
    assert "everything" not in found


def test_the_default_of_exclude_seen_is_the_option_of_the_training(data_path):
    seen = set(HISTORY)
    for option in (False, True):
        _, model, _, _ = prepare("TIGER", data_path, exclude_seen=option)
        found = {way: set(model.recommend([HISTORY], k=ITEMS, exclude_seen=way)["item"]) for way in (None, False, True)}
        assert found[None] == found[option] and found[False] >= seen and not found[True] & seen


def test_trie_nodes_without_eligible_items_are_blocked():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 3, (40, 3))  # 27 IDs: some shared
    trie = Trie(codes, np.arange(1, 41))
    excluded = torch.zeros(5, 60, dtype=torch.long)
    for user in range(5):
        kept = rng.random(40) < 0.2 * user
        out = np.flatnonzero(~kept) + 1
        excluded[user, : len(out)] = torch.from_numpy(rng.permutation(out))
        excluded[user, 40:50] = excluded[user, :10]  # twice, and items that are not there
        excluded[user, 50:] = 1000
    blocked = blocked_nodes(trie, excluded)
    for level in range(3):
        prefixes = np.unique(codes[:, : level + 1], axis=0)
        got = is_blocked(blocked[level], torch.arange(len(prefixes)).expand(5, -1))
        for user in range(5):
            out = set(excluded[user].tolist())
            for node, prefix in enumerate(prefixes):
                below = np.flatnonzero((codes[:, : level + 1] == prefix).all(1)) + 1
                assert bool(got[user, node]) == (set(below.tolist()) <= out)


def test_histories_of_any_length_in_batches_of_any_size(data_path):
    _, model, _, _ = prepare("TIGER", data_path, modalities=["text"])
    recommender = Recommender(model)
    rng = np.random.default_rng(3)
    histories = [[f"i{i}" for i in rng.integers(0, ITEMS, n)] for n in (1, 3, 40, 20, 1, 7)]
    together = recommender.recommend(histories, k=4)
    assert together["user"].tolist() == list(np.repeat(range(6), 4))
    for batch_size in (1, 4):
        pd.testing.assert_frame_equal(recommender.recommend(histories, k=4, batch_size=batch_size), together, atol=1e-5)
    newest = recommender.recommend([row[-20:] for row in histories], k=4)
    pd.testing.assert_frame_equal(newest, together, atol=1e-5)
    no_rows = recommender.recommend({}, k=4)
    assert list(no_rows.columns) == list(together.columns) and no_rows.empty


def test_more_items_than_beams(data_path):
    _, model, _, _ = prepare("TIGER", data_path, modalities=["text"], num_beams=5, topk=[5])
    beams = model.recommend([HISTORY], k=ITEMS)
    pd.testing.assert_frame_equal(beams, model.with_ranking(decode="exact").recommend([HISTORY], k=ITEMS), atol=1e-5)


def test_training_mode_is_kept_and_dropout_is_off(data_path):
    _, model, _, _ = prepare("MACRec", data_path, dropout_prob=0.5)
    model.train()
    pd.testing.assert_frame_equal(model.recommend([HISTORY]), model.recommend([HISTORY]))
    assert model.training and model.network.training


def test_a_loaded_checkpoint_recommends(data_path):
    _, model, trainer, (train, valid, test) = prepare("MACRec", data_path, epochs=1)
    trainer.fit(train, valid)
    trainer.evaluate(test)  # loads the best epoch
    loaded = load_data_and_model(trainer.saved_model_file)[1]
    pd.testing.assert_frame_equal(loaded.recommend([HISTORY]), model.recommend([HISTORY]))
    pd.testing.assert_frame_equal(Recommender.load(trainer.saved_model_file).recommend([HISTORY]), model.recommend([HISTORY]))


@pytest.mark.parametrize("sequences, options, message", [
    ([["i1", "zzz", "i2", "yyy"]], {}, r"user 0 contains 2 items \('zzz', 'yyy'\)"),
    ({"ann": ["i1"], "bob": []}, {}, "'bob'.*without history"),
    (["i1", "i2"], {}, "user 0 is 'i1'"),
    ("i1", {}, "sequences is 'i1'"),
    ([[3]], {}, "3 of type int"),
    ([["i1", None]], {}, "None of type NoneType"),
    ([["i1"]], {"k": 0}, "k is 0"),
    ([["i1"]], {"candidates": []}, "candidates is empty"),
    ([["i1"]], {"candidates": "i1"}, "candidates is 'i1'"),
    ([["i1"]], {"candidates": ["i1", "nope"]}, r"candidates contains 1 item \('nope'\)"),
])
def test_user_errors(sequences, options, message, data_path):
    _, model, _, _ = prepare("TIGER", data_path, modalities=["text"])
    with pytest.raises(UserError, match=message):
        model.recommend(sequences, **options)


def test_models_of_recbole_are_rejected():
    with pytest.raises(UserError, match="Linear can't rank for any history"):
        Recommender(torch.nn.Linear(1, 1))


def test_models_that_require_users_are_rejected(data_path):
    _, model, _, _ = prepare("MMGRec", data_path)
    with pytest.raises(UserError, match="MMGRec reads users .* full_sort_topk"):
        model.recommend([["i1", "i2"]])


@pytest.mark.parametrize("name", ["TIGER", "SASRec"])
def test_moved_dataset_is_found_or_given_by_data_path(name, tmp_path, monkeypatch):
    (tmp_path / "before").mkdir()
    write_tiny_dataset(tmp_path / "before" / "data")
    options = {**SMALL, "modalities": ["text"], "encoders": {"text": "tfidf"}, "quantizer": "rq_kmeans"}
    if name == "SASRec":
        options = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]},
                   "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO"}}
    monkeypatch.chdir(tmp_path / "before")  # so that data_path and checkpoint_dir are relative
    config = Config(name, TINY, config_dict={**options, "data_path": "data", "checkpoint_dir": "saved", "state": "ERROR",
                                             "train_neg_sample_args": None})
    train, _, _ = data_preparation(config, create_dataset(config))
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, get_model(name)(config, train._dataset))
    trainer._save_checkpoint(0, verbose=False)
    file = Path(trainer.saved_model_file)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "before").rename(tmp_path / "after")
    if name == "TIGER":  # moved together: found beside the checkpoint, from any working directory
        expected = Recommender.load(tmp_path / "after" / file).recommend([HISTORY], k=3)
        assert Recommender.load(f"after/{file}").recommend([HISTORY], k=3).equals(expected)
    (tmp_path / "after" / "data").rename(tmp_path / "shelf")
    if name == "TIGER":
        with pytest.raises(
            UserError,
            match=f"the dataset {TINY}, but there is no {TINY}.inter in after/data/{TINY} or data/{TINY}; .*--data_path=DIR",
        ):
            Recommender.load(f"after/{file}")
        assert Recommender.load(f"after/{file}", "shelf").recommend([HISTORY], k=3).equals(expected)
        assert main(["--model_file", f"after/{file}", "--history", "i4", "--data_path", "shelf"]) == 0
        assert main(["--model_file", f"after/{file}", "--history", "i4", "--data_path", "nowhere"]) == 1
    assert load_data_and_model(f"after/{file}", data_path="shelf")[0]["data_path"] == f"shelf/{TINY}"
    with pytest.raises(UserError, match=f"no {TINY}.inter in nowhere/{TINY}"):
        load_data_and_model(f"after/{file}", data_path="nowhere")
