"""GraphSAGE against its formula with dense matrices."""
import pytest
import torch
from dense_graph import adjacency, assert_represents, row_mean
from planted import prepare, write_planted
from scipy.sparse import csr_matrix

from recbole_macrec.baselines.graph import user_item_edges


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return write_planted(tmp_path_factory.mktemp("planted"))


@pytest.mark.parametrize("node_features", ["ids", "both"])
@pytest.mark.parametrize("normalize", [False, True])
def test_equals_the_dense_formula(node_features, normalize, planted):
    _, model, _, _ = prepare("GraphSAGE", planted, node_features=node_features, normalize=normalize)
    model.double()
    with torch.no_grad():
        h, mean = torch.cat([model.users, model.item_inputs()]), row_mean(adjacency(model))
        for layer, (own, neighbour) in enumerate(zip(model.own, model.neighbour)):
            h = h @ own.weight.T + own.bias + mean @ h @ neighbour.weight.T
            h = h.relu() if layer == 0 else h
        h = h / h.norm(dim=1, keepdim=True) if normalize else h
        assert_represents(model, *h.split([model.n_users, model.n_items]))


def test_node_features_both_adds_projected_features(planted):
    _, model, _, _ = prepare("GraphSAGE", planted, node_features="both")
    assert model.items.shape[1] == 8 and model.item_inputs().shape[1] == 16
    features = model.x
    torch.testing.assert_close(model.item_inputs()[:, 8:], features @ model.project.weight.T)


def test_a_user_without_training_interactions_has_finite_scores(planted):
    _, model, _, loaders = prepare("GraphSAGE", planted)
    interactions = model.interactions.toarray()
    interactions[5] = 0
    model.edges = user_item_edges(csr_matrix(interactions))
    model.mean = model.edges.mean_weights()
    scores = model.full_sort_predict({"user_id": torch.tensor([5, 6])})
    assert scores[:, 1:].isfinite().all()
