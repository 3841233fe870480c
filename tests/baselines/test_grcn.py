"""GRCN: routing by hand, its formula with dense matrices, and the weight of an edge that features contradict."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dense_graph import adjacency, assert_represents, masked_softmax
from planted import prepare, write_planted
from scipy.sparse import csr_matrix

from recbole_macrec.baselines.graph import user_item_edges
from recbole_macrec.baselines.grcn import Routing


def routing(prototype: list[float], contents: list[list[float]], rounds: int):
    """Routing for one user with items of the given contents: representations, attention and the edges."""
    interactions = csr_matrix(np.ones((1, len(contents))))
    module = Routing(1, 2, 2, rounds).double()
    with torch.no_grad():
        module.prototypes.copy_(torch.tensor([prototype]))
        module.project.weight.copy_(torch.eye(2))
        edges = user_item_edges(interactions)
        output, alpha = module(
            torch.tensor(contents, dtype=torch.float64), edges, user_item_edges(interactions, towards="users")
        )
    return output, alpha, edges


def test_one_routing_round_by_hand():
    """p = (1, 0), items (1, 0) and (0, 1): a = softmax(1, 0), p' = normalize(1 + a_1, a_2)."""
    a = torch.tensor([1.0, 0.0], dtype=torch.float64).softmax(0)
    p = F.normalize(torch.stack([1 + a[0], a[1]]), dim=0)
    output, alpha, edges = routing([1, 0], [[2, 0], [0, 3]], rounds=1)
    b = p.softmax(0)  # p . c_i is p_i
    torch.testing.assert_close(alpha[edges.target == 0], b)
    torch.testing.assert_close(output[0], p + b)
    torch.testing.assert_close(output[1:], torch.eye(2, dtype=torch.float64) + p)  # an item has one user: alpha is 1


def test_item_unlike_the_others_has_the_smallest_weight():
    _, alpha, edges = routing([0.5, 0.5], [[1, 0.1], [0.1, 1], [1, 0], [1, 0.2]], rounds=3)
    to_user = alpha[edges.target == 0]
    assert to_user.argmin() == 1
    torch.testing.assert_close(edges.sum(alpha), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("prune", [False, True])
@torch.no_grad()
def test_equals_the_dense_formula(prune, tmp_path):
    _, model, _, _ = prepare("GRCN", write_planted(tmp_path / "data"), prune=prune, routing_rounds=2)
    model.double()
    graph, users = adjacency(model), model.n_users
    to_users = graph.clone()
    to_users[users:] = 0
    weights, contents = [], []
    for number, (m, part) in enumerate(model.routings.items()):
        c = F.normalize(F.leaky_relu(model.features[m] @ part.project.weight.T + part.project.bias))
        x = torch.cat([F.normalize(part.prototypes), c])
        for _ in range(2):
            x = torch.cat([F.normalize(x + masked_softmax(x @ x.T, to_users) @ x)[:users], c])
        alpha = masked_softmax(x @ x.T, graph)
        contents.append(x + alpha @ x)
        weights.append((alpha * model.confidence[:, number]).masked_fill(graph == 0, -torch.inf))
    w = torch.stack(weights).amax(0).masked_fill(graph == 0, 0)
    w = w.relu() if prune else w
    e = F.normalize(model.ids)
    expected = torch.cat([e + w @ e + w @ w @ e, *contents], dim=1)
    assert_represents(model, *expected.split([users, model.n_items]))
