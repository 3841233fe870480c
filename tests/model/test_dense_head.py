"""``dense_head``: the decoder-only network also scores the whole catalogue, and ``decode: fused`` ranks by both scores."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY
from helpers import as_words
from recbole.data.interaction import Interaction
from recbole.quick_start import load_data_and_model
from small_models import (  # noqa: F401  data_path is a fixture
    ITEMS,
    SMALL,
    batch_of,
    data_path,
    prepare,
    scores_one_by_one,
    train_until,
)

from recbole_macrec import Recommender, UserError
from recbole_macrec.benchmark.__main__ import main
from recbole_macrec.benchmark.compare.runs import open_comparison
from recbole_macrec.benchmark.report.provenance import command
from recbole_macrec.data.features import FeatureTable
from recbole_macrec.generation.decoding.ranker import Ranker
from recbole_macrec.generation.network.windows import Histories, Windows
from recbole_macrec.model import base
from recbole_macrec.model.tasks import SourceTasks
from recbole_macrec.trainer import dense_share

HEAD = {"network": "decoder_only", "training": "per_user", "output": "trie", "quantizer": "rq_kmeans", "dense_head": True,
        "train_batch_size": 8, "dropout_prob": 0.0, "precision": "fp32"}  # fmt: skip
FUSED = {**HEAD, "decode": "fused", "num_beams": 40}  # as many candidates as items
KINDS = {"TIGER": {"modalities": ["text"]}, "MQL4GRec": {"fusion": "mean"}, "MACRec": {"fusion": "lse"},
         "tokenizations": {"modalities": ["text"], "tokenizations": 2},
         "both": {"history": "both", "collision": "reassign", "item_task_ratio": 0}}  # fmt: skip


def of_kind(kind, data_path, **options):
    model = {"both": "MQL4GRec", "tokenizations": "TIGER"}.get(kind, kind)
    return prepare(model, data_path, **{**FUSED, **KINDS[kind], **options})


def vectors_by_hand(model) -> torch.Tensor:
    """Item vectors [N, D], one code at a time."""
    rows = []
    for item in range(model.n_items):
        row, offset = model.dense_head.items.weight[item].clone(), 0
        for m in model.tables:
            for code, size in zip(model.tables[m].codes[item].tolist(), model.semantic_ids.sizes[m]):
                row += model.dense_head.codes.weight[offset + code]
                offset += size
        rows.append(row)
    return torch.stack(rows)


def log_probs_by_hand(model, history: list[int]) -> torch.Tensor:
    """Dense log-probabilities [N - 1], from the states of the training pass without a cache."""
    windows = Windows(torch.tensor([[*history, 1]]), torch.tensor([len(history) + 1]), torch.tensor([len(history)]))
    states = torch.stack([model.passes.window_states([SourceTasks(m, [m])], windows)[0][0][0, 0] for m in model.tables])
    return (vectors_by_hand(model)[1:] @ states.mean(0)).log_softmax(0)


@pytest.fixture
def tiger(data_path):
    """A TIGER after one epoch. Items that share an ID each have all of its probability."""
    config, model, trainer, loaders = of_kind("TIGER", data_path, collision="keep", item_prior="none")
    trainer.train_steps(trainer.training_loader(loaders[0]))
    model.eval()
    return model, trainer, loaders


@pytest.mark.parametrize("kind", ["TIGER", "MACRec", "tokenizations"])
def test_scores_are_products_with_item_and_code_embeddings(kind, data_path):
    _, model, trainer, loaders = of_kind(kind, data_path)
    trainer.train_steps(trainer.training_loader(loaders[0]))
    model.eval()
    histories = [[3, 9, 4], [7], [5, 6]]
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in histories], batch_first=True)
    with torch.no_grad():
        memories = model.encode_histories(Histories(padded, torch.tensor([3, 1, 2])))
        found = model.dense_log_probs(memories)
        expected = torch.stack([log_probs_by_hand(model, history) for history in histories])
    torch.testing.assert_close(found[:, 1:], expected, atol=1e-5, rtol=1e-5)
    assert (found[:, 0] == -torch.inf).all()


@pytest.mark.parametrize("kind", ["TIGER", "MQL4GRec", "MACRec", "both"])
def test_loss_is_the_cross_entropy_of_every_target_over_all_items(kind, data_path, monkeypatch):
    """The training pass over a user's items predicts each target as ranking from its own history does."""
    options = {"item_task_ratio": 0, "explicit_alignment": False, "lambda_implicit": 0.0} if kind != "TIGER" else {}
    _, model, trainer, loaders = of_kind(kind, data_path, dense_head_weight=0.7, **options)
    in_order = torch.arange(2)  # ranking reads the modalities in their order
    monkeypatch.setattr(base, "random_orders", lambda items, count: in_order.expand(*items.shape, -1))
    batch = next(iter(trainer.training_loader(loaders[0])))
    both = model.calculate_loss(batch)
    model.passes.dense_head = None
    codes_only = model.calculate_loss(batch)
    windows, expected = model.windows(batch), []
    for items, length, first in zip(windows.items, windows.length.tolist(), windows.first.tolist()):
        for place in range(first, length):
            memories = model.encode_histories(Histories(items[None, :place], torch.tensor([place])))
            shared = dict(list(memories.items())[:1]) if kind == "both" else memories
            for m, memory in shared.items():  # every modality's own state predicts the target
                expected.append(-model.dense_log_probs({m: memory})[0, items[place]])
    samples = windows.n_targets() * (1 + model.passes.second_block_weight if kind == "both" else len(model.modalities))
    assert float(both - codes_only) == pytest.approx(0.7 * float(torch.stack(expected).sum()) / samples, rel=1e-3)


def test_gradient_reaches_item_and_code_embeddings(data_path):
    _, model, trainer, loaders = of_kind("TIGER", data_path)
    batch = next(iter(trainer.training_loader(loaders[0])))
    model.calculate_loss(batch).backward()
    items, codes = model.dense_head.items.weight.grad, model.dense_head.codes.weight.grad
    assert (items[1:].abs().sum(1) > 0).all() and (items[0] == 0).all()
    used = torch.zeros(len(codes), dtype=torch.bool)
    used[model.dense_head.item_codes[1:].flatten()] = True
    assert ((codes.abs().sum(1) > 0) == used).all()


def test_items_with_equal_ids_are_told_apart(tiger):
    model, _, loaders = tiger
    codes = model.tables["text"].codes
    first, second = next((a, b) for a in range(1, ITEMS) for b in range(a + 1, ITEMS + 1) if torch.equal(codes[a], codes[b]))
    users = batch_of(loaders[2])
    pair = torch.tensor([[first, second]]).expand(len(users), -1)
    generative = model.with_ranking(decode="exact").item_scores(users, pair)
    assert torch.equal(generative[:, 0], generative[:, 1])
    assert (model.item_scores(users, pair).diff() != 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_fused_ranking_is_that_of_all_items_scored_one_by_one(kind, data_path):
    _, model, trainer, loaders = of_kind(kind, data_path)
    trainer.train_steps(trainer.training_loader(loaders[0]))
    model.eval()
    model.dense_head.share.fill_(0.3)
    users = batch_of(loaders[2])
    everything = torch.arange(1, ITEMS + 1).expand(len(users), -1)
    generative = model.with_ranking(decode="exact").item_scores(users, everything)
    histories = model.histories(users)
    with torch.no_grad():
        dense = torch.cat([
            model.dense_log_probs(model.encode_histories(Histories(row[None, :length], torch.tensor([length]))))[:, 1:]
            for row, length in zip(histories.items, histories.length.tolist())
        ])  # fmt: skip
    expected = 0.7 * generative + 0.3 * dense
    ranking = model.rank(users)["fused"]
    assert ranking.items.shape == (len(users), ITEMS) and (ranking.scores.diff() <= 0).all()
    torch.testing.assert_close(ranking.scores, expected.gather(1, ranking.items - 1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.item_scores(users, everything), expected, atol=1e-5, rtol=1e-5)
    users.update(Interaction({"item_id": torch.full((len(users),), 4)}))
    torch.testing.assert_close(model.predict(users), expected[:, 3], atol=1e-5, rtol=1e-5)


def test_ranking_in_bf16_adds_both_scores_in_fp32(tiger):
    model, _, loaders = tiger
    model.eval_precision = "bf16"
    rankings = model.rank(batch_of(loaders[2]))
    generative, dense, fused = (rankings[name].by_item() for name in ("generative", "dense", "fused"))
    assert fused.scores.dtype == torch.float32 and (fused.items > 0).all()
    torch.testing.assert_close(fused.scores, (generative.scores + dense.scores) / 2, atol=1e-6, rtol=1e-6)


def test_candidates_are_the_best_items_of_both_and_all_others_rank_below(tiger):
    model, _, loaders = tiger
    users = batch_of(loaders[2])
    few = model.with_ranking(num_beams=4, top=3)
    ranking, beams = few.rank(users), few.with_ranking(decode="beam").rank(users)["fused"]
    whole = model.rank(users)["dense"]
    scores = few.full_sort_predict(users)
    assert scores.isfinite().all() and (scores.argmin(1) == 0).all()
    for user, items in enumerate(ranking["fused"].items.tolist()):
        expected = {*beams.items[user].tolist(), *whole.items[user, :4].tolist()}
        assert {item for item in items if item} == expected
        inside = scores[user, sorted(expected)]
        outside = scores[user, [item for item in range(1, ITEMS + 1) if item not in expected]]
        assert inside.min() > outside.max()


def test_excluded_items_and_candidates_of_a_recommender(tiger):
    model, _, _ = tiger
    recommender = Recommender(model)
    seen = recommender.recommend([["i4", "i5"]], k=ITEMS, exclude_seen=True)["item"].tolist()
    assert len(seen) == ITEMS - 2 and not {"i4", "i5"} & set(seen)
    allowed = recommender.recommend([["i4", "i5"]], k=ITEMS, exclude_seen=True, candidates=["i4", "i9", "i2"])["item"].tolist()
    assert sorted(allowed) == ["i2", "i9"]
    assert not len(recommender.recommend([["i4"]], exclude_seen=True, candidates=["i4"]))


def test_a_new_item_is_scored_by_its_codes(data_path, tmp_path):
    _, model, trainer, loaders = of_kind("MACRec", data_path)
    trainer.train_steps(trainer.training_loader(loaders[0]))
    recommender = Recommender(model)
    old = recommender.recommend([["i4", "i5"]], k=ITEMS)["item"].tolist()
    tables = {m: FeatureTable.load(data_path / TINY, m) for m in ("text", "image")}
    recommender.add_items({m: {"new": table.select(["i6"])[0] + 0.01} for m, table in tables.items()})
    extended = recommender.model
    with torch.no_grad():
        memories = extended.encode_histories(Histories(torch.tensor([[3, 9]]), torch.tensor([2])))
        found = extended.dense_log_probs(memories)[0, -1]
        states = [
            extended.network.decode(torch.zeros(1, 1, 1, dtype=torch.long), memory)[0, 0, 0] for memory in memories.values()
        ]
        vectors = vectors_by_hand(model)[1:]
        new = extended.dense_head.codes.weight[extended.dense_head.item_codes[-1]].sum(0)
        expected = (torch.vstack([vectors, new]) @ torch.stack(states).mean(0)).log_softmax(0)[-1]
    assert float(found) == pytest.approx(float(expected), abs=1e-5)
    ranked = recommender.recommend([["new", "i5"]], k=ITEMS + 1)
    assert "new" in ranked["item"].tolist() and np.isfinite(ranked["score"]).all()
    again = recommender.recommend([["i4", "i5"]], k=ITEMS + 1)["item"].tolist()
    assert [item for item in again if item != "new"] == old
    recommender.save_pretrained(tmp_path / "folder")
    assert Recommender.from_pretrained(tmp_path / "folder").recommend([["new", "i5"]], k=ITEMS + 1).equals(ranked)


def with_targets(loader, items: torch.Tensor):
    """Change the targets of an evaluation loader."""
    loader._dataset.inter_feat.update(Interaction({"item_id": items}))


def test_the_weight_comes_from_validation_and_is_kept(data_path, tmp_path):
    options = {"epochs": 3, "checkpoint_dir": str(tmp_path / "saved")}
    _, model, trainer, (train, valid, test) = of_kind("TIGER", data_path, **options)
    best, _ = trainer.fit(train, valid)
    trainer.evaluate(test)  # loads the best epoch
    share = float(model.dense_head.share)
    trainer.evaluate(test, load_best_model=False)
    assert float(model.dense_head.share) == share

    _, again, trainer_again, (train, valid, test) = of_kind("TIGER", data_path, **options)
    with_targets(test, 1 + test._dataset.inter_feat["item_id"] % ITEMS)
    assert trainer_again.fit(train, valid)[0] == best
    trainer_again.evaluate(test)
    assert float(again.dense_head.share) == share

    metric = trainer.config["valid_metric"]
    dense_share.choose_dense_share(model, valid, metric)
    assert float(model.dense_head.share) == share  # as in the best epoch
    found = {}
    for name in ("generative", "dense"):  # targets that only one of both ranks first
        model.dense_head.share.fill_(0.5)
        with_targets(valid, model.rank(batch_of(valid))[name].items[:, 0])
        dense_share.choose_dense_share(model, valid, metric)
        found[name] = float(model.dense_head.share)
    assert found["generative"] < found["dense"] and 0 <= found["generative"] and found["dense"] <= 1

    loaded = load_data_and_model(trainer.saved_model_file)[1]
    assert float(loaded.dense_head.share) == share
    histories = [["i4", "i5", "i6"], ["i9"]]
    recommended = Recommender(loaded).recommend(histories)
    loaded.save_pretrained(tmp_path / "folder")
    assert Recommender.from_pretrained(tmp_path / "folder").recommend(histories).equals(recommended)


def test_the_weight_is_the_best_one_by_the_requested_metric(tiger):
    """A target is the first item of the dense head, the first of the generative model, or the ninth of the dense head."""
    model, trainer, (_, valid, _) = tiger
    rankings, users = model.rank(batch_of(valid)), torch.arange(valid.sample_size)
    places = torch.stack([rankings["dense"].items[:, 0], rankings["generative"].items[:, 0], rankings["dense"].items[:, 8]])
    with_targets(valid, places[users % 3, users])
    results = {}
    for metric in ("hit@1", "hit@10"):
        dense_share.choose_dense_share(model, valid, metric)
        results[metric] = trainer.evaluate(valid, load_best_model=False)
    for metric, other in (("hit@1", "hit@10"), ("hit@10", "hit@1")):
        assert results[metric][metric] > results[other][metric]


@pytest.mark.parametrize("kind, exclude_seen", [("TIGER", True), ("MACRec", False)])
def test_a_validation_searches_once_and_ranks_by_the_chosen_weight(kind, exclude_seen, data_path, monkeypatch):
    options = {"epochs": 1, "eval_batch_size": 7, "num_beams": 12, "topk": [5, 10], "exclude_seen": exclude_seen}
    _, model, trainer, (train, valid, _) = of_kind(kind, data_path, **options)
    searched, rank = [], Ranker.rank
    monkeypatch.setattr(Ranker, "rank", lambda *arguments: searched.append(1) or rank(*arguments))
    _, result = trainer.fit(train, valid, saved=False)
    assert len(searched) == len(valid) > 1 and float(model.dense_head.share) != 0.5
    detail = trainer.test_detail
    assert trainer.evaluate(valid, load_best_model=False) == result and trainer.test_detail == detail
    assert len(searched) == 2 * len(valid)


@pytest.mark.parametrize("kind", ["TIGER", "MACRec", "both"])
def test_it_learns_and_resumes_exactly(kind, data_path):
    options = {"epochs": 8, "eval_step": 4, "train_batch_size": 16}
    _, whole, trainer, (train, valid, test) = of_kind(kind, data_path, **options)
    expected = trainer.fit(train, valid)
    final = {key: value.clone() for key, value in whole.state_dict().items()}
    assert trainer.evaluate(test)["hit@5"] > 2 * 5 / ITEMS
    assert {*whole.modalities, "generative", "dense", "fused"} == set(trainer.test_detail)
    _, _, left, (train, valid, _) = of_kind(kind, data_path, **options)
    train_until(left, 5.5, train, valid)
    _, model, resumed, (train, valid, _) = of_kind(kind, data_path, **options, resume=left.newest_model_file)
    assert resumed.fit(train, valid) == expected
    for key, value in model.state_dict().items():
        if key != "dense_head.share":  # evaluating loaded the best epoch
            torch.testing.assert_close(value, load_state(resumed.newest_model_file)[key], atol=0, rtol=0)
    best = load_state(resumed.saved_model_file)
    for key, value in final.items():
        torch.testing.assert_close(load_state(trainer.newest_model_file)[key], value, atol=0, rtol=0)
    for key, value in load_state(trainer.saved_model_file).items():
        torch.testing.assert_close(best[key], value, atol=0, rtol=0)


def test_checkpoint_of_items_in_another_order_is_rejected(data_path):
    """The head's table has RecBole's item numbers as rows, which depend on the order of lines in the files."""
    _, _, trainer, _ = of_kind("TIGER", data_path)
    trainer._save_checkpoint(0)
    load_data_and_model(trainer.saved_model_file)
    file = data_path / TINY / f"{TINY}.inter"
    header, *lines = file.read_text().splitlines()
    file.write_text("\n".join([header, *reversed(lines)]) + "\n")
    with pytest.raises(UserError, match="dense_head is True .* in another order"):
        load_data_and_model(trainer.saved_model_file)
    _, _, other, _ = of_kind("TIGER", data_path)
    with pytest.raises(UserError, match="in another order"):
        other.resume_checkpoint(trainer.saved_model_file)


def load_state(file) -> dict:
    return torch.load(file, weights_only=True)["state_dict"]


def test_rows_of_several_processes_are_joined_in_the_order_of_the_data(monkeypatch):
    """Rows 0, 2, 4 in one process, 1, 3 and the repeated 0 in the other, with lists of different widths."""
    absent = -torch.inf
    ours = [(torch.tensor([[1, 2], [3, 0]]), torch.tensor([[-1.0, -2.0], [-3.0, absent]]), torch.tensor([1, 9])),
            (torch.tensor([[5]]), torch.tensor([[-5.0]]), torch.tensor([5]))]  # fmt: skip
    theirs = [
        (
            torch.tensor([[2, 4], [4, 6], [1, 2]]),
            torch.tensor([[-2.0, -4.0], [-4.0, -6.0], [-1.0, -2.0]]),
            torch.tensor([4, 6, 1]),
        )
    ]

    class TwoProcesses:
        def gather(self, value):
            return [value, theirs]

    monkeypatch.setattr(dense_share, "current_group", TwoProcesses)
    items, scores, target = dense_share.gathered_rows(ours, samples=5)
    assert items.tolist() == [[1, 2], [2, 4], [3, 0], [4, 6], [5, 0]] and target.tolist() == [1, 4, 9, 6, 5]
    assert scores.tolist() == [[-1, -2], [-2, -4], [-3, absent], [-4, -6], [-5, absent]]


def test_a_comparison_and_its_report(data_path, tmp_path):
    settings = {**SMALL, **FUSED, "modalities": "['text']", "epochs": 2, "topk": "[10]"}
    folder = tmp_path / "compared"
    (tmp_path / "own.yaml").write_text(f"output: {settings.pop('output')}\n")  # --output is the folder
    words = [f"--config_files={tmp_path / 'own.yaml'}", *as_words(settings)]
    assert (
        main(["compare", "--models=TIGER,Pop", f"--datasets={TINY}", f"--data_path={data_path}", f"--output={folder}", *words])
        == 0
    )
    (result,) = (json.loads(path.read_text()) for path in folder.rglob("result.json") if "TIGER" in str(path))
    assert result["settings"]["output"] == "trie"
    assert command(open_comparison(folder)).startswith("echo 'output: trie' > output.yaml\npython -m ")
    assert set(result["test_detail"]) == {"text", "generative", "dense", "fused"}
    assert result["test_detail"]["fused"]["item"]["ndcg@10"] == pytest.approx(result["test_result"]["ndcg@10"], abs=1e-4)
    assert main(["report", str(folder)]) == 0


@pytest.mark.parametrize("options, message", [
    ({"network": "encoder_decoder"}, "dense_head is True and network is encoder_decoder; set network to decoder_only"),
    ({"dense_head": False}, "decode is fused and dense_head is False; set dense_head to True"),
    ({"dense_head_weight": 0}, "dense_head_weight is 0; expected a number > 0"),
    ({"num_beams": 5}, "num_beams is 5; expected at least 10"),
    ({"eval_args": {"split": {"LS": "valid_and_test"}, "mode": "uni10"}}, "mode of eval_args is uni10 for validation"),
    ({"metrics": ["Hit", "ItemCoverage"], "valid_metric": "ItemCoverage@10"}, "valid_metric is ItemCoverage@10"),
    ({"metrics": ["Hit", "GAUC"]}, "decode: fused ranks only the items that its beams find"),
])  # fmt: skip
def test_wrong_settings_are_one_sentence(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        prepare("TIGER", tmp_path / "missing", **{**FUSED, "modalities": ["text"], **options})


def test_mmgrec_has_no_dense_head(tmp_path):
    with pytest.raises(UserError, match="dense_head is True; expected False"):
        prepare("MMGRec", tmp_path / "missing", dense_head=True)


def test_another_decode_ignores_the_head(tiger):
    model, _, loaders = tiger
    users = batch_of(loaders[2])
    rankings = model.with_ranking(decode="exact").rank(users)
    assert set(rankings) == {"text", "fused"}
    history = model.histories(users)
    with torch.no_grad():
        generative = scores_one_by_one(model, "text", model.encode_history("text", history), rankings["fused"].items)
    torch.testing.assert_close(rankings["fused"].scores, generative, atol=1e-5, rtol=0)
