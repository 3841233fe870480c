"""Encoder cooccurrence: a case computed by hand, the similarity of items with common users, and the modality in models."""
import json

import numpy as np
import pytest
from conftest import TINY
from recbole.quick_start import load_data_and_model
from small_models import ITEMS, data_path, prepare  # noqa: F401  data_path is a fixture

from recbole_macrec import Recommender
from recbole_macrec.data.encoders import RawItem
from recbole_macrec.data.encoders.cooccurrence import Cooccurrence, interactions, positive_information
from recbole_macrec.data.features import FeatureTable
from recbole_macrec.errors import UserError

TOKENS = tuple(f"i{i}" for i in range(ITEMS))


def items_of(matrix) -> list[RawItem]:
    """Items of a matrix [users, items]."""
    return [RawItem(f"i{i}", users=users.nonzero()[0]) for i, users in enumerate(np.asarray(matrix).T)]


def test_mutual_information_by_hand():
    # users take {0, 1}, {0, 1}, {1, 2}: pairs 01 twice, 12 once; sums over partners 2, 3, 1, over all 6
    items = items_of([[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]])
    items[0] = items[0]._replace(users=np.array([1, 0, 1]))  # a repeat counts once
    information = positive_information(interactions(items)).toarray()
    assert information[0, 1] == pytest.approx(np.log(2 * 6 / (2 * 3)))
    assert information[1, 2] == pytest.approx(np.log(1 * 6 / (3 * 1)))
    assert np.count_nonzero(information) == 4 and np.allclose(information, information.T)


def test_items_of_one_group_have_similar_features():
    rng = np.random.default_rng(0)
    matrix = np.zeros((120, 20))
    for user in range(120):  # even users take of the first ten items, odd ones of the others
        matrix[user, rng.choice(10, 4, replace=False) + 10 * (user % 2)] = 1
    matrix[:, 19] = 0
    features = Cooccurrence(4).encode(items_of(matrix))
    assert features.shape == (20, 4) and features.dtype == np.float32 and np.allclose(features[19], 0)
    unit = features[:19] / np.linalg.norm(features[:19], axis=1, keepdims=True)
    alike = unit @ unit.T
    assert alike[:10, :10].min() > alike[:10, 10:].max()
    assert np.array_equal(features, Cooccurrence(4).encode(items_of(matrix)))


def test_items_without_common_users_are_an_error():
    with pytest.raises(UserError, match="cooccurrence"):
        Cooccurrence().encode(items_of(np.eye(5)))


THREE = {"modalities": ["text", "image", "cooccurrence"], "network": "decoder_only", "training": "per_user", "fusion": "lse",
         "decode": "certified"}  # fmt: skip


def changed_held_out_items(data_path) -> None:
    """Replace the last two items of every user."""
    file = data_path / TINY / f"{TINY}.inter"
    header, *lines = file.read_text().splitlines()
    by_user: dict[str, list[list[str]]] = {}
    for line in lines:
        by_user.setdefault(line.split("\t")[0], []).append(line.split("\t"))
    for number, rows in enumerate(by_user.values()):
        rows.sort(key=lambda row: float(row[2]))
        for place in (-2, -1):
            rows[place][1] = TOKENS[(7 * number + place) % ITEMS]
    file.write_text("\n".join([header, *("\t".join(row) for rows in by_user.values() for row in rows)]) + "\n")


def codes_by_token(model) -> dict:
    ids = model.semantic_ids
    return {token: {m: ids.codes[m][row].tolist() for m in ids.modalities} for row, token in enumerate(ids.item_tokens)}


@pytest.mark.parametrize("name, options", [("MACRec", {}), ("MQL4GRec", {"history": "both"})])
def test_a_third_modality_is_trained_ranked_and_saved(name, options, data_path, tmp_path):
    """The modality needs no entry in the option encoders."""
    _, model, trainer, (train, valid, test) = prepare(name, data_path, **THREE, **options, epochs=2)
    trainer.fit(train, valid)
    result = trainer.evaluate(test)
    assert list(model.semantic_ids.codes) == THREE["modalities"] and 0 <= result["hit@10"] <= 1
    _, model, _, _, _, _ = load_data_and_model(trainer.saved_model_file)
    model.save_pretrained(tmp_path / "folder")
    found = Recommender.from_pretrained(tmp_path / "folder", device="cpu").recommend([["i3", "i4"]], k=5)
    assert found["item"].tolist() == Recommender(model).recommend([["i3", "i4"]], k=5)["item"].tolist()
    unset = prepare("MACRec", data_path, **{**THREE, "modalities": None})[1]
    assert list(unset.semantic_ids.codes) == ["text", "image"]  # features of an earlier run do not become a modality


def test_features_of_an_earlier_split_are_not_read_without_their_encoder(data_path):
    prepare("MQL4GRec", data_path, modalities=["text", "cf"], encoders={"cf": "cooccurrence"}, quantizer="rq_kmeans")
    model = prepare("MQL4GRec", data_path, modalities=None, quantizer="rq_kmeans")[1]
    assert list(model.semantic_ids.codes) == ["text", "image"]
    with pytest.raises(UserError, match="'cf' .* earlier run; set encoders to {cf: cooccurrence}"):
        prepare("MQL4GRec", data_path, modalities=["text", "cf"], quantizer="rq_kmeans")


@pytest.mark.parametrize("semantic_ids", ["auto", "published"])
def test_published_ids_beside_learnt_ones_of_interactions(semantic_ids, data_path, tmp_path):
    """Also with MACRec's quantizer, which learns several modalities together."""
    if semantic_ids == "auto":
        for file in (data_path / TINY / "features").iterdir():
            file.unlink()
    folder = data_path / TINY / "semantic_ids"
    folder.mkdir()
    for shift, m in enumerate(("text", "image")):
        ids = {token: [f"<a_{(i + shift) % 8}>", f"<b_{i // 8}>"] for i, token in enumerate(TOKENS)}
        (folder / f"{m}.json").write_text(json.dumps(ids))
    _, model, trainer, _ = prepare("MACRec", data_path, **THREE, semantic_ids=semantic_ids)
    codes = codes_by_token(model)
    assert codes["i9"]["text"] == [1, 1] and codes["i9"]["image"] == [2, 1]
    assert set(model.semantic_ids.bundles) == {"cooccurrence"}
    with pytest.raises(UserError, match=r"published semantic IDs \(text, image\)"):
        Recommender(model).add_items({})
    trainer._save_checkpoint(0)
    assert codes_by_token(load_data_and_model(trainer.saved_model_file)[1]) == codes
    model.save_pretrained(tmp_path / "folder")
    loaded = Recommender.from_pretrained(tmp_path / "folder", device="cpu")
    assert loaded.semantic_id("i9") == {m: tuple(row) for m, row in codes["i9"].items()}


def test_held_out_interactions_change_no_feature_and_no_id(data_path):
    options = {**THREE, "quantizer": "rq_kmeans"}
    before = codes_by_token(prepare("MQL4GRec", data_path, **options)[1])
    features = FeatureTable.load(data_path / TINY, "cooccurrence").select(TOKENS)
    changed_held_out_items(data_path)
    assert codes_by_token(prepare("MQL4GRec", data_path, **options)[1]) == before
    np.testing.assert_array_equal(FeatureTable.load(data_path / TINY, "cooccurrence").select(TOKENS), features)
    bundles = [path for path in (data_path / TINY / "semantic_ids").iterdir() if path.is_dir()]
    assert len(bundles) == 1  # read again, not learnt again
    file = data_path / TINY / f"{TINY}.inter"
    file.write_text(file.read_text() + "u0\ti5\t-1\nu1\ti5\t-1\n")  # the first interactions of two users: training data
    prepare("MQL4GRec", data_path, **options)
    assert not np.array_equal(FeatureTable.load(data_path / TINY, "cooccurrence").select(TOKENS), features)
