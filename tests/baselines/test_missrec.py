"""MISSRec: interests, scores and training."""
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, write_tiny_dataset
from helpers import write_features
from recbole.quick_start import load_data_and_model
from recbole.utils import get_trainer
from small_models import SMALL as COMMON, batch_of, data_path, prepare, prepare_run, train_until  # noqa: F401  a fixture

from recbole_macrec import Recommender, UserError
from recbole_macrec.data.features import FeatureTable
from recbole_macrec.trainer.checkpoint import load_checkpoint

SMALL = {
    "embedding_size": 16,
    "num_heads": 2,
    "d_ff": 32,
    "interest_ratio": 0.2,
    "train_batch_size": 64,
    "learning_rate": 0.005,
}


def small(data_path, **options):
    return prepare("MISSRec", data_path, **{**SMALL, **options})


@pytest.fixture
def model(data_path):
    _, model, _, _ = small(data_path)
    model.before_epoch(0)
    return model.eval()


def test_interests_are_the_distinct_clusters_of_both_modalities(model):
    model.clusters[:, 1:6] = torch.tensor([[4, 4, 2, 7, 1], [4, 5, 2, 2, 3]])
    found = model.interests(torch.tensor([[1, 2, 3], [4, 0, 0], [5, 5, 0]]))
    assert [sorted(row[row > 0].tolist()) for row in found] == [[2, 4, 5], [2, 7], [1, 3]]


def test_clusters_cover_all_items_and_change_with_the_vectors(model):
    count = len(model.centroids) - 1
    assert (model.clusters[:, 1:] > 0).all() and (model.clusters[:, 1:] <= count).all() and (model.clusters[:, 0] == 0).all()
    assert count == int(np.ceil(0.2 * 2 * (model.n_items - 1)))
    for number, x in enumerate(model.modality_vectors()):  # the nearest centroid
        nearest = torch.cdist(x[1:], model.centroids[1:]).argmin(1) + 1
        assert (nearest == model.clusters[number, 1:]).float().mean() > 0.9


def test_a_model_that_is_not_trained_has_finite_scores(data_path):
    _, model, trainer, (_, _, test) = small(data_path)
    assert model.eval().full_sort_predict(batch_of(test))[:, 1:].isfinite().all()
    assert 0 <= trainer.evaluate(test, load_best_model=False)["hit@10"] <= 1


def test_loss_and_scores_equal_the_docstring(data_path):
    _, model, _, (train, _, _) = small(data_path, temperature=0.5, reg_weight=3.0)
    model.before_epoch(0)
    batch, vectors = next(iter(train)), model.eval().modality_vectors()
    histories = model.histories(batch)
    query, norms = model.queries(histories.items, histories.length, vectors)
    scores = model.scores(query, model.unit_vectors(vectors)) / 0.5
    expected = F.cross_entropy(scores[:, 1:], batch[model.POS_ITEM_ID] - 1) + 3 * norms.mean()
    torch.testing.assert_close(model.calculate_loss(batch), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.full_sort_predict(batch)[:, 1:], scores[:, 1:], atol=1e-5, rtol=1e-4)


def test_scores_by_hand(model):
    """gamma = 0 gives the mean of the modalities; otherwise their softmax weights them."""
    query, vectors = F.normalize(torch.randn(3, 16), dim=-1), model.modality_vectors()
    text, image, own = (query @ F.normalize(x, dim=-1).T for x in (*vectors, model.items.weight))
    unit_vectors = model.unit_vectors(vectors)
    assert torch.allclose(model.scores(query, unit_vectors), (own + text + image) / 3, atol=1e-6)
    model.gamma.data.fill_(2.0)
    a = 1 / (1 + torch.exp(2 * (image - text)))
    assert torch.allclose(model.scores(query, unit_vectors), (own + 2 * (a * text + (1 - a) * image)) / 3, atol=1e-6)


def test_item_vectors_are_normalized_once_per_batch(data_path, monkeypatch):
    _, model, _, (_, _, test) = small(data_path, pass_tokens=20)
    model.before_epoch(0)
    batch = batch_of(test)
    assert len(model._batch_parts(batch["item_length"])) > 5
    normalize, rows = F.normalize, []
    monkeypatch.setattr(F, "normalize", lambda x, dim: rows.append(len(x)) or normalize(x, dim=dim))
    scores = model.eval().full_sort_predict(batch)
    assert rows.count(model.n_items) == 3  # two modalities and the embeddings
    model.budget = replace(model.budget, pass_positions=10**6)
    assert torch.allclose(model.full_sort_predict(batch), scores, atol=1e-4)


def test_padding_has_no_effect(model):
    vectors = model.modality_vectors()
    short, norm = model.queries(torch.tensor([[3, 7]]), torch.tensor([2]), vectors)
    items = torch.tensor([[3, 7, 0, 0], [1, 2, 3, 4]])
    padded, norms = model.queries(items, torch.tensor([2, 4]), vectors)
    assert torch.allclose(short[0], padded[0], atol=1e-5) and not torch.allclose(norms[0], norms[1])
    assert torch.allclose(norm[0], norms[0], atol=1e-5)


@pytest.mark.parametrize("decoder_layers", [1, 2])
def test_queries_equal_those_of_the_whole_decoder(decoder_layers, data_path):
    """The decoder computes its last layer at the last item only, some users at a time."""
    _, model, _, (_, _, test) = small(data_path, decoder_layers=decoder_layers)
    model.before_epoch(0)
    model.eval().budget = replace(model.budget, padded_users=3)
    histories, vectors = model.histories(batch_of(test)), model.modality_vectors()
    items, length = histories.items, histories.length
    interests = model.interests(items)
    memory = model.encoder(model.centroids[interests], src_key_padding_mask=interests == 0)
    tokens = model.norm(sum(x[items] for x in vectors) + model.items(items) + model.positions.weight[: items.shape[1]])
    output = model.decoder(tokens, memory, tgt_key_padding_mask=items == 0, memory_key_padding_mask=interests == 0)
    expected = F.normalize(output[torch.arange(len(items)), length - 1], dim=-1)
    queries, norms = model.queries(items, length, vectors)
    assert len(items) > 10 and torch.allclose(queries, expected, atol=1e-5)
    known = interests > 0
    pooled = known.sum(1, keepdim=True) / (2 * model.max_seq_length) * (memory * known.unsqueeze(-1)).sum(1)
    assert torch.allclose(norms, pooled.square().sum(1) / model.width, atol=1e-5)


def test_results_do_not_depend_on_the_number_of_threads(data_path):
    """Nor on the number of parts of a batch, without dropout."""
    seen = []
    for threads, positions, dropout in ((1, 20, 0.5), (3, 20, 0.5), (1, 20, 0.0), (1, 10**6, 0.0)):
        torch.set_num_threads(threads)
        _, model, trainer, loaders = small(data_path, dropout_prob=dropout, precision="fp32")
        model.before_epoch(0)
        model.train().budget = replace(model.budget, pass_positions=positions)
        torch.manual_seed(1)
        loss = trainer._backward(next(iter(loaders[0])))
        seen.append(torch.cat([torch.as_tensor(loss).flatten(), *(p.grad.flatten() for p in model.parameters())]))
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    torch.testing.assert_close(seen[2], seen[3], rtol=1e-4, atol=1e-6)


def test_histories_without_interests(model):
    """RecBole counts operations with items of number 0."""
    queries, norms = model.queries(torch.zeros(1, 3, dtype=torch.long), torch.tensor([3]), model.modality_vectors())
    assert queries.shape == (1, 16) and norms.tolist() == [0]


def test_each_modality_and_the_ids_change_the_ranking(data_path):
    _, model, _, (_, _, test) = small(data_path)
    model.before_epoch(0)
    scores = [model.eval().full_sort_predict(batch_of(test))]
    for options in ({"modalities": ["text"]}, {"modalities": ["image"]}, {"use_ids": False}):
        _, model, _, _ = small(data_path, **options)
        model.before_epoch(0)
        scores.append(model.eval().full_sort_predict(batch_of(test)))
        assert all(not torch.allclose(scores[-1], earlier) for earlier in scores[:-1])


def test_learns_more_than_popularity(data_path):
    metrics = {}
    for name, options in (("MISSRec", SMALL | {"epochs": 20, "eval_step": 20, "dropout_prob": 0.1}), ("Pop", {})):
        _, _, trainer, (train, valid, test) = prepare(name, data_path, **options)
        trainer.fit(train, valid)
        metrics[name] = trainer.evaluate(test, load_best_model=name != "Pop")["ndcg@10"]
    assert metrics["MISSRec"] > metrics["Pop"] + 0.1


def test_scores_do_not_depend_on_the_batch(model, data_path):
    batch = batch_of(small(data_path)[3][2])
    together = model.full_sort_predict(batch)
    for row in range(0, len(batch), 7):
        torch.testing.assert_close(model.full_sort_predict(batch[[row]])[0], together[row], atol=1e-5, rtol=1e-5)


def test_recommendations_after_training_equal_the_ranking(data_path):
    _, model, trainer, (train, _, test) = small(data_path, epochs=8, dropout_prob=0.1)
    trainer.fit(train, None, saved=False)
    losses = list(trainer.train_loss_dict.values())
    assert losses[-1] < 0.9 * losses[0]
    model.eval()
    batch = batch_of(test)
    tokens = np.array(model.item_tokens)
    rows = [tokens[items[:n]].tolist() for items, n in zip(batch["item_id_list"].tolist(), batch["item_length"].tolist())]
    best = model.full_sort_predict(batch).topk(5).indices
    assert Recommender(model).recommend(rows, k=5)["item"].tolist() == tokens[best.flatten()].tolist()


def test_same_seed_gives_the_same_result_and_a_checkpoint_the_same_scores(data_path):
    results = []
    for _ in range(2):
        _, model, trainer, (train, valid, test) = small(data_path, epochs=2)
        trainer.fit(train, valid)
        results.append(trainer.evaluate(test))
    assert results[0] == results[1]
    loaded = load_data_and_model(trainer.saved_model_file)[1].eval()
    batch = batch_of(test)
    assert torch.equal(loaded.full_sort_predict(batch), trainer.model.eval().full_sort_predict(batch))


def test_changed_features_and_invalid_num_heads_are_user_errors(data_path):
    _, _, trainer, (train, valid, _) = small(data_path, epochs=1)
    trainer.fit(train, valid)
    table = FeatureTable.load(data_path / TINY, "text")
    FeatureTable(table.item_tokens, np.asarray(table.matrix) + 1).save(data_path / TINY, "text")
    _, _, other, (_, _, test) = small(data_path)
    with pytest.raises(UserError, match="other item features"):
        other.evaluate(test, model_file=trainer.saved_model_file)
    with pytest.raises(UserError, match="num_heads is 3; expected a divisor of embedding_size"):
        small(data_path, num_heads=3)


def test_a_model_that_reads_features_is_not_saved_without_them(model, tmp_path):
    with pytest.raises(UserError, match="MISSRec reads item features"):
        Recommender(model).save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


# -- pre-training on another dataset ----------------------------------------------------------------------------------


def pretrain(folder, name: str = "MISSRec", width: int = 12, **options) -> str:
    """Train one epoch on a dataset of other items with features of ``width``; returns the checkpoint."""
    path = write_tiny_dataset(folder, name="other", n_items=20)
    for modality in ("text", "image"):
        write_features(path / "other", modality, items=20, width=width, seed=1)
    settings = {**COMMON, **SMALL, "data_path": str(path), "use_ids": False, "epochs": 1, "seed": 1, **options}
    _, _, trainer, (train, valid, _) = prepare_run(name, "other", settings)
    trainer.fit(train, valid)
    return trainer.saved_model_file


FROZEN = ("positions.", "encoder.", "decoder.")


@pytest.mark.parametrize("freeze", [True, False])
def test_training_starts_from_the_weights_of_another_dataset(freeze, data_path, tmp_path):
    file = pretrain(tmp_path / "more")
    before = load_checkpoint(file)["state_dict"]
    options = {"pre_model_path": file, "freeze_pretrained": freeze, "dropout_prob": 0.0}
    _, model, trainer, (train, _, _) = small(data_path, epochs=0, **options)
    trainer.fit(train, None, saved=False)
    shared = [name for name, _ in model.named_parameters() if name != "items.weight"]
    assert any(name.startswith("adaptors.") for name in shared) and len(shared) > 20
    for name in shared:
        assert torch.equal(model.state_dict()[name], before[name]), name
    _, model, trainer, (train, _, _) = small(data_path, epochs=2, **options)
    trainer.fit(train, None, saved=False)
    moved = {name for name in shared if not torch.equal(model.state_dict()[name], before[name])}
    assert not torch.equal(model.state_dict()["adaptors.text.weight"], before["adaptors.text.weight"])
    assert any(name.startswith(FROZEN) for name in moved) != freeze


def test_a_resumed_run_and_its_checkpoint_do_not_read_the_pretrained_weights_again(data_path, tmp_path):
    options = {"pre_model_path": pretrain(tmp_path / "more"), "freeze_pretrained": False, "epochs": 3}
    _, model, trainer, (train, valid, test) = small(data_path, **options)
    trainer.fit(train, valid)
    expected = {name: weight.clone() for name, weight in model.state_dict().items()}
    _, _, left, (train, valid, _) = small(data_path, **options)
    train_until(left, 1.5, train, valid)
    (tmp_path / "more").rename(tmp_path / "moved")
    _, model, resumed, (train, valid, test) = small(data_path, **options, resume=left.newest_model_file)
    resumed.fit(train, valid)
    for name, weight in expected.items():
        assert torch.equal(model.state_dict()[name], weight), name
    result = resumed.evaluate(test)
    config, loaded, _, train, valid, _ = load_data_and_model(resumed.saved_model_file)
    loaded.eval()
    assert torch.equal(loaded.full_sort_predict(batch_of(test)), resumed.model.eval().full_sort_predict(batch_of(test)))
    assert result
    before = {name: weight.clone() for name, weight in loaded.state_dict().items()}
    config["learning_rate"] = 1e-12
    get_trainer(config["MODEL_TYPE"], "MISSRec")(config, loaded).fit(train, valid, saved=False)
    for name, weight in loaded.named_parameters():
        torch.testing.assert_close(weight.detach(), before[name], atol=1e-6, rtol=0)


def test_held_out_interactions_do_not_change_the_training_from_pretrained_weights(data_path, tmp_path):
    """The last two items of users 30 to 39 are replaced. All items occur before them, so RecBole's numbers stay the same."""
    file, weights = pretrain(tmp_path / "more"), []
    interactions = data_path / TINY / f"{TINY}.inter"
    for replaced in (False, True):
        if replaced:
            header, *lines = interactions.read_text().splitlines()
            rows = [line.split("\t") for line in lines]
            for user in range(30, 40):
                for row in [row for row in rows if row[0] == f"u{user}"][-2:]:
                    row[1] = "i1"
            interactions.write_text("\n".join([header, *("\t".join(row) for row in rows)]) + "\n")
        _, model, trainer, (train, _, test) = small(data_path, pre_model_path=file, epochs=1)
        trainer.fit(train, None, saved=False)
        weights.append((model.state_dict(), batch_of(test)["item_id"]))
    assert not torch.equal(weights[0][1], weights[1][1])
    for name, weight in weights[0][0].items():
        assert torch.equal(weights[1][0][name], weight), name


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "SASRecPerUser"}, "a checkpoint of SASRecPerUser; name one of MISSRec"),
        ({"width": 10}, r"the shape of adaptors.image.weight is \(16, 10\) there and \(16, 12\) here"),
        ({"modalities": ["image"]}, "the shape of adaptors.text.bias is missing there"),
        ({"decoder_layers": 2}, "the shape of decoder.layers.1.linear1.bias is .* there and missing here"),
        ({"MAX_ITEM_LIST_LENGTH": 7}, r"the shape of positions.weight is \(7, 16\)"),
    ],
)
def test_unsuitable_pretrained_weights_are_one_sentence(changes, message, data_path, tmp_path):
    file = pretrain(tmp_path / "more", **changes)
    _, _, trainer, (train, _, _) = small(data_path, pre_model_path=file, epochs=0)
    with pytest.raises(UserError, match=message) as error:
        trainer.fit(train, None, saved=False)
    assert "\n" not in str(error.value) and file in str(error.value)


def test_missing_and_own_checkpoints_are_no_pretrained_weights(data_path):
    _, _, trainer, (train, valid, _) = small(data_path, epochs=1)
    trainer.fit(train, valid)
    cases = (("nowhere.pth", "Checkpoint nowhere.pth does not exist"), (trainer.saved_model_file, "trained on the same items"))
    for file, message in cases:
        _, _, other, (train, _, _) = small(data_path, pre_model_path=file)
        with pytest.raises(UserError, match=message):
            other.fit(train, None, saved=False)
