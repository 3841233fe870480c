"""New items in a trained model: IDs from the frozen quantizer, their scores, and rankings that are better than chance."""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import get_model, get_trainer, init_seed
from small_models import ITEMS, data_path, prepare  # noqa: F401  data_path is a fixture

from recbole_macrec import Recommender, UserError
from recbole_macrec.data.encoders.content import ItemContent
from recbole_macrec.data.encoders.encode import load_or_encode
from recbole_macrec.data.features import FeatureTable
from recbole_macrec.generation.decoding.prior import prior_log_probs
from recbole_macrec.generation.network.windows import Histories
from recbole_macrec.model import MODELS
from recbole_macrec.semantic_ids.collisions.base import Geometry
from recbole_macrec.semantic_ids.new_items import free_ids

HISTORY = ["i4", "i5", "i6"]
TOY = Path(__file__).parents[2] / "dataset" / "arts-toy"


def features_near(data_path, items, shift=0.01) -> dict:
    """Features of new items ``new-<item>``, each almost those of an old one."""
    tables = {m: FeatureTable.load(data_path / TINY, m) for m in ("text", "image")}
    return {m: {f"new-{item}": table.select([item])[0] + shift for item in items} for m, table in tables.items()}


def ids_of(recommender) -> dict:
    return {item: recommender.semantic_id(item) for item in recommender.item_tokens}


@pytest.mark.parametrize("quantizer", ["rqvae", "cross_modal_rqvae", "rq_kmeans"])
def test_frozen_quantizer_reproduces_the_codes(quantizer, data_path):
    _, model, _, _ = prepare("MACRec", data_path, quantizer=quantizer)
    ids = model.semantic_ids
    for m in ids.modalities:
        table = FeatureTable.load(data_path / TINY, m)
        codes, geometry = Recommender(model).quantizer.quantize(m, table.select(ids.item_tokens))
        np.testing.assert_array_equal(codes, ids.raw_codes[m])
        assert geometry.z.shape[0] == ITEMS


@pytest.mark.parametrize("name", [model.__name__ for model in MODELS if not model.requires_users])
@pytest.mark.parametrize("decode", ["beam", "certified", "exact"])
def test_new_items_are_unique_reachable_and_readable(name, decode, data_path):
    _, model, _, _ = prepare(name, data_path, decode=decode)
    recommender = Recommender(model)
    before, old = ids_of(recommender), recommender.recommend([HISTORY], k=ITEMS)
    recommender.add_items(features_near(data_path, ["i3", "i4", "i20"]), titles={"new-i3": "a new one"})
    recommender.add_items(features_near(data_path, ["i5", "i6"]))
    new = ["new-i3", "new-i4", "new-i20", "new-i5", "new-i6"]
    after = ids_of(recommender)
    assert list(after)[-5:] == new and {item: after[item] for item in before} == before
    for m in model.modalities:
        assert len({after[item][m] for item in after}) == ITEMS + 5
        assert all(code < size for item in new for code, size in zip(after[item][m], model.semantic_ids.sizes[m]))
    assert set(recommender.recommend([HISTORY], k=ITEMS + 5)["item"]) == set(after)
    assert set(recommender.recommend([HISTORY], k=9, candidates=new, exclude_seen=True)["item"]) == set(new)
    assert not set(recommender.recommend([new[:2]], k=ITEMS + 5, exclude_seen=True)["item"]) & set(new[:2])
    assert not recommender.recommend([["new-i20"]]).equals(recommender.recommend([["new-i3"]]))  # histories are read
    kept = recommender.recommend([HISTORY], k=ITEMS, candidates=before)
    pd.testing.assert_frame_equal(kept, old, atol=1e-5)  # the order of the others stays
    pd.testing.assert_frame_equal(model.recommend([HISTORY], k=ITEMS), old)  # the model handed in is left alone
    assert recommender.titles["new-i3"] == "a new one"


@pytest.mark.parametrize("output", ["level", "trie"])
def test_new_items_are_scored_like_trained_items_with_the_same_prefix(output, data_path):
    """The reference is the definition: log P(longest trained prefix) - log(number of trained items below it)."""
    _, model, _, _ = prepare("TIGER", data_path, modalities=["text"], decode="exact", collision="extra_token", output=output)
    recommender = Recommender(model)
    recommender.add_items(features_near(data_path, ["i3", "i4", "i20", "i21"], shift=0.0))
    model, history = recommender.model, torch.tensor([[5, 6, 7]])
    length, codes, (m,) = torch.tensor([3]), recommender.model.tables.text.codes, recommender.model.modalities
    result = recommender.recommend([[recommender.item_tokens[i - 1] for i in history[0]]], k=100).set_index("item")["score"]
    batch = {"item_id_list": history, "item_length": length}
    with torch.no_grad():
        memory = model.encode_history(m, Histories(history, length))
        for number, token in enumerate(recommender.item_tokens, 1):
            trained = codes[1 : ITEMS + 1]
            shared = next(n for n in range(codes.shape[1], -1, -1) if (trained[:, :n] == codes[number, :n]).all(1).any())
            below = trained[(trained[:, :shared] == codes[number, :shared]).all(1)]
            steps = log_probs_by_level(model, m, memory, codes[number], trained)
            expected = sum(steps[:shared]) - (np.log(len(below)) if number > ITEMS else 0)
            assert (number <= ITEMS) == (shared == codes.shape[1])
            assert result[token] == pytest.approx(expected / codes.shape[1], abs=1e-5)
            one = Interaction({**batch, "item_id": torch.tensor([number])})
            assert model.predict(one).item() == pytest.approx(result[token], abs=1e-5)


def log_probs_by_level(model, modality, memory, code, trained) -> list[float]:
    """log P of every code of an ID that trained items share; with ``output: trie`` of a softmax over the codes that continue
    the prefix."""
    network, vocabulary = model.network, model.vocabulary
    offsets = torch.tensor(vocabulary.offsets[modality])
    start = torch.tensor([vocabulary.start[modality]])
    hidden = network.decode(torch.cat([start, (code + offsets)[:-1]])[None, None], memory)[0, 0]  # [L, D]
    steps = []
    for level, (offset, size) in enumerate(zip(vocabulary.offsets[modality], vocabulary.sizes[modality])):
        siblings = trained[(trained[:, :level] == code[:level]).all(1)][:, level].unique().tolist()
        if code[level].item() not in siblings:
            break
        if model.output == "level":
            siblings = list(range(size))
        log_probs = network.logits(hidden[level], offset, size)[siblings].log_softmax(-1)
        steps.append(log_probs[siblings.index(code[level].item())].item())
    return steps


def test_scores_of_new_items_in_every_search(data_path):
    """Beam search with as many beams as items finds the scores of all items, certified search those of the first items."""
    for fusion in ("official", "rescore", "lse"):
        _, model, _, _ = prepare("MQL4GRec", data_path, fusion=fusion)
        recommender = Recommender(model)
        recommender.add_items(features_near(data_path, ["i3", "i4", "i20", "i21"]))
        beams = recommender.recommend([HISTORY], k=ITEMS + 4)
        recommender.model = recommender.model.with_ranking(decode="exact")
        exact = recommender.recommend([HISTORY], k=ITEMS + 4)
        pd.testing.assert_frame_equal(beams, exact, atol=1e-5)
        few = recommender.recommend([HISTORY, HISTORY[:1]], k=9)
        recommender.model = recommender.model.with_ranking(decode="certified")
        pd.testing.assert_frame_equal(recommender.recommend([HISTORY, HISTORY[:1]], k=9), few, atol=1e-5)


def test_new_items_of_concatenated_features(data_path):
    """They are given by modality, and get the code of all features side by side."""
    _, model, _, _ = prepare("TIGER", data_path, representation="concatenated", collision="keep")
    recommender, features = Recommender(model), features_near(data_path, ["i3", "i20"], shift=0.0)
    recommender.add_items(features)
    for item in ("i3", "i20"):
        assert recommender.semantic_id(f"new-{item}") == recommender.semantic_id(item)
    with pytest.raises(UserError, match=r"The 'text' and 'image' features of new item 'x' have shape \(23,\); give 24 finite"):
        recommender.add_items({"text": {"x": np.zeros(12)}, "image": {"x": np.zeros(11)}})
    with pytest.raises(UserError, match="The new items contain 5 of type int; give tokens as str"):
        recommender.add_items({"text": {5: np.zeros(12)}, "image": {5: np.zeros(12)}})
    with pytest.raises(UserError, match="item is 'nope', which is not in the catalogue"):
        recommender.semantic_id("nope")


def test_no_new_items_for_ids_of_graph_representations(data_path):
    _, model, _, _ = prepare("TIGER", data_path, representation="graph", graph_sizes=[16, 16, 8], graph_epochs=2)
    with pytest.raises(UserError, match="representation = graph cannot give IDs to new items"):
        Recommender(model).add_items(features_near(data_path, ["i3"]))


def test_prior_by_hand():
    codes = np.array([[0, 1], [0, 2], [0, 3], [4, 4], [0, 1]])
    nan = np.nan
    expected = [[nan, nan], [nan, nan], [nan, -np.log(2)], [-np.log(2), 0], [nan, nan]]
    np.testing.assert_allclose(prior_log_probs(codes, 3), expected, rtol=1e-6)


def test_free_ids_by_hand():
    codebooks = np.array([[[0.0], [10.0]], [[0.0], [1.0]]], dtype=np.float32)  # two levels of two codes
    used = np.array([[0, 0]])
    z = np.array([[0.1], [0.0], [9.0]], dtype=np.float32)
    raw = np.array([[0, 0], [0, 0], [1, 0]])
    # the second item is at its codeword, but (0, 0) is used: it moves to (0, 1); for the first nothing is free below 0
    np.testing.assert_array_equal(free_ids(raw[:2], used, (2, 2), Geometry(z[:2], codebooks)), [[1, 0], [0, 1]])
    np.testing.assert_array_equal(free_ids(raw[2:], used, (2, 2), Geometry(z[2:], codebooks)), [[1, 0]])
    with_token = free_ids(raw, np.array([[0, 0, 0], [0, 0, 2]]), (2, 2, 3), Geometry(z, codebooks))
    np.testing.assert_array_equal(with_token, [[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    own = np.array([[1, 1], [0, 0], [1, 1]])  # without geometry: the last item gets the lowest unused code after 1
    np.testing.assert_array_equal(free_ids(own, used, (2, 2), None), [[1, 1], [0, 1], [1, 0]])
    with pytest.raises(UserError, match="3 new items and 2 old ones"):
        free_ids(raw, np.array([[0, 0], [0, 1]]), (2, 2), Geometry(z, codebooks))


@pytest.mark.parametrize("collision", ["reassign", "extra_token", "keep"])
def test_new_items_with_every_collision_strategy(collision, data_path):
    """Ten items with equal features get different IDs, unless the strategy allows equal IDs."""
    _, model, _, _ = prepare("TIGER", data_path, modalities=["text"], collision=collision)
    recommender = Recommender(model)
    row = features_near(data_path, ["i7"])["text"]["new-i7"]
    recommender.add_items({"text": {f"copy{i}": row for i in range(10)}})
    found = {recommender.semantic_id(f"copy{i}")["text"] for i in range(10)}
    if collision == "keep":
        assert len(found) == 1
    else:
        old = {recommender.semantic_id(item)["text"] for item in model.semantic_ids.item_tokens}
        assert len(found) == 10 and not found & old
    everything = recommender.recommend([HISTORY], k=ITEMS + 10)
    assert len(everything) == ITEMS + 10 and everything["item"].is_unique


def test_pretrained_folder_keeps_new_items_and_accepts_more(data_path, tmp_path):
    _, model, _, _ = prepare("MACRec", data_path)
    recommender = Recommender(model)
    first, second = features_near(data_path, ["i3", "i4"]), features_near(data_path, ["i8"])
    recommender.add_items(first, titles={"new-i4": "four"})
    recommender.save_pretrained(tmp_path / "folder")
    loaded = Recommender.from_pretrained(tmp_path / "folder", device="cpu")
    for each in (recommender, loaded):
        each.add_items(second)
    assert ids_of(loaded) == ids_of(recommender) and loaded.titles["new-i4"] == "four"
    histories = [HISTORY, ["new-i3", "i1", "new-i8"]]
    expected = recommender.recommend(histories, k=ITEMS)
    pd.testing.assert_frame_equal(loaded.recommend(histories, k=ITEMS), expected, check_exact=True)


@pytest.mark.parametrize("change, message", [
    (lambda f: f.pop("image"), "no features of modality 'image'"),
    (lambda f: f["image"].pop("new-i3"), r"1 new item \('new-i3'\).*in each modality"),
    (lambda f: [rows.update(i5=rows["new-i3"]) for rows in f.values()], r"\('i5'\) already in the catalogue"),
    (lambda f: [rows.update({" x": rows["new-i3"]}) for rows in f.values()], "' x'.*token"),
    (lambda f: f["text"].update({"new-i3": np.ones(5)}), r"'new-i3' have shape \(5,\); give 12"),
    (lambda f: f["text"].update({"new-i3": np.full(12, np.nan)}), "NaN"),
    (lambda f: f["text"].update({"new-i3": "abc"}), "not a row of numbers"),
    (lambda f: f.update(text=np.zeros((2, 12))), "contain a ndarray; give modality -> item token -> row"),
])
def test_user_errors_leave_the_model_unchanged(change, message, data_path):
    _, model, _, _ = prepare("MACRec", data_path)
    recommender, features = Recommender(model), features_near(data_path, ["i3", "i4"])
    change(features)
    with pytest.raises(UserError, match=message):
        recommender.add_items(features)
    assert len(recommender.item_tokens) == ITEMS and recommender.model is model


def test_published_ids_have_no_quantizer(data_path, tmp_path):
    folder = data_path / TINY / "semantic_ids"
    folder.mkdir()
    for m in ("text", "image"):
        (folder / f"{m}.json").write_text(json.dumps({f"i{i}": [f"<a_{i % 8}>", f"<b_{i // 8}>"] for i in range(ITEMS)}))
    _, model, _, _ = prepare("MACRec", data_path, semantic_ids="published")
    model.save_pretrained(tmp_path / "published")
    loaded = Recommender.from_pretrained(tmp_path / "published", device="cpu")
    pd.testing.assert_frame_equal(loaded.recommend([HISTORY]), model.recommend([HISTORY]))
    for recommender in (Recommender(model), loaded):
        with pytest.raises(UserError, match="published semantic IDs"):
            recommender.add_items(features_near(data_path, ["i3"]))


def test_missing_bundle_is_an_error(data_path):
    _, model, _, _ = prepare("MACRec", data_path)
    for file in model.semantic_ids.bundle.iterdir():
        file.unlink()
    with pytest.raises(UserError, match="quantizer there can't be read"):
        Recommender(model).add_items(features_near(data_path, ["i3"]))


def test_items_without_training_interactions_are_ranked_better_than_by_chance(tmp_path):
    """arts-toy: a tenth of the items and all their interactions are held out, then added; every
    interaction with one of them is a test row. Texts are titles, which two to three items share."""
    items = pd.read_csv(TOY / "arts-toy.item", sep="\t", dtype=str)
    interactions = pd.read_csv(TOY / "arts-toy.inter", sep="\t", dtype=str)
    held = set(np.random.default_rng(0).choice(items["item_id:token"], 29, replace=False))
    full, known = tmp_path / "full" / "arts-toy", tmp_path / "known" / "arts-toy"
    for folder in (full, known):
        folder.mkdir(parents=True)
    items.to_csv(full / "arts-toy.item", sep="\t", index=False)
    text = load_or_encode(ItemContent(full, "arts-toy", ["title"]), ["text"], {"text": "tfidf"})["text"]
    items[~items["item_id:token"].isin(held)].to_csv(known / "arts-toy.item", sep="\t", index=False)
    interactions[~interactions["item_id:token"].isin(held)].to_csv(known / "arts-toy.inter", sep="\t", index=False)
    kept = tuple(token for token in text.item_tokens if token not in held)
    FeatureTable(kept, text.select(kept)).save(known, "text")

    config = Config("TIGER", "arts-toy", config_dict={
        "data_path": str(known.parent), "quantizer": "rq_kmeans", "codebook_levels": 2, "standardize": False,
        "training_preset": "decoder_only", "decoder_layers": 1, "MAX_ITEM_LIST_LENGTH": 10, "train_batch_size": 16,
        "epochs": 2, "show_progress": False, "state": "ERROR"})
    init_seed(1, True)
    train, _, _ = data_preparation(config, create_dataset(config))
    model = get_model("TIGER")(config, train._dataset)
    get_trainer(config["MODEL_TYPE"], "TIGER")(config, model).fit(train, saved=False)

    recommender = Recommender(model)
    recommender.add_items({"text": {token: text.select([token])[0] for token in sorted(held)}})
    questions, answers = {}, {}
    for user, rows in interactions.groupby("user_id:token"):
        history = rows.sort_values("timestamp:float", key=lambda times: times.astype(float))["item_id:token"].tolist()
        for place, item in enumerate(history):
            if item in held and place >= 2:
                questions[user, place], answers[user, place] = history[:place], item
    found = recommender.recommend(questions, k=10)
    hits = (found["item"] == found["user"].map(answers)).sum() / len(questions)
    chance = 10 / len(recommender.item_tokens)
    print(f"Hit@10 of {len(held)} new items in {len(questions)} questions: {hits:.3f}; by chance {chance:.3f}")
    assert hits > 5 * chance
