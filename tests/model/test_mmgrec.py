"""MMGRec with both splits: its input does not contain the target, its ablations, and its options in other models."""
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import TINY
from recbole.config import Config
from recbole.quick_start import load_data_and_model
from recbole.utils import ModelType, get_trainer
from recbole.utils.case_study import full_sort_topk
from small_models import ITEMS, QUICK, SMALL, batch_of, data_path, prepare  # noqa: F401  data_path is a fixture

from recbole_macrec.errors import UserError
from recbole_macrec.generation.decoding.eligible import Eligible
from recbole_macrec.generation.decoding.exact import exact_scores, ranking_of
from recbole_macrec.generation.decoding.teacher_forcing import sequence_log_probs
from recbole_macrec.generation.decoding.trie_decoder import TrieDecoder
from recbole_macrec.model.interacted_items import InteractedItems, without_target
from recbole_macrec.model.windowed import EXCLUDED_ITEMS_FIELD
from recbole_macrec.trainer.callbacks import TrainingCallback

RANDOM = {"eval_args": {"split": {"RS": [0.4, 0.2, 0.4]}, "order": "RO", "group_by": "user", "mode": "full"}}
PAPERS_LAYERS = {"norm": "post_layer", "decoder_positions": "sinusoidal"}
PROTOCOLS = pytest.mark.parametrize("protocol", [{}, RANDOM], ids=["leave one out", "random split"])


def prepared(path, **options):
    return prepare("MMGRec", path, **{**QUICK, **options})


def users_of(loader):
    """All users of an evaluation loader as one batch."""
    return batch_of(loader) if loader.is_sequential else loader.user_df


# -- input ---------------------------------------------------------------------------------------------------------------


def test_interacted_items_are_distinct_and_latest_first():
    interacted = InteractedItems(np.array([2, 1, 2, 2, 1, 2]), np.array([7, 4, 9, 7, 5, 8]), 4)
    items, length = interacted.last(torch.tensor([1, 2, 3]), 2)
    assert items.tolist() == [[5, 4], [8, 7], [0, 0]] and length.tolist() == [2, 2, 0]
    assert interacted.last(torch.tensor([2, 0]), 9)[0].tolist() == [[8, 7, 9], [0, 0, 0]]


def test_the_latest_items_of_a_shuffled_part_are_the_newest(data_path):
    _, model, _, (train, _, _) = prepared(data_path, **RANDOM)
    rows = train.dataset.inter_feat
    users, items, times = (rows[field].numpy() for field in ("user_id", "item_id", "timestamp"))
    assert (np.diff(times[users == 1]) < 0).any()  # not in order of time
    for user in np.unique(users):
        newest = items[users == user][np.argsort(-times[users == user])]
        expected = list(dict.fromkeys(newest.tolist()))[:2]
        assert model.interacted.last(torch.tensor([user]), 2)[0][0].tolist()[: len(expected)] == expected


def test_without_target_by_hand():
    items = torch.tensor([[4, 5, 4, 6], [3, 0, 0, 0], [1, 2, 9, 9]])
    left, length = without_target(items, torch.tensor([4, 1, 2]), torch.tensor([4, 3, 9]))
    assert left.tolist() == [[5, 6, 0, 0], [0, 0, 0, 0], [1, 2, 0, 0]] and length.tolist() == [2, 0, 2]


@PROTOCOLS
def test_the_target_is_never_in_the_input(protocol, data_path):
    _, model, _, (train, _, _) = prepared(data_path, MAX_ITEM_LIST_LENGTH=4, **protocol)
    read = 0
    for batch in train:
        target = batch["item_id"]
        windows = model.windows(batch)
        assert torch.equal(windows.target_items(), target) and torch.equal(windows.length, windows.first + 1)
        assert (windows.first <= 4).all()
        for user, items, length, own_target in zip(batch["user_id"], windows.items, windows.first, target):
            own = train._dataset.training_interactions()[user].nonzero()[1]
            history = items[:length].tolist()
            assert own_target.item() not in history and set(history) <= {0, *own.tolist()}
            read += sum(item > 0 for item in history)
    assert read > len(train._dataset)


def test_the_input_has_the_newest_other_items(data_path):
    _, model, _, (train, _, _) = prepared(data_path, MAX_ITEM_LIST_LENGTH=2, **RANDOM)
    older = 0  # targets that are older than all items of a full input
    for batch in train:
        windows = model.windows(batch)
        for user, target, row, length in zip(batch["user_id"], batch["item_id"], windows.items, windows.first):
            own = [item for item in model.interacted.last(user[None], ITEMS)[0][0].tolist() if item]
            others = [item for item in own if item != target]
            assert row[:length].tolist() == (others[:2] or [0])
            older += own.index(target) > 2
    assert older


@PROTOCOLS
@pytest.mark.parametrize("attention", ["relation_aware", "none"])
def test_ranking_does_not_depend_on_the_order_of_the_history(attention, protocol, data_path):
    _, model, _, loaders = prepared(data_path, attention=attention, **protocol)
    model.eval()
    users = users_of(loaders[2])
    histories = model.histories(users)
    order = torch.stack([torch.cat([torch.randperm(n), torch.arange(n, histories.items.shape[1])])
                         for n in histories.length.tolist()])
    permuted = histories._replace(items=histories.items.gather(1, order))
    assert not torch.equal(permuted.items, histories.items)
    trie = model.tables.graph.trie
    eligible = Eligible({"graph": trie}, model.ranking.num_beams, model.excluded(users))
    with torch.no_grad():
        decoders = {"graph": TrieDecoder(model.network, model.vocabulary, "graph", trie)}
        one, other = (model.ranker.rank_memories(decoders, {"graph": model.encode_history("graph", h)}, eligible)["fused"]
                      for h in (histories, permuted))
    assert torch.equal(one.items, other.items)
    torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=0)


def codes_and_graph(path, **options):
    _, model, _, (train, _, _) = prepared(path, **options)
    ids = train._dataset.semantic_ids
    return ids.codes["graph"], ids.graph.items, ids.graph.users, train._dataset.training_interactions().sum()


def test_popularity_and_graph_depend_on_training_interactions_only(data_path):
    file = data_path / TINY / f"{TINY}.inter"
    before = codes_and_graph(data_path)
    lines = file.read_text().splitlines()
    user = lines[-1].split("\t")[0]
    file.write_text("\n".join(lines[:-2] + [f"{user}\ti{item}\t{10**6 + item}" for item in (3, 7)]) + "\n")
    other_targets = codes_and_graph(data_path)  # another validation and test item
    assert all(np.array_equal(a, b) for a, b in zip(before, other_targets))
    file.write_text("\n".join(lines + [f"{user}\ti{item}\t{10**6 + item}" for item in (3, 7)]) + "\n")
    more = codes_and_graph(data_path)  # the former validation and test items are training items now
    assert more[3] == before[3] + 2 and not np.array_equal(before[1], more[1])


# -- ranking -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [{}, RANDOM, PAPERS_LAYERS], ids=["leave one out", "random split", "layers of the paper"])
def test_beam_search_with_all_beams_equals_the_exact_ranking(protocol, data_path):
    _, model, trainer, (train, _, test) = prepared(data_path, codebook_levels=3, codebook_size=4, num_beams=ITEMS, **protocol)
    trainer.train_steps(train)
    model.eval()
    codes = model.tables.graph.codes[1:]
    assert codes.shape == (ITEMS, 4) and len(codes.unique(dim=0)) == ITEMS
    users = users_of(test)
    histories = model.histories(users)
    found = model.rank(users)["fused"]
    with torch.no_grad():
        memory = model.encode_history("graph", histories)
        forced = sequence_log_probs(model.network, model.vocabulary, "graph", memory, codes.expand(len(users), -1, -1))
        scores = exact_scores(TrieDecoder(model.network, model.vocabulary, "graph", model.tables.graph.trie), memory, ITEMS + 1)
    torch.testing.assert_close(scores[:, 1:], forced, atol=1e-5, rtol=0)
    excluded = model.excluded(users)
    if excluded is not None:
        scores = scores.scatter(1, excluded, -torch.inf)
    expected = ranking_of(scores)
    assert torch.equal(found.items, expected.items)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("decode", ["beam", "exact"])
def test_random_split_is_evaluated_like_general_models_of_recbole(decode, data_path):
    config, model, trainer, (train, valid, test) = prepared(
        data_path, decode=decode, metrics=["Recall", "NDCG", "Hit"], **RANDOM)
    assert config["MODEL_TYPE"] == ModelType.GENERAL and not config["repeatable"]
    assert len(train._dataset) == train._dataset.training_interactions().sum()  # no prefixes
    trainer.fit(train, valid)
    result = trainer.evaluate(test)
    targets, seen = {}, {}
    for part, sets in ((train, seen), (valid, seen), (test, targets)):
        for user, item in zip(part._dataset.inter_feat["user_id"].tolist(), part._dataset.inter_feat["item_id"].tolist()):
            sets.setdefault(user, set()).add(item)
    assert max(map(len, targets.values())) > 1
    users = torch.tensor(sorted(targets))
    masked = [sorted(seen[u] - targets[u]) for u in users.tolist()]
    most = max(map(len, masked))
    rows = users_of(test)
    rows.update(type(rows)({EXCLUDED_ITEMS_FIELD: torch.tensor([row + [0] * (most - len(row)) for row in masked])}))
    model.eval()
    recall, ndcg = [], []
    for user, row in zip(users.tolist(), model.full_sort_predict(rows)):
        top = [i for i in row.argsort(descending=True).tolist() if i not in seen[user] - targets[user]][:10]
        hits = [item in targets[user] for item in top]
        recall.append(sum(hits) / len(targets[user]))
        gain = sum(hit / np.log2(place + 2) for place, hit in enumerate(hits))
        ndcg.append(gain / sum(1 / np.log2(place + 2) for place in range(min(10, len(targets[user])))))
    assert result["recall@10"] == pytest.approx(np.mean(recall), abs=1e-4) and np.mean(recall) > 0
    assert result["ndcg@10"] == pytest.approx(np.mean(ndcg), abs=1e-4)
    assert trainer.test_detail == {}


def test_loaded_equals_saved_with_a_random_split(data_path):
    _, _, trainer, (train, valid, test) = prepared(data_path, **RANDOM)
    trainer.fit(train, valid)
    expected = trainer.evaluate(test)
    config, model, _, _, _, test = load_data_and_model(trainer.saved_model_file)
    assert get_trainer(config["MODEL_TYPE"], "MMGRec")(config, model).evaluate(test, load_best_model=False) == expected


class ScoresOfTest(TrainingCallback):
    """Keeps the scores of all test users, with those of masked items at -inf."""

    def __init__(self):
        self.scores = []

    def on_evaluation_batch(self, trainer, stage, scores, interaction, rows, items):
        self.scores.append(scores.clone())


@pytest.mark.parametrize("repeatable", ["auto", True])
@pytest.mark.parametrize("decode", ["beam", "certified", "exact"])
def test_full_sort_topk_ranks_as_the_evaluation_of_a_random_split(decode, repeatable, data_path):
    """With ``repeatable: True`` no item of a user is masked."""
    options = {**RANDOM, "num_beams": 10, "topk": [5], "repeatable": repeatable}
    config, model, trainer, (train, _, test) = prepared(data_path, decode=decode, **options)
    trainer.train_steps(train)
    kept = ScoresOfTest()
    trainer.callbacks.append(kept)
    trainer.evaluate(test, load_best_model=False)
    best, items = torch.cat(kept.scores).topk(5)
    scores, top = full_sort_topk(test.uid_list.numpy(), model, test, k=5)
    assert torch.equal(top, items)
    torch.testing.assert_close(scores, best)


def test_items_of_the_history_are_candidates_of_sequential_models(data_path):
    """General models are trained to score them highest. MMGRec is a general model with a random split."""
    options = {**SMALL, "data_path": str(data_path), "repeatable": "auto"}
    leave_one_out = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO"}}
    for split in (leave_one_out, RANDOM):
        sequential = split is leave_one_out
        assert Config("MMGRec", TINY, config_dict={**options, **split})["repeatable"] is sequential
        assert Config("LightGCN", TINY, config_dict={**options, **split})["repeatable"] is False


# -- ablations, presets, other models ------------------------------------------------------------------------------------

ABLATIONS = {
    "ids without graph": {"representation": "concatenated"},
    "learnt input": {"encoder_input": "learnt"},
    "neither": {"representation": "concatenated", "encoder_input": "learnt"},
    "positions": {"attention": "positions"},
    "sinusoidal positions": {"attention": "sinusoidal"},
    "no relation": {"attention": "none"},
    "hierarchical k-means": {"quantizer": "hierarchical_kmeans"},
    "random last token": {"collision": "random"},
    "joint": {"graph_training": "joint"},
    "paper's layers and optimizer": {"training_preset": "paper"},
}


@pytest.mark.parametrize("changed", ABLATIONS.values(), ids=ABLATIONS)
def test_every_ablation_trains_and_ranks(changed, data_path):
    _, model, trainer, (train, valid, test) = prepared(data_path, epochs=1, **changed)
    trainer.fit(train, valid)
    assert 0 <= trainer.evaluate(test)["hit@10"] <= 1
    (name,) = model.modalities
    assert len(np.unique(model.semantic_ids.codes[name], axis=0)) == ITEMS
    assert model.semantic_ids.graph is None or changed.get("encoder_input") != "learnt" or name == "graph"
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert ("items.weight" in trained) == (changed.get("encoder_input") == "learnt")
    assert any("query_scale" in n for n in trained) == ("attention" not in changed)


def test_set_options_override_the_papers_preset(data_path):
    without = {key: value for key, value in SMALL.items() if key != "learning_rate"}
    options = {**without, "data_path": str(data_path), "training_preset": "paper"}
    config = Config("MMGRec", TINY, config_dict=options)
    assert (config["learner"], config["learning_rate"], config["momentum"], config["scheduler"]) == (
        "sgd",
        1e-3,
        0.99,
        "constant",
    )
    assert Config("MMGRec", TINY, config_dict={**options, "learning_rate": 0.1})["learning_rate"] == 0.1
    _, model, trainer, _ = prepared(data_path, training_preset="paper")
    assert model.network.decoder_bias is None and isinstance(model.network.decoder[0].feed_forward.norm, torch.nn.LayerNorm)
    assert all(layer.attention.post_norm and layer.feed_forward.post_norm for layer in model.reader.layers)
    assert isinstance(trainer.optimizer, torch.optim.SGD)
    assert trainer.optimizer.param_groups[0]["momentum"] == 0.99 and trainer.optimizer.param_groups[0]["weight_decay"] == 1e-5


@pytest.mark.parametrize("name, options, named", [
    ("MMGRec", {"attention": "relation-aware"}, "relation_aware"),
    ("MMGRec", {"encoder_input": "features"}, "encoder_input"),
    ("MMGRec", {"representation": "graf"}, "Did you mean 'graph'"),
    ("MMGRec", {"representation": "modality"}, "one semantic ID"),
    ("MMGRec", {"training_preset": "papr"}, "Did you mean 'paper'"),
    ("MMGRec", {"graph_dropout": [0.5]}, "graph_dropout"),
    ("MMGRec", {"graph_training": "joint", "quantizer": "rq_kmeans"}, "graph_training"),
    ("MMGRec", {"encoder_attention": "causal"}, "encoder_attention is 'causal'; expected bidirectional"),
    ("MQL4GRec", {"representation": "concatenated"}, "representation is concatenated, so an item has one ID"),
    ("MACRec", {"max_modalities": 1}, "max_modalities is 1, so an item has one ID"),
    ("MACRec", {"quantizer": "cid"}, "quantizer is cid, so an item has one ID.* set quantizer to one that reads features"),
    ("MMGRec", {"quantizer": "cross_modal_rqvae"}, "quantizer"),
    ("MACRec", {"representation": "graph", "quantizer": "rqvae"}, "TIGER"),
    ("TIGER", {"training_preset": "papers"}, "Did you mean 'paper'"),
])
def test_invalid_options_are_user_errors(name, options, named, data_path):
    with pytest.raises(UserError, match=named):
        prepare(name, data_path, **{**QUICK, **options})
    assert not list((data_path / TINY).glob("semantic_ids*"))  # no IDs were learnt before


def test_published_ids_need_a_learnt_input(data_path):
    folder = data_path / TINY / "semantic_ids"
    folder.mkdir()
    ids = {f"i{i}": [f"<a_{i % 5}>", f"<b_{i // 10}>"] for i in range(ITEMS)}
    (folder / "graph.json").write_text(json.dumps(ids))
    with pytest.raises(UserError, match="encoder_input"):
        prepared(data_path, semantic_ids="published")
    _, model, _, (train, _, _) = prepared(data_path, semantic_ids="published", encoder_input="learnt")
    counts = np.asarray(train._dataset.training_interactions().sum(0)).reshape(-1)[1:]
    codes = model.tables.graph.codes[1:].numpy()
    for prefix in np.unique(codes[:, :2], axis=0):
        group = np.flatnonzero((codes[:, :2] == prefix).all(1))
        ranked = counts[group[np.argsort(codes[group, 2])]]
        assert all(a >= b for a, b in pairwise(ranked))


@pytest.mark.parametrize("collision", ["popularity", "sinkhorn"])
def test_macrec_with_collision_strategy(collision, data_path):
    _, model, _, _ = prepare("MACRec", data_path, collision=collision)
    for m in model.modalities:
        codes = model.semantic_ids.codes[m]
        assert codes.shape == (ITEMS, 3 if collision == "popularity" else 2) and len(np.unique(codes, axis=0)) == ITEMS


def test_tiger_with_ids_of_graph_representations(data_path):
    _, model, trainer, (train, _, test) = prepare("TIGER", data_path, representation="graph", **QUICK)
    _, mmgrec, _, _ = prepared(data_path)
    assert model.modalities == ["graph"]
    assert np.array_equal(model.semantic_ids.raw_codes["graph"], mmgrec.semantic_ids.raw_codes["graph"])
    trainer.train_steps(train)
    assert trainer.evaluate(test, load_best_model=False)["hit@10"] >= 0
