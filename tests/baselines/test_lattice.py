"""LATTICE: the graph of items against dense matrices, and an item without interactions."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dense_graph import adjacency, assert_represents, symmetric
from planted import ITEMS, NAME, interactions, prepare, write_interactions, write_planted
from recbole.utils import get_trainer

from recbole_macrec.baselines import lattice
from recbole_macrec.baselines.lattice import item_graph, normalised
from recbole_macrec.data.features import FeatureTable


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return write_planted(tmp_path_factory.mktemp("planted"))


def dense_graph(x: torch.Tensor, k: int) -> torch.Tensor:
    """The k largest cosines of each row, [N, N]; row and column 0 are zero."""
    similarity = F.normalize(x) @ F.normalize(x).T
    similarity[0], similarity[:, 0] = 0, -torch.inf
    similarity[0, 0] = 0
    top = similarity.topk(k)
    return torch.zeros_like(similarity).scatter(1, top.indices, top.values.clamp(min=0))


def normalised_dense(graph: torch.Tensor) -> torch.Tensor:
    degree = graph.sum(1)
    scale = torch.where(degree > 0, degree.rsqrt(), 0)
    return scale[:, None] * graph * scale


@pytest.mark.parametrize("block", [1, 4 * 23, 10**6])
def test_graph_computed_in_blocks_equals_the_dense_graph(block, monkeypatch):
    """The number of items is no multiple of the block; one item has zero features and one is unlike all others."""
    monkeypatch.setattr(lattice, "BLOCK_SCORES", block)
    x = torch.randn(23, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).abs()
    x[0], x[5], x[7] = 0, 0, torch.tensor([-1.0, -1.0, -1.0])
    x = torch.where(torch.arange(23).unsqueeze(1) == 0, 0.5, x)  # a padding row that is not zero is no neighbour either
    neighbours, values = item_graph(x, 4)
    assert (neighbours > 0).all() and (values >= 0).all()
    sparse = torch.zeros(23, 23, dtype=torch.float64).scatter(1, neighbours, values)
    torch.testing.assert_close(sparse, dense_graph(x, 4))
    scaled = torch.zeros_like(sparse).scatter(1, neighbours, normalised(neighbours, values))
    torch.testing.assert_close(scaled, normalised_dense(dense_graph(x, 4)))
    assert scaled.isfinite().all()


@pytest.mark.parametrize("cf, kept", [("lightgcn", 0.6), ("mf", 0.6), ("mf", 1.0)])
@torch.no_grad()
def test_equals_the_dense_formula(cf, kept, planted):
    _, model, _, _ = prepare("LATTICE", planted, cf=cf, feature_graph_weight=kept, n_item_layers=2)
    model.modality_logits.copy_(torch.tensor([0.3, -0.5]))
    model.double()
    w = model.modality_logits.softmax(0)
    fixed = sum(w[m] * normalised_dense(dense_graph(x, 5)) for m, x in enumerate(model.features.values()))
    projected = [x @ layer.weight.T + layer.bias for x, layer in zip(model.features.values(), model.project.values())]
    learnt = normalised_dense(sum(w[m] * dense_graph(x, 5) for m, x in enumerate(projected)))
    item_graph = kept * fixed + (1 - kept) * learnt
    h = item_graph @ item_graph @ model.items
    a = symmetric(adjacency(model))
    x = torch.cat([model.users, model.items])
    x = (x + a @ x + a @ a @ x) / 3 if cf == "lightgcn" else x
    users, items = x.split([model.n_users, model.n_items])
    assert_represents(model, users, items + F.normalize(h))


def test_only_the_first_batch_of_an_epoch_trains_the_projections(planted):
    _, model, _, (train, _, _) = prepare("LATTICE", planted)
    trained = []
    for epoch in range(2):
        model.train()
        model.before_epoch(epoch)
        for batch in list(train)[:2]:
            model.zero_grad()
            model.calculate_loss(batch).backward()
            trained.append(
                [p.grad is not None and bool(p.grad.any()) for p in (*model.project.parameters(), model.modality_logits)]
            )
    assert [all(part) for part in trained] == [True, False, True, False] and not any(trained[1])


def test_the_graph_stays_the_same_within_an_epoch_and_is_rebuilt_for_ranking(planted):
    _, model, _, _ = prepare("LATTICE", planted)
    model.before_epoch(0)
    found = {True: [], False: []}  # in training and in ranking
    with torch.no_grad():
        for shift in (0.0, 1.0, 2.0):
            model.modality_logits.copy_(torch.tensor([shift, -1.0]))
            for parameter in model.project.parameters():
                parameter.add_(shift * torch.randn(parameter.shape))
            for training, items in found.items():
                items.append(model.train(training).representations()[1])
    assert torch.equal(found[True][0], found[True][1]) and torch.equal(found[True][0], found[True][2])
    assert not torch.equal(found[False][0], found[False][1]) and not torch.equal(found[False][1], found[False][2])


def test_a_trained_model_builds_a_new_graph_when_it_is_trained_again(planted):
    _, model, trainer, (train, _, _) = prepare("LATTICE", planted, epochs=1)
    trainer.fit(train)
    before = [weight.detach().clone() for weight in model.project.parameters()]
    get_trainer(trainer.config["MODEL_TYPE"], "LATTICE")(trainer.config, model).fit(train)
    assert not any(torch.equal(old, new) for old, new in zip(before, model.project.parameters()))


def test_projections_have_no_effect_with_only_the_feature_graph(planted):
    _, model, _, _ = prepare("LATTICE", planted, feature_graph_weight=1.0)
    model.eval()
    before = [x.clone() for x in model.final_representations()]
    with torch.no_grad():
        for parameter in model.project.parameters():
            parameter.normal_()
    for a, b in zip(model.final_representations(), before):
        torch.testing.assert_close(a, b)


def test_no_graph_is_learnt_with_only_the_feature_graph(planted, monkeypatch):
    _, model, trainer, (train, valid, _) = prepare("LATTICE", planted, feature_graph_weight=1.0, epochs=2)
    monkeypatch.setattr(lattice, "item_graph", None)
    before = model.modality_logits.detach().clone()
    trainer.fit(train, valid)
    assert not torch.equal(model.modality_logits, before)


@pytest.mark.parametrize("modality", ["text", "items"])  # items is also the name of a method of dictionaries
def test_features_are_trained_with_train_features(modality, tmp_path):
    path = write_planted(tmp_path / "data")
    FeatureTable.load(path / NAME, "text").save(path / NAME, modality)
    _, model, trainer, (train, _, _) = prepare("LATTICE", path, train_features=True, modalities=[modality])
    model.before_epoch(0)
    trainer.train_steps(train, 1)
    (trained,) = model.tables
    assert not torch.equal(trained, model.features[modality])


def test_a_new_item_ranks_near_an_item_with_the_same_features(tmp_path):
    path = write_planted(tmp_path / "data")
    write_interactions(path / NAME, [(user, item) for user, item in interactions() if item != 8])  # as item 0, 16, ...
    for modality in ("text", "image"):
        table = FeatureTable.load(path / NAME, modality)
        matrix = np.array(table.matrix)
        matrix[8] = matrix[16]
        FeatureTable(table.item_tokens, matrix).save(path / NAME, modality)
    _, model, trainer, (train, _, _) = prepare("LATTICE", path, epochs=30)
    trainer.fit(train)
    model.eval()
    new, twin = (train._dataset.token2id("item_id", f"i{item}") for item in (8, 16))
    group = [user for user in range(1, model.n_users) if int(model.user_tokens[user][1:]) % 8 == 0]
    scores = model.full_sort_predict({"user_id": torch.tensor(group)})[:, 1:]
    place = scores.argsort(descending=True).argsort().double().mean(0)  # mean place of each item
    assert place[new - 1] < ITEMS / 4 and place[twin - 1] < ITEMS / 4
