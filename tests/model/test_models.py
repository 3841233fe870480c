"""Contract tests of every registered model: learning, reproducibility, resuming, saving and ranking."""
import shutil
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import TINY
from recbole.data.interaction import Interaction
from recbole.quick_start import load_data_and_model
from recbole.utils import get_trainer
from recbole.utils.case_study import full_sort_topk
from small_models import (  # noqa: F401  data_path is a fixture
    ITEMS,
    QUICK,
    SMALL,
    batch_of,
    data_path,
    prepare,
    scores_one_by_one,
    train_until,
    write_small_dataset,
)

from recbole_macrec import Recommender
from recbole_macrec.data.features import FeatureTable
from recbole_macrec.errors import UserError
from recbole_macrec.model import MODELS
from recbole_macrec.model.tasks import SourceTasks
from recbole_macrec.trainer.callbacks import TrainingCallback
from recbole_macrec.trainer.checkpoint import load_checkpoint

NAMES = [model.__name__ for model in MODELS]
# for SASRec
BASELINE = {"train_neg_sample_args": None, "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]}}


class Uninterrupted(NamedTuple):
    """A training run of a model with the settings of ``SMALL``."""
    best: tuple  # as returned by ``fit``
    losses: dict
    weights: dict  # after the last epoch
    result: dict  # of the best epoch on the test data
    file: str


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Function: name of a model -> :class:`Uninterrupted`, trained in a folder of its own and once for all tests."""

    @cache
    def train(name: str) -> Uninterrupted:
        folder = tmp_path_factory.mktemp(name)
        path = write_small_dataset(folder / "data")
        _, model, trainer, (train, valid, test) = prepare(name, path, checkpoint_dir=str(folder / "saved"))
        best = trainer.fit(train, valid)
        weights = {key: value.clone() for key, value in model.state_dict().items()}
        return Uninterrupted(best, trainer.train_loss_dict, weights, trainer.evaluate(test), trainer.saved_model_file)

    return train


@pytest.mark.parametrize("name", NAMES)
def test_learns_the_next_item(name, data_path):
    _, _, trainer, (train, valid, test) = prepare(name, data_path, epochs=20, eval_step=20)
    trainer.fit(train, valid)
    losses = list(trainer.train_loss_dict.values())
    assert losses[-1] < 0.75 * losses[0]
    result = trainer.evaluate(test)
    assert result["hit@5"] > 2 * 5 / ITEMS  # twice chance


@pytest.mark.parametrize("decode, fusion", [("beam", "official"), ("certified", "lse")])
@pytest.mark.parametrize("name", NAMES)
def test_rankings_do_not_depend_on_the_batch(name, decode, fusion, data_path):
    _, model, _, loaders = prepare(name, data_path, decode=decode, fusion=fusion)
    model.eval()
    users = batch_of(loaders[2])
    together = model.full_sort_predict(users)
    assert together.shape == (len(users), ITEMS + 1) and together.is_contiguous() and together.isfinite().all()
    for i in range(0, len(users), 7):
        alone = model.full_sort_predict(users[[i]])[0]
        assert torch.equal(alone.argsort(descending=True), together[i].argsort(descending=True))
    assert (together.argmin(1) == 0).all()  # padding is last


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_of_parts_equal_those_of_single_samples(name, data_path):
    """Without alignment items the loss is the mean over samples, however they are split."""
    _, model, _, loaders = prepare(name, data_path, dropout_prob=0.0, pass_tokens=40)
    model.train()
    model.item_tasks, model.lambda_implicit = [], 0.0
    samples = loaders[0]._dataset[np.arange(23)]
    loss = model.calculate_loss(samples)
    loss.backward()
    gradient = model.network.table.weight.grad.clone()
    model.zero_grad()
    alone = sum(model.calculate_loss(samples[[i]]) for i in range(23)) / 23
    alone.backward()
    torch.testing.assert_close(loss, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.network.table.weight.grad, gradient, atol=1e-5, rtol=1e-4)
    assert gradient.abs().max() > 0


PER_USER = {"training": "per_user", "output": "trie", "train_batch_size": 8}
DECODER_ONLY = {**PER_USER, "network": "decoder_only"}


@pytest.mark.parametrize("options", [DECODER_ONLY, PER_USER], ids=["decoder_only", "encoder_decoder"])
@pytest.mark.parametrize("name", ["TIGER", "MQL4GRec"])
def test_per_user_loss_and_gradient_equal_those_of_single_targets(name, options, data_path):
    """Also for histories cut into windows."""
    _, model, trainer, loaders = prepare(name, data_path, dropout_prob=0.0, MAX_ITEM_LIST_LENGTH=4, **options)
    model.item_tasks, model.aligns_items = [], False
    windows = trainer.training_loader(loaders[0])
    assert max(window.first for window in windows.windows) > 1 and len(windows.windows) < len(loaders[0]._dataset) / 2
    together = windows.collate_fn(range(len(windows.windows)))
    alone = [(w.items[:place], w.items[place]) for w in windows.windows for place in range(w.first, len(w.items))]
    assert len(alone) == len(loaders[0]._dataset)
    histories = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(history) for history, _ in alone], batch_first=True)
    lengths, targets = torch.tensor([len(history) for history, _ in alone]), torch.tensor([target for _, target in alone])
    samples = Interaction({"item_id_list": histories, "item_length": lengths, "item_id": targets})
    results = []
    for batch in (samples, together):
        model.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward()
        results.append((loss.detach(), model.network.table.weight.grad.clone()))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name, options", [("TIGER", DECODER_ONLY), ("TIGER", PER_USER), ("MACRec", DECODER_ONLY)],
                         ids=["TIGER-decoder_only", "TIGER-encoder_decoder", "MACRec-decoder_only"])  # fmt: skip
def test_per_user_training_learns_and_resumes(name, options, data_path):
    options = {**options, "epochs": 12, "eval_step": 6, "fusion": "mean"}
    _, whole, trainer, (train, valid, test) = prepare(name, data_path, **options)
    expected = trainer.fit(train, valid)
    final = {key: value.clone() for key, value in whole.state_dict().items()}
    losses = list(trainer.train_loss_dict.values())
    assert losses[-1] < 0.85 * losses[0] and trainer.evaluate(test)["hit@5"] > 2 * 5 / ITEMS
    _, _, left, (train, valid, _) = prepare(name, data_path, **options)
    train_until(left, 7.5, train, valid)
    _, model, resumed, (train, valid, _) = prepare(name, data_path, **options, resume=left.newest_model_file)
    assert resumed.fit(train, valid) == expected
    for key, value in final.items():
        torch.testing.assert_close(model.state_dict()[key], value, atol=0, rtol=0)
    model.eval()
    users, rankings = batch_of(test), {}
    for decode in ("beam", "exact", "certified"):
        rankings[decode] = model.with_ranking(decode=decode).rank(users)
    for m in [*model.modalities, "fused"]:
        exact = rankings["exact"][m]
        assert torch.equal(rankings["certified"][m].items[:, :10], exact.items[:, :10])
        if m != "fused":
            with torch.no_grad():
                scores = scores_one_by_one(model, m, model.encode_history(m, model.histories(users)), exact.items)
            torch.testing.assert_close(scores, exact.scores, atol=1e-5, rtol=0)


def test_per_user_training_rejects_a_bidirectional_encoder(data_path):
    with pytest.raises(UserError, match="encoder_attention"):
        prepare("TIGER", data_path, training="per_user", encoder_attention="bidirectional")


@pytest.mark.parametrize("name", NAMES)
def test_predict_returns_the_exact_score(name, data_path):
    _, model, _, loaders = prepare(name, data_path)
    model.eval()
    users = batch_of(loaders[2])
    with torch.no_grad():
        got = model.predict(users)
        expected = torch.zeros(len(users))
        for m in model.modalities:
            memory = model.encode_history(m, model.histories(users))
            scores = scores_one_by_one(model, m, memory, torch.arange(1, ITEMS + 1).expand(len(users), -1))
            expected += scores.gather(1, users["item_id"].unsqueeze(1) - 1)[:, 0] / len(model.modalities)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_predict_encodes_a_history_once_for_all_its_candidates(data_path, monkeypatch):
    """Sampled candidates of a user follow each other; users have different numbers of them."""
    _, model, _, loaders = prepare("MACRec", data_path)
    model.eval()
    users, encoded = batch_of(loaders[2])[np.array([0, 0, 0, 1, 2, 2, 0])], []
    users.update(Interaction({"item_id": torch.tensor([3, 9, 3, 9, 1, 30, 5])}))
    with torch.no_grad():
        expected = torch.cat([model.predict(users[np.array([i])]) for i in range(7)])
        encode = model.encode_histories
        monkeypatch.setattr(model, "encode_histories", lambda part: encoded.append(len(part.length)) or encode(part))
        torch.testing.assert_close(model.predict(users), expected, atol=1e-5, rtol=0)
    assert sum(encoded) == 4


@pytest.mark.parametrize("name", NAMES)
def test_exact_decoding_ranks_by_the_scores_of_predict(name, data_path):
    _, model, _, loaders = prepare(name, data_path, decode="exact", fusion="mean")
    model.eval()
    users = batch_of(loaders[2])
    ranking = model.rank(users)["fused"]
    assert ranking.items.shape == (len(users), ITEMS)
    with torch.no_grad():
        for place in (0, 4, ITEMS - 1):
            users.update(Interaction({"item_id": ranking.items[:, place]}))
            torch.testing.assert_close(model.predict(users), ranking.scores[:, place], atol=1e-5, rtol=0)
    best_first = model.full_sort_predict(users)[:, 1:].argsort(descending=True, stable=True) + 1
    assert torch.equal(best_first, ranking.items)


@pytest.mark.parametrize("name", NAMES)
def test_bf16_is_close_to_fp32(name, data_path):
    """Loss and scores under autocast to bf16 against fp32."""
    losses, scores = [], []
    for precision in ("fp32", "bf16"):
        options = {"dropout_prob": 0.0, "precision": precision, "eval_precision": precision}
        _, _, trainer, (train, _, test) = prepare(name, data_path, **options)
        losses.append(trainer.train_steps(train))
        trainer.evaluate(test, load_best_model=False)
        scores.append(trainer.model.last_rankings[trainer.model.modalities[0]].scores)
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[1] != losses[0]
    torch.testing.assert_close(scores[1], scores[0], atol=0.1, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_all_ranking_methods_use_eval_precision(name, data_path):
    """Training in bf16 has no effect on the precision of evaluation, ``full_sort_topk``, ``predict`` and ``recommend``."""
    _, model, trainer, (train, _, test) = prepare(name, data_path, precision="bf16", pass_tokens=None)
    assert (trainer.precision, model.eval_precision) == ("bf16", "fp32")
    trainer.train_steps(train)
    ranked, users = {}, batch_of(test)
    for precision in ("fp32", "bf16"):
        model.eval_precision = precision
        trainer.evaluate(test, load_best_model=False)
        ranking = model.last_rankings["fused"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            topk = full_sort_topk(users["user_id"].numpy(), model, test, k=10)
            predicted = model.predict(users)
        torch.testing.assert_close(predicted, model.predict(users), atol=0, rtol=0)
        assert torch.equal(topk[1], ranking.items[:, :10])
        if not model.requires_users:
            tokens = model.semantic_ids.item_tokens
            read = [
                [tokens[item - 1] for item in row[:length]] for row, length in zip(users["item_id_list"], users["item_length"])
            ]
            found = model.recommend(read, k=10)
            assert found["item"].tolist() == [tokens[item - 1] for item in ranking.items[:, :10].flatten().tolist()]
        ranked[precision] = (ranking.scores[:, 0], predicted)
    for a, b in zip(ranked["fp32"], ranked["bf16"]):
        torch.testing.assert_close(a, b, atol=0.1, rtol=0)
        assert not torch.equal(a, b)


@pytest.mark.parametrize("forced, expected", [("1", "bf16"), ("0", "fp32")])
def test_precision_auto_reads_the_environment_variable(forced, expected, data_path, monkeypatch):
    monkeypatch.setenv("RECBOLE_MACREC_BF16", forced)
    _, model, trainer, _ = prepare("TIGER", data_path, modalities=["text"], precision="auto", eval_precision="auto")
    assert trainer.precision == model.eval_precision == expected
    monkeypatch.setenv("RECBOLE_MACREC_BF16", "yes")
    with pytest.raises(UserError, match="RECBOLE_MACREC_BF16 is 'yes'"):
        prepare("TIGER", data_path, modalities=["text"], precision="auto")


KEEP = {"collision": "keep", "num_beams": 12}


@pytest.fixture(scope="module")
def weights_with_shared_ids(tmp_path_factory):
    """Function: name of a model -> its weights after training with items that share IDs."""

    @cache
    def train(name: str) -> dict:
        folder = tmp_path_factory.mktemp(name)
        options = {**KEEP, "checkpoint_dir": str(folder / "saved")}
        _, model, trainer, (train, _, _) = prepare(name, write_small_dataset(folder / "data"), **options)
        trainer.fit(train)
        return model.state_dict()

    return train


@pytest.mark.parametrize("certified_rows", [1024, 4])
@pytest.mark.parametrize("fusion", ["official", "mean", "lse"])
@pytest.mark.parametrize("name", ["TIGER", "MACRec"])
def test_first_items_of_certified_equal_those_of_exact(name, fusion, certified_rows, data_path, weights_with_shared_ids):
    """For each modality and their fusion, so metrics by item and by ID are the same."""
    _, model, trainer, (_, _, test) = prepare(name, data_path, fusion=fusion, certified_rows=certified_rows, **KEEP)
    model.load_state_dict(weights_with_shared_ids(name))
    results = {}
    for decode in ("certified", "exact"):
        model.ranking = model.with_ranking(decode=decode).ranking
        result = trainer.evaluate(test, load_best_model=False)
        top = model.full_sort_predict(batch_of(test)).topk(10).indices
        results[decode] = result, trainer.test_detail, top.tolist()
    assert results["certified"] == results["exact"]
    assert model.full_sort_predict(batch_of(test)).isfinite().all()


def test_items_with_the_same_id_are_ranked_by_training_interactions(data_path, tmp_path):
    """Their probabilities have the ratio of these numbers plus one. Held-out interactions do not count."""
    rows = [line.split("\t") for line in (data_path / TINY / f"{TINY}.inter").read_text().splitlines()[1:]]
    by_user: dict[str, list] = {}
    for user, item, time in rows:
        by_user.setdefault(user, []).append((float(time), item))
    counts = Counter(item for events in by_user.values() for _, item in sorted(events)[:-2])
    options = {"modalities": ["text"], "decode": "exact", **KEEP}
    _, model, _, loaders = prepare("TIGER", data_path, **options)
    tokens = loaders[0].dataset.field2id_token["item_id"]
    scores = model.full_sort_predict(batch_of(loaders[2]))
    exact = model.item_scores(batch_of(loaders[2]), torch.arange(1, ITEMS).expand(len(scores), -1))
    code = model.tables["text"].codes
    pairs = [(i, j) for i in range(1, ITEMS) for j in range(1, i) if torch.equal(code[i], code[j])]
    ratios = [(counts[tokens[i]] + 1) / (counts[tokens[j]] + 1) for i, j in pairs]
    assert any(ratio > 1 for ratio in ratios) and any(ratio < 1 for ratio in ratios)
    for (i, j), ratio in zip(pairs, ratios):
        difference = torch.full((len(scores),), np.log(ratio) / model.tables["text"].levels)
        torch.testing.assert_close(exact[:, i - 1] - exact[:, j - 1], difference, atol=1e-5, rtol=0, check_dtype=False)
        assert ratio == 1 or ((scores[:, i] > scores[:, j]) == (ratio > 1)).all()
    model.save_pretrained(tmp_path / "folder")
    loaded = Recommender.from_pretrained(tmp_path / "folder", device="cpu").model
    assert torch.equal(loaded.tables["text"].log_shares, model.tables["text"].log_shares)
    _, whole, _, _ = prepare("TIGER", data_path, item_prior="none", **options)
    exact = whole.item_scores(batch_of(loaders[2]), torch.arange(1, ITEMS).expand(len(scores), -1))
    assert all(torch.equal(exact[:, i - 1], exact[:, j - 1]) for i, j in pairs)


def test_rescore_fusion_ranks_candidates_by_exact_scores(data_path):
    _, model, _, loaders = prepare("MACRec", data_path, fusion="rescore", num_beams=10)
    model.eval()
    users = batch_of(loaders[2])
    rankings = model.rank(users)
    fused = rankings["fused"]
    for row in range(len(users)):
        listed = {i for m in model.modalities for i in rankings[m].items[row].tolist()} - {0}
        assert set(fused.items[row].tolist()) - {0} == listed
    with torch.no_grad():
        for place in (0, 5):
            users.update(Interaction({"item_id": fused.items[:, place]}))
            torch.testing.assert_close(model.predict(users), fused.scores[:, place], atol=1e-5, rtol=0)
    assert (fused.scores.diff(dim=1).nan_to_num(0) <= 0).all()


@pytest.mark.parametrize("decode", ["beam", "exact"])
@pytest.mark.parametrize("name", NAMES)
def test_metrics_equal_a_simple_count(name, decode, data_path):
    config, model, trainer, (train, valid, test) = prepare(name, data_path, epochs=2, decode=decode)
    trainer.fit(train, valid)
    result = trainer.evaluate(test)
    scores = model.full_sort_predict(batch_of(test))
    target = batch_of(test)["item_id"]
    places = [row.tolist().index(t) + 1 for row, t in zip(scores.argsort(descending=True), target.tolist())]
    for k in config["topk"]:
        assert result[f"hit@{k}"] == pytest.approx(np.mean([p <= k for p in places]), abs=1e-4)
        ndcg = np.mean([1 / np.log2(p + 1) if p <= k else 0 for p in places])
        assert result[f"ndcg@{k}"] == pytest.approx(ndcg, abs=1e-4)
    assert trainer.test_detail["fused"]["item"] == {key: pytest.approx(value, abs=1e-4) for key, value in result.items()}


def test_pre_model_path_of_a_model_without_pre_training_is_ignored_with_a_warning(data_path, uninterrupted, caplog):
    expected = uninterrupted("TIGER")
    _, _, trainer, (train, valid, _) = prepare("TIGER", data_path, pre_model_path="nowhere.pth")
    with caplog.at_level("WARNING"):
        trainer.fit(train, valid)
    assert trainer.train_loss_dict == expected.losses
    assert "TIGER has no option pre_model_path and ignores nowhere.pth." in caplog.text


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_gives_same_results_and_loaded_equals_saved(name, data_path, uninterrupted):
    expected = uninterrupted(name)
    _, _, trainer, (train, valid, test) = prepare(name, data_path)
    trainer.fit(train, valid)
    assert (trainer.train_loss_dict, trainer.evaluate(test)) == (expected.losses, expected.result)
    config, model, _, _, _, test = load_data_and_model(expected.file)
    assert get_trainer(config["MODEL_TYPE"], name)(config, model).evaluate(test, load_best_model=False) == expected.result
    users = test._dataset.inter_feat["user_id"][:5].numpy()
    _, top = full_sort_topk(users, model, test, k=10)
    assert torch.equal(top, model.full_sort_predict(test._dataset[np.arange(5)]).topk(10).indices)


def rewritten(data_path, change) -> None:
    """Rewrite the lines below the header of both atomic files with ``change``."""
    for ending in ("inter", "item"):
        file = data_path / TINY / f"{TINY}.{ending}"
        header, *lines = file.read_text().splitlines()
        file.write_text("\n".join([header, *change(ending, lines)]) + "\n")


def ranked_items(model, test) -> dict:
    """User token -> the ten best item tokens."""
    users = test._dataset.inter_feat["user_id"].numpy()
    _, top = full_sort_topk(users, model, test, k=10)
    tokens = test.dataset.id2token("item_id", top.numpy()).tolist()
    return dict(zip(test.dataset.id2token("user_id", users).tolist(), tokens))


@pytest.mark.parametrize("name, options", [*((name, {}) for name in NAMES), ("MMGRec", {"encoder_input": "learnt"}),
                                           ("TIGER", {"encoders": {"text": "tfidf"}}),
                                           ("TIGER", {"modalities": ["sound"], "encoders": {"sound": "cooccurrence"}})])
def test_recommendations_do_not_depend_on_the_order_of_rows(name, options, data_path):
    for modality in options.get("encoders", {}):  # encoded from the rewritten files, too
        for file in (data_path / TINY / "features").glob(f"{modality}.*"):
            file.unlink()
    _, model, trainer, (_, _, test) = prepare(name, data_path, quantizer="rq_kmeans", **options)
    trainer._save_checkpoint(0)
    expected = ranked_items(model, test)
    shuffle = np.random.default_rng(0).permutation
    rewritten(data_path, lambda _, lines: [lines[i] for i in shuffle(len(lines))])
    _, model, _, _, _, test = load_data_and_model(trainer.saved_model_file)
    assert ranked_items(model, test) == expected
    assert len([path for path in (data_path / TINY / "semantic_ids").iterdir() if path.is_dir()]) == 1  # nothing learnt anew


@pytest.mark.parametrize("options, ending, line, reported", [
    ({}, "item", "i30\tnew\t1.0\tred", r"1 item \('i30'\) new"),
    ({"encoders": {"text": "tfidf"}}, "item", None, "features of 'text'"),
    ({"collision": "popularity"}, "inter", "u0\ti5\t-1", "counts of training interactions"),
])
@pytest.mark.parametrize("how", ["load", "resume"])
def test_checkpoint_of_other_data_is_rejected_before_training(options, ending, line, reported, how, data_path):
    if options.get("encoders"):
        for file in (data_path / TINY / "features").glob("text.*"):
            file.unlink()
    options = {"quantizer": "rq_kmeans", "modalities": ["text"], **options}
    _, _, trainer, _ = prepare("TIGER", data_path, **options)
    trainer._save_checkpoint(0)
    if ending == "item" and line:
        table = FeatureTable.load(data_path / TINY, "text")
        FeatureTable((*table.item_tokens, "i30"), np.vstack([table.matrix, table.matrix[:1]])).save(data_path / TINY, "text")
    rewritten(data_path, lambda kind, lines: lines if kind != ending else
              [*lines, line] if line else [entry.replace("craft item 7", "paper item 7") for entry in lines])
    with pytest.raises(UserError, match=f"changed since: {reported}"):
        if how == "load":
            load_data_and_model(trainer.saved_model_file)
        else:
            prepare("TIGER", data_path, resume=trainer.saved_model_file, **options)
    assert len([path for path in (data_path / TINY / "semantic_ids").iterdir() if path.is_dir()]) == 1


def test_checkpoint_of_other_users_is_rejected(data_path):
    _, _, trainer, _ = prepare("MMGRec", data_path, encoder_input="learnt", representation="concatenated",
                               collision="extra_token", quantizer="rq_kmeans")
    trainer._save_checkpoint(0)
    rewritten(data_path, lambda _, lines: [line.replace("u3\t", "new\t") for line in lines])
    with pytest.raises(UserError, match="MMGRec reads users.*40 users"):
        load_data_and_model(trainer.saved_model_file)


@pytest.mark.parametrize("name", NAMES)
def test_resumed_equals_uninterrupted(name, data_path, uninterrupted):
    expected = uninterrupted(name)

    class Killed(Exception):
        pass

    def kill(epoch, score):
        if epoch == 1:
            raise Killed

    _, _, trainer, (train, valid, _) = prepare(name, data_path)
    with pytest.raises(Killed):
        trainer.fit(train, valid, callback_fn=kill)
    _, model, resumed, (train, valid, _) = prepare(name, data_path, resume=trainer.newest_model_file)
    assert resumed.fit(train, valid) == expected.best
    assert list(resumed.train_loss_dict) == [2, 3]
    for key, value in expected.weights.items():
        torch.testing.assert_close(model.state_dict()[key], value, atol=0, rtol=0)


def test_a_run_resumed_with_other_batches_is_at_the_same_place_of_the_schedule(data_path):
    options = {"scheduler": "linear", "warmup_ratio": 0.0, "epochs": 4}
    _, _, trainer, (train, valid, _) = prepare("TIGER", data_path, **options)
    trainer.epochs = 2
    trainer.fit(train, valid)
    _, _, resumed, (train, _, _) = prepare("TIGER", data_path, train_batch_size=8, resume=trainer.newest_model_file, **options)
    assert len(resumed.training_data(train)) != trainer.steps / 2
    resumed.restore(train)
    assert resumed.step / resumed.steps == 0.5


def test_a_resumed_run_has_its_own_options_of_the_optimizer(data_path):
    _, _, trainer, (train, valid, _) = prepare("TIGER", data_path, epochs=1)
    trainer.fit(train, valid)
    file = trainer.newest_model_file
    _, _, resumed, _ = prepare("TIGER", data_path, weight_decay=0.3, resume=file)
    resumed.resume_checkpoint(file)
    assert [group["weight_decay"] for group in resumed.optimizer.param_groups] == [0.3, 0.0]
    assert resumed.optimizer.state
    with pytest.raises(UserError, match="learner is sgd, but checkpoint .* was written with adamw; set learner to adamw"):
        prepare("TIGER", data_path, learner="sgd", resume=file)[2].resume_checkpoint(file)


@pytest.mark.parametrize("name", ["TIGER", "MMGCN"])
def test_a_modality_may_have_the_name_of_a_method(name, data_path):
    for path in (data_path / TINY / "features").glob("text.*"):
        path.rename(path.with_name(path.name.replace("text", "items", 1)))
    _, model, trainer, (train, _, _) = prepare(name, data_path, modalities=["items"])
    trainer.train_steps(train, 1)
    assert any(".items." in key or ".items" in key for key in [*model.state_dict(), *dict(model.named_modules())])


LETTER = {"modalities": ["text"], "quantizer": "letter", "cf_epochs": 1}


@pytest.mark.parametrize("name, options", [("VBPR", {}), ("MMGRec", QUICK), ("TIGER", LETTER)])
def test_saved_data_loaders_give_the_same_results(name, options, data_path, tmp_path):
    """In the run that saves them, and in a run that reads them."""
    results = []
    for saving in ({}, {"save_dataloaders": True}, {"save_dataloaders": True, "trust_checkpoint": True}):
        settings = {**options, "epochs": 2, "checkpoint_dir": str(tmp_path / "saved"), **saving}
        _, _, trainer, (train, valid, test) = prepare(name, data_path, **settings)
        trainer.fit(train, valid, saved=False)
        results.append((trainer.train_loss_dict, trainer.evaluate(test, load_best_model=False)))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("epochs, reported", [(3, True), (2, False)])
def test_epochs_after_the_last_validation_are_reported(epochs, reported, data_path, caplog):
    _, _, trainer, (train, valid, _) = prepare("SASRecPerUser", data_path, epochs=epochs, eval_step=2)
    with caplog.at_level("WARNING"):
        trainer.fit(train, valid, saved=False)
    assert ("epochs is 3 and eval_step is 2: the last validation comes after 2 epochs" in caplog.text) == reported


def test_mixed_precision_of_recbole_is_reported(data_path, caplog):
    config, model, _, _ = prepare("SASRecPerUser", data_path, enable_amp=True)
    with caplog.at_level("WARNING"):
        get_trainer(config["MODEL_TYPE"], "SASRecPerUser")(config, model)
    assert "enable_amp is True" in caplog.text


def test_a_second_fit_trains_again(data_path):
    _, model, trainer, (train, valid, _) = prepare("TIGER", data_path, epochs=2)
    trainer.fit(train, valid)
    before, rates = [weight.detach().clone() for weight in model.parameters()], []
    trainer.fit(train, valid, callback_fn=lambda epoch, score: rates.append(trainer.optimizer.param_groups[0]["lr"]))
    assert len(rates) == 2 and rates[0] > rates[1] > 0
    assert not any(torch.equal(weight, old) for weight, old in zip(model.parameters(), before))


def test_training_of_a_loaded_model_starts_at_its_weights(data_path, tmp_path):
    """Also if the checkpoint is of a resumed run, whose file of the interruption is newer or was deleted since."""
    _, _, killed, (train, valid, _) = prepare("TIGER", data_path, checkpoint_dir=str(tmp_path))
    train_until(killed, 1.5, train, valid)
    options = {"checkpoint_dir": str(tmp_path), "resume": killed.newest_model_file}
    _, _, trainer, (train, valid, _) = prepare("TIGER", data_path, **options)
    trainer.fit(train, valid)
    Path(killed.newest_model_file).unlink()
    config, model, _, train, valid, _ = load_data_and_model(trainer.saved_model_file)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    config["learning_rate"] = 1e-12
    again = get_trainer(config["MODEL_TYPE"], "TIGER")(config, model)
    again.fit(train, valid, saved=False)
    assert list(again.train_loss_dict) == list(range(config["epochs"]))
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, before[name], atol=1e-6, rtol=0)


def test_a_copied_folder_is_resumed_without_writing_to_the_original(data_path, tmp_path):
    _, _, trainer, (train, valid, _) = prepare("TIGER", data_path, epochs=1)
    trainer.fit(train, valid)
    original = Path(trainer.saved_model_file).parent
    copied, before = shutil.copytree(original, tmp_path / "copied"), {path: path.read_bytes() for path in original.iterdir()}
    newest = copied / Path(trainer.newest_model_file).name
    _, _, resumed, (train, valid, _) = prepare("TIGER", data_path, resume=str(newest), epochs=2)
    left = newest.read_bytes()
    resumed.fit(train, valid)
    assert Path(resumed.saved_model_file).parent == copied and newest.read_bytes() != left
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("name", NAMES)
def test_resumed_within_an_epoch_equals_uninterrupted(name, data_path, uninterrupted):
    """Two pauses: at the first batch, before the first best epoch is written, and in the second epoch."""
    expected = uninterrupted(name)
    losses, file = expected.losses, None
    for pause, finished in ((0.0, {}), (1.5, {0: losses[0]})):
        _, _, trainer, (train, valid, _) = prepare(name, data_path, resume=file)
        train_until(trainer, pause, train, valid)
        assert trainer.train_loss_dict == finished and file in (None, trainer.newest_model_file)
        file = trainer.newest_model_file
    _, model, resumed, (train, valid, _) = prepare(name, data_path, resume=file)
    assert resumed.fit(train, valid) == expected.best
    assert resumed.train_loss_dict == {epoch: loss for epoch, loss in losses.items() if epoch >= 1}
    assert resumed.newest_model_file == file
    for key, value in expected.weights.items():
        torch.testing.assert_close(model.state_dict()[key], value, atol=0, rtol=0)


def test_the_best_checkpoint_has_the_result_of_its_epoch(data_path):
    results = []

    class Results(TrainingCallback):
        def on_evaluation_end(self, trainer, stage, result):
            results.append(dict(result))

    options = {"modalities": ["text"], "quantizer": "rq_kmeans"}
    _, _, trainer, (train, valid, _) = prepare("TIGER", data_path, **options)
    trainer.callbacks.append(Results())
    expected = trainer.fit(train, valid)
    best = load_checkpoint(trainer.saved_model_file)
    assert best["best_valid_result"] == results[best["epoch"]] == expected[1]
    options |= {"resume": trainer.saved_model_file, "epochs": best["epoch"] + 1}
    _, _, resumed, (train, valid, _) = prepare("TIGER", data_path, **options)
    assert resumed.fit(train, valid) == expected


@pytest.mark.parametrize("batch_size", [20, 15])  # the last batch of 40 windows is full, or not
def test_resumed_after_the_last_batch_equals_uninterrupted(batch_size, data_path):
    """torch's sampler shuffles once more after a full last batch, when the checkpoint is written already."""
    class Killed(Exception):
        pass

    class KillInValidation(TrainingCallback):
        def on_evaluation_begin(self, trainer, stage, data):
            raise Killed

    options = {"modalities": ["text"], "training": "per_user", "encoder_attention": "causal", "train_batch_size": batch_size}
    _, whole, trainer, (train, valid, _) = prepare("TIGER", data_path, **options)
    expected = trainer.fit(train, valid)
    assert len(trainer._train_data.windows) == 40
    _, _, killed, (train, valid, _) = prepare("TIGER", data_path, **options)
    killed.callbacks.append(KillInValidation())
    with pytest.raises(Killed):
        killed.fit(train, valid)
    _, model, resumed, (train, valid, _) = prepare("TIGER", data_path, resume=killed.newest_model_file, **options)
    assert resumed.fit(train, valid) == expected
    assert resumed.train_loss_dict == trainer.train_loss_dict
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, atol=0, rtol=0)


def test_resume_checkpoint_before_fit_resumes_like_the_option(data_path):
    """RecBole's method. The learning rate schedule continues, too."""
    options = {"modalities": ["text"], "quantizer": "rq_kmeans"}
    _, whole, trainer, (train, valid, _) = prepare("TIGER", data_path, **options)
    expected = trainer.fit(train, valid)
    _, _, paused, (train, valid, _) = prepare("TIGER", data_path, **options)
    train_until(paused, 1.5, train, valid)
    _, model, resumed, (train, valid, _) = prepare("TIGER", data_path, **options)
    resumed.resume_checkpoint(paused.newest_model_file)
    assert resumed.fit(train, valid) == expected and resumed.step == trainer.step
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, atol=0, rtol=0)


def test_resuming_within_an_epoch_needs_the_same_batches(data_path):
    _, _, trainer, (train, _, _) = prepare("TIGER", data_path, modalities=["text"])
    train_until(trainer, 0, train)
    options = {"train_batch_size": 7, "resume": trainer.newest_model_file}
    _, _, trainer, (train, _, _) = prepare("TIGER", data_path, modalities=["text"], **options)
    with pytest.raises(UserError, match="train_batch_size"):
        trainer.fit(train)


def test_rankings_of_the_modalities_and_their_fusion_are_reported(data_path):
    _, model, trainer, (train, valid, test) = prepare("MACRec", data_path, epochs=1)
    trainer.fit(train, valid)
    trainer.evaluate(test)
    assert set(trainer.test_detail) == {"text", "image", "fused"}
    for detail in trainer.test_detail.values():
        for metric, value in detail["item"].items():
            assert detail["id"][metric] >= value  # an ID that several items shared is hit with any of them


def test_tiger_with_ids_learnt_from_two_modalities(data_path):
    _, reference, _, _ = prepare("MACRec", data_path)
    _, model, _, _ = prepare("TIGER", data_path, quantizer="cross_modal_rqvae", collision="reassign")
    assert model.modalities == ["text"] and reference.modalities == ["text", "image"]
    torch.testing.assert_close(model.tables.text.codes, reference.tables.text.codes)
    _, alone, _, _ = prepare("TIGER", data_path, collision="reassign")
    assert not torch.equal(alone.tables.text.codes, reference.tables.text.codes)


@pytest.mark.parametrize("ratio, tasks", [(0, False), (0.25, True)])
def test_item_task_ratio_does_not_affect_implicit_alignment(ratio, tasks, data_path):
    losses = []
    for weight in (0.0, 0.5):
        options = {"dropout_prob": 0.0, "item_task_ratio": ratio, "lambda_implicit": weight}
        _, model, _, loaders = prepare("MACRec", data_path, **options)
        torch.manual_seed(0)
        losses.append(model.calculate_loss(loaders[0]._dataset[np.arange(40)]).item())
        assert bool(model.item_tasks) == tasks
    assert losses[1] > losses[0] + 0.1


@pytest.mark.parametrize("training", ["per_user", "per_target"])
def test_cross_task_ratio_is_the_share_of_users_in_cross_modal_tasks(training, data_path):
    options = {"dropout_prob": 0.0, "item_task_ratio": 0, "lambda_implicit": 0.0, "training": training}
    _, model, trainer, loaders = prepare("MACRec", data_path, cross_task_ratio=0.25, train_batch_size=40, **options)
    batch = next(iter(trainer.training_loader(loaders[0])))
    windows = model.windows(batch)
    torch.manual_seed(3)
    loss = model.calculate_loss(batch)
    torch.manual_seed(3)
    drawn = windows.select(torch.randperm(len(windows.length))[: round(0.25 * len(windows.length))].sort().values)
    samples = 2 * windows.n_targets() + 2 * drawn.n_targets()
    expected = sum(
        model.passes.sequence_loss([SourceTasks(a, [b])], windows if a == b else drawn) / samples
        for a in model.modalities
        for b in model.modalities
    )
    assert 0 < drawn.n_targets() < windows.n_targets()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("options", [{}, {"cross_task_ratio": 0.25}, {"item_task_ratio": 0}, {"explicit_alignment": False}])
def test_modalities_read_together_give_the_loss_and_gradients_of_modalities_read_apart(options, data_path):
    options = {"network": "decoder_only", "training": "per_user", "dropout_prob": 0.0, "item_task_ratio": 0.5} | options
    _, model, trainer, loaders = prepare("MACRec", data_path, **options)
    batch = next(iter(trainer.training_loader(loaders[0])))
    results = []
    for joins in (False, True):
        model.budget = replace(model.budget, joins_sources=joins)
        torch.manual_seed(3)
        parts = model.loss_parts(batch)
        loss = sum(part() for part in parts)
        results.append((len(parts), [loss, *torch.autograd.grad(loss, list(model.network.parameters()))]))
    (apart, expected), (together, values) = results
    assert together < apart
    for value, reference in zip(values, expected):
        torch.testing.assert_close(value, reference, atol=1e-6, rtol=1e-4)


def test_a_prompt_per_task_names_source_and_target(data_path):
    _, shared, _, _ = prepare("MACRec", data_path)
    assert set(shared.vocabulary.prompts) == {f"{kind}:{m}" for kind in ("sequence", "item") for m in ("text", "image")}
    _, model, trainer, (train, _, _) = prepare("MACRec", data_path, prompt="task", dropout_prob=0.0)
    windows = model.windows(next(iter(trainer.training_loader(train))))

    def trained_prompts(loss) -> set[str]:
        gradient = torch.autograd.grad(loss, model.network.table.weight)[0]
        return {name for name, tokens in model.vocabulary.prompts.items() if gradient[list(tokens)].abs().sum() > 0}

    for source in model.modalities:
        for target in model.modalities:
            loss = model.passes.sequence_loss([SourceTasks(source, [target])], windows)
            assert trained_prompts(loss) == {f"sequence:{source}:{target}"}
    assert trained_prompts(model.item_loss(torch.arange(1, 9), 8)) == {"item:text:image", "item:image:text"}
    ranking_prompt = list(model.vocabulary.prompts["sequence:text:text"])
    assert model.inputs.leading_tokens("sequence", "text", ["text"], model.device).tolist() == ranking_prompt


def test_a_decoder_only_network_has_no_prompt_per_task(data_path):
    with pytest.raises(UserError, match="prompt is task .*decoder_only.* set prompt to source"):
        prepare("MACRec", data_path, prompt="task", network="decoder_only", training="per_user")


@pytest.mark.parametrize("option", ["explicit_alignment", "compile", "standardize", "show_progress"])
def test_flags_reject_strings(option, data_path):
    with pytest.raises(UserError, match=f"{option} .*'no'.*True or False"):
        prepare("MACRec", data_path, **{option: "no"})


@pytest.mark.parametrize("name", [*NAMES, "P5"])
def test_norms_and_relative_biases_have_no_weight_decay(name, data_path):
    _, model, trainer, _ = prepare(name, data_path, weight_decay=0.5)
    decay = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    names = {"norms": 0, "biases": 0, "others": 0}
    for key, parameter in model.named_parameters():
        kind = "norms" if key.endswith("norm.weight") else "biases" if "bias" in key else "others"
        if kind != "others" or parameter.ndim > 1:
            names[kind] += 1
            assert decay[id(parameter)] == (0.5 if kind == "others" else 0.0), key
    assert len(decay) == sum(1 for _ in model.parameters()) and min(names.values()) > 0


def test_metrics_of_the_whole_ranking_need_a_ranking_of_all_items(data_path):
    with pytest.raises(UserError, match="GAUC.*decode: exact"):
        prepare("TIGER", data_path, modalities=["text"], metrics=["Hit", "GAUC"])
    sampled = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni20"}
    for options in ({"decode": "exact"}, {"eval_args": sampled}):
        options |= {"modalities": ["text"], "metrics": ["Hit", "GAUC", "MRR"], "epochs": 1, "valid_metric": "Hit@10"}
        _, _, trainer, (train, valid, test) = prepare("TIGER", data_path, **options)
        trainer.fit(train, valid)
        assert 0 < trainer.evaluate(test)["gauc"] < 1


@pytest.mark.parametrize("name", ["TIGER", "SASRec"])
def test_metrics_of_the_recommended_items(name, data_path):
    metrics = ["ItemCoverage", "GiniIndex", "AveragePopularity", "TailPercentage", "ShannonEntropy", "Hit"]
    options = {"epochs": 1, "metrics": metrics, "valid_metric": "Hit@10", "topk": [5, 10], **BASELINE}
    options |= {"modalities": ["text"], "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}}
    config, model, trainer, (train, valid, test) = prepare(name, data_path, **options)
    trainer.fit(train, valid)
    result = trainer.evaluate(test)
    _, top = full_sort_topk(test._dataset.inter_feat["user_id"].numpy(), model, test, k=10)
    assert result["itemcoverage@10"] == pytest.approx(len(set(top.flatten().tolist())) / (ITEMS + 1), abs=1e-4)
    counts = np.bincount(train._dataset.inter_feat["item_id"].numpy(), minlength=ITEMS + 1)
    assert result["averagepopularity@10"] == pytest.approx(counts[top.numpy()].mean(), abs=1e-4)
    assert trainer.evaluate(test) == result  # counts of the training data stay


@pytest.mark.parametrize("name", ["TIGER", "SASRec"])
def test_eval_batch_size_is_reduced_to_fit_memory(name, data_path, monkeypatch, caplog):
    options = {"modalities": ["text"], "eval_batch_size": 16, **BASELINE}
    _, model, trainer, (_, _, test) = prepare(name, data_path, **options)
    expected = trainer.evaluate(test, load_best_model=False)
    monkeypatch.setattr("recbole_macrec.utils.device_budget.free_memory", lambda device: 4 * 7 * 16 * (ITEMS + 1))
    _, _, smaller, (_, _, few) = prepare(name, data_path, **options)
    smaller.model.load_state_dict(model.state_dict())
    assert (test.step, few.step, few.batch_size) == (16, 7, 7)
    assert smaller.evaluate(few, load_best_model=False) == expected


@pytest.mark.parametrize("name", ["TIGER", "SASRec"])
def test_error_of_a_diverging_loss_names_epoch_and_checkpoint(name, data_path):
    options = {"modalities": ["text"], "clip_grad_norm": None, **BASELINE}
    _, model, trainer, (train, valid, _) = prepare(name, data_path, **options)

    def break_weights(epoch, score):
        for parameter in model.parameters():
            parameter.data.fill_(torch.inf)

    with pytest.raises(UserError, match="became nan in epoch 1 .*last good checkpoint is .*pth"):
        trainer.fit(train, valid, callback_fn=break_weights)
    _, model, trainer, (train, valid, _) = prepare(name, data_path, **options)
    break_weights(0, 0)
    with pytest.raises(UserError, match="became nan in epoch 0 .*No checkpoint"):
        trainer.fit(train, valid)


def test_nonfinite_weights_after_an_epoch_are_not_used_for_ranking(data_path):
    _, model, trainer, (train, valid, _) = prepare("TIGER", data_path, modalities=["text"], train_batch_size=512)
    assert len(train) == 1
    trainer.optimizer.register_step_post_hook(lambda *_: next(model.parameters()).data.fill_(torch.inf))
    with pytest.raises(UserError, match="largest weight became inf in epoch 0"):
        trainer.fit(train, valid)


def test_ablation_options_change_the_loss(data_path):
    losses = {}
    for switch, options in {
        "full": {},
        "without implicit": {"lambda_implicit": 0.0},
        "without explicit": {"explicit_alignment": False},
    }.items():
        _, model, _, loaders = prepare("MACRec", data_path, dropout_prob=0.0, **options)
        losses[switch] = model.calculate_loss(loaders[0]._dataset[np.arange(40)]).item()
        assert bool(model.item_tasks) == (switch != "without explicit")
    assert len({round(loss, 4) for loss in losses.values()}) == 3


@pytest.mark.parametrize(
    "name, options, named",
    [
        ("MACRec", {"modalities": ["text"]}, "modalities"),
        ("MQL4GRec", {"modalities": ["text"]}, "TIGER"),
        ("TIGER", {"modalities": "text"}, "modalities"),
        ("TIGER", {"codebook_size": 100}, "codebook_size"),
        ("TIGER", {"modalities": ["smell"]}, "smell"),
        ("TIGER", {"semantic_ids": "published"}, "text.json"),
    ],
)
def test_invalid_options_are_user_errors(name, options, named, data_path):
    with pytest.raises(UserError, match=named):
        prepare(name, data_path, **options)


def test_checkpoint_of_other_codes_or_sizes_is_rejected(data_path):
    _, _, trainer, (train, valid, test) = prepare("TIGER", data_path, epochs=1)
    trainer.fit(train, valid)
    file = trainer.saved_model_file
    _, _, other, _ = prepare("TIGER", data_path, rqvae_epochs=3, semantic_id_seed=9)
    with pytest.raises(UserError, match="semantic IDs"):
        other.resume_checkpoint(file)
    _, _, larger, (_, _, test) = prepare("TIGER", data_path, d_ff=128)
    with pytest.raises(UserError, match="does not fit"):
        larger.evaluate(test, model_file=file)


def test_truncated_or_unrelated_checkpoint_is_rejected(data_path, tmp_path):
    _, _, trainer, (train, valid, test) = prepare("TIGER", data_path, epochs=1)
    trainer.fit(train, valid)
    content = open(trainer.saved_model_file, "rb").read()
    broken = tmp_path / "broken.pth"
    broken.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="broken.pth"):
        trainer.evaluate(test, model_file=broken)
    torch.save({"state_dict": {}}, broken)
    with pytest.raises(UserError, match="broken.pth"):
        trainer.resume_checkpoint(broken)
    with pytest.raises(UserError, match="missing.pth"):
        trainer.resume_checkpoint(tmp_path / "missing.pth")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_results_do_not_depend_on_the_number_of_cores(name, precision, data_path):
    """Gradients with dropout, and rankings, of a batch in several parts on one core and on three."""
    seen = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        _, model, trainer, (train, _, test) = prepare(
            name, data_path, pass_tokens=40, precision=precision, eval_precision=precision
        )
        batch = next(iter(train))
        assert len(model.loss_parts(batch)) > 3
        model.train()
        torch.manual_seed(1)
        loss = trainer._backward(batch)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        ranked = model.eval().rank(batch_of(test))["fused"]
        seen.append([loss, *gradients, *ranked])
    assert len(seen[0]) == len(seen[1]) > 10
    assert all(torch.equal(a, b) for a, b in zip(*seen))


def test_loss_temperature_divides_the_logits(data_path):
    """With temperature t the loss is that of a network whose logits are divided by t."""
    losses = {}
    for temperature in (1.0, 0.5):
        _, model, _, (train, _, _) = prepare(
            "TIGER", data_path, modalities=["text"], dropout_prob=0.0, loss_temperature=temperature
        )
        if temperature == 1.0:
            with torch.no_grad():  # twice the logits
                original = model.network.logits
                model.network.logits = lambda *args: original(*args) * 2
        batch = next(iter(train))
        losses[temperature] = float(model.calculate_loss(batch))
    assert losses[1.0] == pytest.approx(losses[0.5], rel=1e-5)


@pytest.mark.parametrize("output", ["level", "trie"])
def test_label_smoothing(output, data_path):
    """The loss is the cross-entropy with a target distribution that spreads the share over all codes of the softmax."""
    options = {"modalities": ["text"], "dropout_prob": 0.0, "network": "decoder_only", "output": output}
    _, model, _, _ = prepare("TIGER", data_path, label_smoothing=0.2, **options)
    table, (m,) = model.tables["text"], model.modalities
    items = torch.arange(1, 12)
    hidden = torch.randn(len(items), table.levels, model.network.settings.d_model)
    expected = 0.0
    for item, states in zip(items.tolist(), hidden):
        for level, code in enumerate(table.codes[item].tolist()):
            logits = model.network.logits(states[level], model.vocabulary.offsets[m][level], model.vocabulary.sizes[m][level])
            allowed = list(range(len(logits)))
            if output == "trie":
                prefix = table.codes[item, :level].tolist()
                allowed = sorted({int(c[level]) for c in table.codes[1:] if c[:level].tolist() == prefix})
            log_probs = dict(zip(allowed, logits[allowed].log_softmax(0).tolist()))
            expected -= 0.8 * log_probs[code] + 0.2 * sum(log_probs.values()) / len(allowed)
    assert float(model.passes.cross_entropy(m, hidden, items).detach()) == pytest.approx(expected / table.levels, rel=1e-4)


def test_items_are_left_out_in_training_only(data_path):
    for name in ("TIGER", "SASRecPerUser"):
        options = {"modalities": ["text"]} if name == "TIGER" else {}
        options |= {"training": "per_user", "item_dropout": 0.5, "dropout_prob": 0.0}
        _, model, _, (train, _, _) = prepare(name, data_path, **options)
        batch = next(iter(train))
        windows = model.windows(batch)
        assert 0 < (model.train().with_item_dropout(windows).items > 0).sum() < (windows.items > 0).sum()
        assert len({float(model.calculate_loss(batch).detach()) for _ in range(3)}) == 3
        assert model.eval().with_item_dropout(windows) is windows
        assert len({float(model.calculate_loss(batch).detach()) for _ in range(3)}) == 1


@pytest.mark.parametrize("network", ["encoder_decoder", "decoder_only"])
def test_checkpoints_contain_the_weights_of_the_network_only(network, data_path):
    """The names by which checkpoints and saved folders of all versions store TIGER."""
    options = {"modalities": ["text"], "network": network, "training": "per_user", "collision": "extra_token"}
    _, model, _, _ = prepare("TIGER", data_path, **options)
    attention = [f"{part}.weight" for part in ("norm", "query", "key", "value", "out")]
    feed_forward = [f"feed_forward.{part}.weight" for part in ("norm", "up", "down")]
    own, cross = ([f"{kind}_attention.{name}" for name in attention] for kind in ("self", "cross"))
    names = {
        "encoder_decoder": [
            "table.weight", "encoder_bias.weight", "decoder_bias.weight", "encoder_norm.weight", "decoder_norm.weight",
            *(f"encoder.0.{name}" for name in own + feed_forward),
            *(f"decoder.0.{name}" for name in own + cross + feed_forward),
        ],
        "decoder_only": ["table.weight", "output.weight", "norm.weight", *(f"layers.0.{name}" for name in own + feed_forward)],
    }  # fmt: skip
    assert set(model.state_dict()) == {f"network.{name}" for name in names[network]}
