"""``tokenizations: K``: every training sequence is written in one of K tokenizations, and ranking takes the mean over all."""
import json
import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY
from recbole.config import Config
from recbole.quick_start import load_data_and_model
from small_models import (  # noqa: F401  data_path is a fixture
    ITEMS,
    batch_of,
    data_path,
    prepare,
    scores_one_by_one,
    train_until,
)

from recbole_macrec import Recommender, UserError
from recbole_macrec.data.features import FeatureTable
from recbole_macrec.generation.decoding.causal_decoder import CausalTrieDecoder
from recbole_macrec.generation.decoding.fusion import fuse_scores
from recbole_macrec.generation.network.decoder_only import DecoderOnly
from recbole_macrec.generation.network.windows import Target, Windows
from recbole_macrec.trainer.callbacks import TrainingCallback

SEVERAL = {"tokenizations": 3, "network": "decoder_only", "training": "per_user", "output": "trie", "quantizer": "rq_kmeans",
           "train_batch_size": 8}  # fmt: skip
TIGER = {**SEVERAL, "modalities": ["text"]}
BOTH = {**SEVERAL, "fusion": "lse"}
HISTORIES = {"u": ["i4", "i5", "i6"], "v": ["i9"]}


def log_prob(model, name: str, history: list[int], item: int) -> float:
    """Mean over the levels of log P(code | history, codes before it), one code at a time."""
    table, sizes, offsets = model.tables[name], model.vocabulary.sizes[name], model.vocabulary.offsets[name]
    tokens = [model.vocabulary.start[name]] + [t for i in history for t in model.inputs.tokens(name, torch.tensor(i)).tolist()]
    codes, total = table.codes[item].tolist(), 0.0
    for level, code in enumerate(codes):
        memory = model.network.read(torch.tensor([tokens]), torch.tensor([len(tokens)]))
        hidden = model.network.decode(torch.zeros(1, 1, 1, dtype=torch.long), memory)[0, 0, 0]
        possible = sorted({row[level] for row in table.codes[1:].tolist() if row[:level] == codes[:level]})
        log_probs = F.log_softmax(model.network.logits(hidden, offsets[level], sizes[level])[possible], -1)
        total += float(log_probs[possible.index(code)])
        tokens.append(offsets[level] + code)
    return total / len(codes)


@pytest.mark.parametrize("seed", [5, 2**32 - 2])
def test_names_and_codes_of_the_tokenizations(seed, data_path):
    """They are those of single runs with the seeds semantic_id_seed + k; 0 follows the largest seed."""
    _, model, _, _ = prepare("TIGER", data_path, **TIGER, semantic_id_seed=seed)
    assert model.modalities == ["text"] and model.tokenizations == [["text"], ["text@2"], ["text@3"]]
    for number, (name,) in enumerate(model.tokenizations):
        _, single, _, _ = prepare("TIGER", data_path, **{**TIGER, "tokenizations": 1}, semantic_id_seed=(seed + number) % 2**32)
        np.testing.assert_array_equal(model.semantic_ids.codes[name], single.semantic_ids.codes["text"])
    assert not np.array_equal(model.semantic_ids.raw_codes["text"], model.semantic_ids.raw_codes["text@2"])


@torch.no_grad()
def test_scores_are_the_mean_over_all_tokenizations(data_path):
    _, model, _, _ = prepare("TIGER", data_path, **TIGER, decode="exact")
    model.eval()
    histories = {user: [int(item[1:]) for item in items] for user, items in HISTORIES.items()}
    numbers = {token: number for number, token in enumerate(model.semantic_ids.item_tokens, 1)}
    found = Recommender(model).recommend(HISTORIES, k=ITEMS).set_index(["user", "item"])["score"]
    for user in histories:
        history = [numbers[item] for item in HISTORIES[user]]
        for token, number in numbers.items():
            expected = np.mean([log_prob(model, name, history, number) for (name,) in model.tokenizations])
            assert found[user, token] == pytest.approx(expected, abs=2e-4)
    for decode in ("certified", "beam"):
        other = Recommender(model.with_ranking(decode=decode, top=10, num_beams=ITEMS)).recommend(HISTORIES, k=10)
        for row in other.itertuples():
            assert row.score == pytest.approx(found[row.user, row.item], abs=1e-4)
        assert other["item"].tolist() == found.groupby("user").head(10).index.get_level_values("item").tolist()


def mean_scores(model, users, fusion: str = "mean"):
    """Scores [B, ITEMS] of all items, each ID scored on its own in every ranked tokenization of every modality."""
    items, memories = torch.arange(1, ITEMS + 1).expand(len(users), -1), model.encode_histories(model.histories(users))
    count = model.ranking.ranked_tokenizations
    scores = {name: scores_one_by_one(model, name, memory, items) for name, memory in memories.items()}
    names = [names[i] for i in range(len(model.modalities)) for names in model.tokenizations[:count]]
    return fuse_scores(fusion, [scores[name] for name in names], [model.tables[name].levels for name in names], count)


def test_the_official_fusion_is_for_modalities_and_not_for_tokenizations(data_path):
    """The study ``ranking`` ranks trained models by several rules."""
    _, model, _, loaders = prepare("TIGER", data_path, **TIGER)
    model.eval()
    users = batch_of(loaders[2])
    expected = model.with_ranking(decode="exact").rank(users)["fused"]
    assert torch.equal(model.with_ranking(decode="exact", fusion="official").rank(users)["fused"].items, expected.items)
    _, model, _, _ = prepare("MACRec", data_path, **BOTH)
    with pytest.raises(UserError, match="fusion is official"):
        model.with_ranking(fusion="official")
    assert model.with_ranking(fusion="official", ranked_tokenizations=1).ranking.fusion == "official"


@torch.no_grad()
@pytest.mark.parametrize("name, options", [("TIGER", TIGER), ("MACRec", BOTH)], ids=["TIGER", "MACRec"])
def test_beam_search_ranks_what_any_tokenization_finds_by_the_scores_in_all(name, options, data_path):
    """An item that the beams of one tokenization miss is scored in it too; items that all miss follow in item order."""
    _, model, _, loaders = prepare(name, data_path, **options, num_beams=4, topk=[1, 4])
    model.eval()
    users, fusion = batch_of(loaders[2]), options.get("fusion", "mean")
    rankings, scores, expected = model.rank(users), model.full_sort_predict(users), mean_scores(model, users, fusion)
    assert scores.isfinite().all()
    missed = 0
    for user, fused in enumerate(rankings["fused"].items.tolist()):
        lists = [set(rankings[m].items[user].tolist()) for m in model.tables]
        found = set.union(*lists)
        missed += sum(len(found - own) for own in lists)
        ordered = sorted(found, key=lambda item: -float(expected[user, item - 1]))
        assert set(fused) - {0} == found and fused[: len(found)] == ordered
        absent = [item for item in range(1, ITEMS + 1) if item not in found]
        assert scores[user].argsort(descending=True).tolist() == [*ordered, *absent, 0]
        own = rankings["fused"].scores[user, : len(found)]
        torch.testing.assert_close(own, expected[user, torch.tensor(ordered) - 1], atol=1e-5, rtol=0)
    assert missed


@torch.no_grad()
def test_beam_search_decodes_every_prefix_of_the_candidates_once(data_path, monkeypatch):
    _, model, _, loaders = prepare("TIGER", data_path, **TIGER, num_beams=4, topk=[1, 4])
    model.eval()
    step, decoded = CausalTrieDecoder.step, []

    def counted(self, level, nodes, *rest):
        decoded.append(nodes.numel())
        return step(self, level, nodes, *rest)

    monkeypatch.setattr(CausalTrieDecoder, "step", counted)
    monkeypatch.setattr(DecoderOnly, "decode", None)  # which decodes ID by ID
    user, levels = loaders[2]._dataset[np.array([5])], model.tables["text"].levels
    candidates = model.rank(user)["fused"].items[0]
    prefixes = sum(len(np.unique(table.codes[candidates, :level], axis=0)) for table in model.tables.values()
                   for level in range(levels))  # fmt: skip
    assert prefixes < sum(decoded) <= prefixes + len(model.tables) * (1 + 4 * (levels - 1))


@torch.no_grad()
@pytest.mark.parametrize("decode", ["beam", "exact", "certified"])
def test_tokenizations_of_mixed_histories_are_averaged_before_the_modalities_are_fused(decode, data_path):
    options = {**BOTH, "history": "both", "collision": "reassign", "decode": decode, "num_beams": ITEMS}
    _, model, _, loaders = prepare("MACRec", data_path, **options)
    model.eval()
    users = batch_of(loaders[2])
    items, scores = (column[:, :10] for column in model.rank(users)["fused"])
    expected = mean_scores(model, users, "lse")
    torch.testing.assert_close(scores, expected.topk(10).values, atol=1e-5, rtol=0)
    torch.testing.assert_close(scores, expected.gather(1, items - 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("options, warnings", [
    ({"decode": "certified"}, 1), ({"decode": "beam"}, 0), ({"decode": "certified", "ranked_tokenizations": 1}, 0),
])  # fmt: skip
def test_certified_ranking_of_several_tokenizations_warns(options, warnings, data_path, monkeypatch):
    messages = []
    monkeypatch.setattr(logging.getLogger(), "warning", lambda message, *rest: messages.append(message))
    prepare("TIGER", data_path, **TIGER, **options)
    assert sum("decode is certified and 3 tokenizations are ranked" in message for message in messages) == warnings


def test_a_modality_has_the_mean_of_its_tokenizations_before_the_modalities_are_fused():
    text, image = [torch.tensor([-1.0]), torch.tensor([-3.0])], [torch.tensor([-2.0]), torch.tensor([-6.0])]
    assert fuse_scores("mean", [*text, *image], [2, 2, 4, 4], 2).tolist() == [(-2.0 - 4.0) / 2]
    expected = np.log((np.exp(-2.0 * 2) + np.exp(-4.0 * 4)) / 2) / 3
    assert fuse_scores("lse", [*text, *image], [2, 2, 4, 4], 2).item() == pytest.approx(expected)


def test_the_loss_is_that_of_every_sequence_in_its_drawn_tokenization(data_path):
    _, model, _, _ = prepare("TIGER", data_path, **TIGER, dropout_prob=0.0)
    items, length, first = [[3, 9, 4, 0], [7, 2, 5, 1], [8, 6, 0, 0]] * 4, [3, 4, 2] * 4, [1, 2, 1] * 4
    windows = Windows(torch.tensor(items), torch.tensor(length), torch.tensor(first))
    model.windows = lambda interaction: windows

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return float(model.calculate_loss(None))

    torch.manual_seed(3)
    drawn, total = torch.randint(3, (12,)).tolist(), 0.0
    assert set(drawn) == {0, 1, 2}
    with torch.no_grad():
        for row, number in enumerate(drawn):
            (name,), one = model.tokenizations[number], windows.select(torch.tensor([row]))
            target = Target(model.inputs.tokens(name, one.items), model.vocabulary.start[name], own=True)
            (states,) = model.network.window_states(torch.tensor([model.vocabulary.start[name]]), target.tokens, one, [target])
            total += float(model.passes.cross_entropy(name, states, one.target_items()))
    assert loss(3) == pytest.approx(total / windows.n_targets(), rel=1e-5)
    assert loss(3) == loss(3) and loss(3) != loss(4)


TUNED = {"tokenization_tuning": 1, "ranked_tokenizations": 1}


class TokenizationsOfEpochs(TrainingCallback):
    """Records the IDs that each epoch trains."""

    def __init__(self, model):
        self.trained: list[set[str]] = []
        cross_entropy = model.passes.cross_entropy
        model.passes.cross_entropy = lambda name, *rest: self.trained[-1].add(name) or cross_entropy(name, *rest)

    def on_epoch_begin(self, trainer, epoch, train_data):
        self.trained.append(set())


@pytest.mark.parametrize("options", [{}, {"history": "both"}], ids=["single", "mixed"])
def test_the_last_epochs_train_the_first_tokenization_only(options, data_path):
    _, model, trainer, (train, _, _) = prepare("MACRec", data_path, **BOTH, **options, epochs=4, tokenization_tuning=2)
    recorder = TokenizationsOfEpochs(model)
    trainer.callbacks.append(recorder)
    trainer.fit(train)
    assert recorder.trained == [set(model.tables)] * 2 + [{"text", "image"}] * 2


@torch.no_grad()
@pytest.mark.parametrize("decode", ["beam", "exact", "certified"])
@pytest.mark.parametrize("name, options", [("TIGER", TIGER), ("MACRec", BOTH)], ids=["TIGER", "MACRec"])
def test_only_ranked_tokenizations_are_ranked(name, options, decode, data_path):
    options = {**options, "num_beams": ITEMS, "decode": decode}
    _, model, _, loaders = prepare(name, data_path, **options, ranked_tokenizations=2)
    model.eval()
    users, expected = batch_of(loaders[2]), {}
    for count in (1, 2, 3):
        other = model.with_ranking(ranked_tokenizations=count)
        rankings, expected[count] = other.rank(users), mean_scores(other, users, options.get("fusion", "mean"))
        assert set(rankings) == {"fused", *(name for names in model.tokenizations[:count] for name in names)}
        torch.testing.assert_close(rankings["fused"].scores[:, :10], expected[count].topk(10).values, atol=1e-5, rtol=0)
    target = users["item_id"].unsqueeze(1) - 1
    torch.testing.assert_close(model.predict(users), expected[2].gather(1, target)[:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name, options", [
    ("TIGER", TIGER), ("TIGER", {**TIGER, **TUNED}), ("MACRec", BOTH), ("MACRec", {**BOTH, "history": "both"}),
    ("MACRec", {**BOTH, **TUNED, "fusion": "official"}), ("TIGER", {**TIGER, "network": "encoder_decoder"}),
], ids=["TIGER", "TIGER tuned", "MACRec", "history", "MACRec tuned", "encoder_decoder"])  # fmt: skip
def test_training_resumes_saves_and_loads(name, options, data_path, tmp_path):
    def run(**more):
        _, model, trainer, loaders = prepare(name, data_path, **options, decode="certified", epochs=2, **more)
        return model, trainer, loaders

    model, trainer, (train, valid, test) = run()
    trainer.fit(train, valid)
    losses, result = trainer.train_loss_dict, trainer.evaluate(test)
    assert losses[1] < losses[0]
    _, paused, (train, valid, _) = run()
    train_until(paused, 1.5 if "tokenization_tuning" in options else 0.5, train, valid)
    _, resumed, (train, valid, test) = run(resume=paused.newest_model_file)
    resumed.fit(train, valid)
    trained = resumed.train_loss_dict  # of the epochs since the resumed one
    assert trained == {epoch: losses[epoch] for epoch in trained} and 1 in trained and resumed.evaluate(test) == result

    _, loaded, _, _, _, test = load_data_and_model(trainer.saved_model_file)
    best = batch_of(test)
    trained = loaded.eval().full_sort_predict(best)
    loaded.save_pretrained(tmp_path / "folder")
    recommender = Recommender.from_pretrained(tmp_path / "folder", device="cpu")
    exact = Recommender(loaded.with_ranking(decode="exact")).recommend(HISTORIES, k=10)
    assert recommender.recommend(HISTORIES, k=10)["item"].tolist() == exact["item"].tolist()
    assert torch.equal(recommender.model.full_sort_predict(best).argsort(1), trained.argsort(1))


def test_new_items_get_an_id_in_every_tokenization(data_path, tmp_path):
    _, model, _, _ = prepare("MQL4GRec", data_path, **BOTH)
    features = {m: {"new": FeatureTable.load(data_path / TINY, m).select(["i3"])[0] + 0.01} for m in ("text", "image")}
    model.save_pretrained(tmp_path / "folder")
    for recommender in (Recommender(model), Recommender.from_pretrained(tmp_path / "folder", device="cpu")):
        recommender.add_items(features)
        assert set(recommender.semantic_id("new")) == {"text", "text@2", "text@3", "image", "image@2", "image@3"}
        assert "new" in set(recommender.recommend(HISTORIES, k=ITEMS + 1)["item"])


def write_published(data_path, name: str, shift: int) -> None:
    ids = {f"i{i}": [f"<a_{(i + shift) % 8}>", f"<b_{(i + shift) // 8}>"] for i in range(ITEMS)}
    (data_path / TINY / "semantic_ids").mkdir(exist_ok=True)
    (data_path / TINY / "semantic_ids" / f"{name}.json").write_text(json.dumps(ids))


def test_published_tokenizations(data_path):
    write_published(data_path, "text", 0)
    write_published(data_path, "text@2", 3)
    options = {**TIGER, "semantic_ids": "published", "collision": "keep"}
    _, model, _, _ = prepare("TIGER", data_path, **{**options, "tokenizations": 2})
    codes = {token: (model.semantic_ids.codes["text"][row].tolist(), model.semantic_ids.codes["text@2"][row].tolist())
             for row, token in enumerate(model.semantic_ids.item_tokens)}  # fmt: skip
    assert codes["i9"] == ([1, 1], [4, 1])
    _, single, _, _ = prepare("TIGER", data_path, **{**options, "tokenizations": 1})
    assert list(single.semantic_ids.codes) == ["text"]
    with pytest.raises(UserError, match=r"tokenizations is 3, but .*text@3.json does not exist; import as many"):
        prepare("TIGER", data_path, **options)


def test_published_ids_are_read_also_after_a_run_has_encoded_features(data_path):
    """Only imported features let ``semantic_ids: auto`` learn IDs."""
    for file in (data_path / TINY / "features").iterdir():
        file.unlink()
    write_published(data_path, "text", 0)
    options = {**TIGER, "modalities": ["text"], "tokenizations": 1, "collision": "keep", "encoders": {"text": "tfidf"}}
    before = prepare("TIGER", data_path, **options)[1]
    prepare("VBPR", data_path, modalities=["text"], encoders={"text": "tfidf"})
    assert (data_path / TINY / "features" / "text.npy").is_file()
    after = prepare("TIGER", data_path, **options)[1]
    assert before.semantic_ids.bundles == after.semantic_ids.bundles == {}
    assert np.array_equal(before.semantic_ids.codes["text"], after.semantic_ids.codes["text"])


def test_tokenizations_are_no_modalities(data_path):
    for file in (data_path / TINY / "features").iterdir():
        file.unlink()
    for name in ("sound", "sound@2"):
        write_published(data_path, name, len(name))
    _, model, _, _ = prepare("TIGER", data_path, **{**TIGER, "modalities": None, "tokenizations": 2, "text_fields": ["none"]},
                             image_field="none")
    assert list(model.semantic_ids.codes) == ["sound", "sound@2"]


@pytest.mark.parametrize("name, options, message", [
    ("MACRec", {"fusion": "official"}, "tokenizations is 3 and fusion is official, .*; set fusion to lse or mean"),
    ("TIGER", {"tokenizations": 1, "tokenization_tuning": 2}, "tokenization_tuning is 2 and tokenizations is 1; set"),
    ("TIGER", {"tokenization_tuning": 5, "epochs": 5}, "tokenization_tuning is 5 and epochs is 5, .*; expected fewer"),
    ("TIGER", {"ranked_tokenizations": 4}, "ranked_tokenizations is 4 and tokenizations is 3; expected at most 3"),
    ("TIGER", {"tokenizations": 0}, "tokenizations is 0; expected a whole number from 1 to 64"),
    ("MMGRec", {"network": "encoder_decoder", "training": "per_target"}, "tokenizations is 3; expected 1"),
    ("SASRecPerUser", {}, "tokenizations is 3; expected 1"),
])  # fmt: skip
def test_wrong_settings_are_one_sentence_before_files_are_read(name, options, message):
    with pytest.raises(UserError, match=message):
        Config(name, "missing", config_dict={**BOTH, **options})
