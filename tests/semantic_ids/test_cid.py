"""``quantizer: cid``: IDs from the graph of items with common users."""
import json
import logging

import numpy as np
import pandas as pd
import pytest
from conftest import TINY, write_tiny_dataset
from scipy.sparse import csr_matrix
from small_models import SMALL, prepare_run

from recbole_macrec import Recommender, UserError
from recbole_macrec.semantic_ids.quantizers.cid import cluster_paths, common_users, rectangular_codes

WITHOUT_FEATURES = {**SMALL, "modalities": None, "quantizer": "cid", "cid_clusters": 3, "cid_leaf_size": 8, "epochs": 1}


def two_communities(users: int = 60, items: int = 20, seed: int = 0) -> csr_matrix:
    """Users of each half interact with items of that half, except for one user of the first half who interacts with both."""
    rng, rows = np.random.default_rng(seed), np.zeros((users, items))
    for user in range(users):
        half = items // 2 * (user % 2)
        rows[user, half + rng.permutation(items // 2)[:4]] = 1
    rows[0, [0, items - 1]] = 1
    return csr_matrix(rows)


def test_edges_count_common_users():
    interactions = csr_matrix(np.array([[1, 3, 0], [2, 1, 1], [0, 1, 1]]))
    assert common_users(interactions).toarray().tolist() == [[0, 2, 1], [2, 0, 2], [1, 2, 0]]


def test_two_communities_get_different_first_codes():
    paths = cluster_paths(common_users(two_communities()), clusters=2, leaf_size=10, seed=0)
    first = [path[0] for path in paths]
    assert len(set(first[:10])) == len(set(first[10:])) == 1 and first[0] != first[10]


def test_ids_are_unique_and_clusters_have_at_most_the_leaf_size():
    paths = cluster_paths(common_users(two_communities(items=40)), clusters=3, leaf_size=6, seed=0)
    codes = rectangular_codes(paths)
    assert len(np.unique(codes, axis=0)) == 40
    assert max(path[-1] for path in paths) < 6
    assert codes.shape == (40, max(map(len, paths)))


def test_same_seed_gives_same_ids():
    weights = common_users(two_communities(items=40))
    assert cluster_paths(weights, 3, 6, seed=5) == cluster_paths(weights, 3, 6, seed=5)


def test_short_ids_end_with_the_end_code():
    assert rectangular_codes([(0, 2), (1, 0, 1)]).tolist() == [[1, 3, 0], [2, 1, 2]]
    assert rectangular_codes([(0, 2), (1, 0)]).tolist() == [[0, 2], [1, 0]]


def test_items_without_users_have_a_cluster_of_their_own():
    interactions = np.hstack([two_communities().toarray(), np.zeros((60, 3))])
    paths = cluster_paths(common_users(csr_matrix(interactions)), clusters=2, leaf_size=10, seed=0)
    assert len({path[0] for path in paths[20:]}) == 1 and paths[20][0] not in {path[0] for path in paths[:20]}


@pytest.fixture
def interactions_only(tmp_path):
    """The dataset ``tiny`` with interactions and without item texts, features and published IDs."""
    path = write_tiny_dataset(tmp_path / "data")
    (path / TINY / f"{TINY}.item").unlink()
    return path


def test_a_dataset_without_features_is_trained_and_tested(interactions_only):
    config, model, trainer, (train, valid, test) = prepare_run(
        "TIGER", TINY, {**WITHOUT_FEATURES, "data_path": str(interactions_only)}
    )
    trainer.fit(train, valid, show_progress=False)
    assert 0 <= trainer.evaluate(test)["hit@10"] <= 1
    assert model.ids_of_items.modalities == ("cid",)
    assert not (interactions_only / TINY / "features").exists()


def test_a_saved_model_recommends_the_same_and_accepts_no_new_items(interactions_only, tmp_path):
    options = {**WITHOUT_FEATURES, "data_path": str(interactions_only)}
    _, model, _, _ = prepare_run("TIGER", TINY, options)
    model.save_pretrained(tmp_path / "folder")
    loaded = Recommender.from_pretrained(tmp_path / "folder", device="cpu")
    pd.testing.assert_frame_equal(loaded.recommend([["i4", "i5"]]), model.recommend([["i4", "i5"]]), check_exact=True)
    with pytest.raises(UserError, match="quantizer = cid cannot compute IDs of new items"):
        loaded.add_items({"cid": {"new": np.ones(3)}})


def test_features_are_not_read(interactions_only):
    options = {**WITHOUT_FEATURES, "data_path": str(interactions_only), "modalities": ["text"]}
    _, first, _, _ = prepare_run("TIGER", TINY, options)
    (interactions_only / TINY / "features").mkdir()
    (interactions_only / TINY / "features" / "text.npy").write_bytes(b"damaged")
    _, second, _, _ = prepare_run("TIGER", TINY, options)
    assert first.ids_of_items.bundle == second.ids_of_items.bundle
    assert "reconstruction_error" not in first.ids_of_items.statistics["text"]


def test_published_ids_are_read_on_request_only(interactions_only, monkeypatch):
    """The default, auto, says so."""
    file = interactions_only / TINY / "semantic_ids" / "text.json"
    file.parent.mkdir()
    file.write_text(json.dumps({f"i{item}": ["<a_1>", f"<b_{item}>"] for item in range(30)}))
    options = {**WITHOUT_FEATURES, "data_path": str(interactions_only)}
    warnings: list[str] = []
    monkeypatch.setattr(logging.getLogger(), "warning", warnings.append)
    _, learnt, _, _ = prepare_run("TIGER", TINY, options)
    assert len(warnings) == 1 and "The semantic IDs text are learnt, although" in warnings.pop()
    _, published, _, _ = prepare_run("TIGER", TINY, {**options, "semantic_ids": "published"})
    prepare_run("TIGER", TINY, {**options, "semantic_ids": "learn"})
    assert learnt.ids_of_items.bundle is not None and published.ids_of_items.bundle is None and not warnings


def test_other_quantizers_still_need_features(interactions_only):
    with pytest.raises(UserError, match="neither features nor semantic IDs nor texts and images"):
        prepare_run("TIGER", TINY, {**WITHOUT_FEATURES, "data_path": str(interactions_only), "quantizer": "rqvae"})
