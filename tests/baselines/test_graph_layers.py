"""Sums, products and softmax on the edges of a graph against dense matrices."""
import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from recbole_macrec.baselines.graph import Edges, user_item_edges

NODES = 7


def random_graph(repeated: bool):
    """Edges in random order, their weights, and a dense matrix of them. Node 0 has no incoming edge, node 1 no edge at all."""
    rng = np.random.default_rng(0)
    pairs = [(s, t) for s in range(NODES) for t in range(2, NODES) if s != 1 and rng.random() < 0.5]
    pairs = [pairs[i] for i in rng.permutation(len(pairs))] + (pairs[:3] if repeated else [])
    source, target = np.array(pairs).T
    return source, target, torch.from_numpy(rng.standard_normal(len(pairs)))


def vectors(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)


def dense(source, target, weight: torch.Tensor) -> torch.Tensor:
    """[targets, sources]; the weights of repeated edges add up."""
    return torch.zeros(NODES, NODES, dtype=weight.dtype).index_put(
        (torch.tensor(target), torch.tensor(source)), weight, accumulate=True
    )


@pytest.mark.parametrize("repeated", [False, True])
def test_weighted_sum_and_gradients_equal_a_matrix_product(repeated):
    source, target, weight = random_graph(repeated)
    edges, x = Edges(source, target, NODES), vectors(NODES, 3, seed=1)
    weight.requires_grad_()
    results = [dense(source, target, weight) @ x, edges.weighted_sum(edges.sort(weight), x)]
    out = torch.arange(NODES * 3.0, dtype=torch.float64).view(NODES, 3)
    gradients = [torch.autograd.grad((result * out).sum(), [weight, x]) for result in results]
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(gradients[1], gradients[0])
    assert not results[1][:2].any()


@pytest.mark.parametrize("repeated", [False, True])
def test_dot_and_gradients_equal_a_matrix_product(repeated):
    source, target, _ = random_graph(repeated)
    edges, a, b = Edges(source, target, NODES), vectors(NODES, 3, seed=1), vectors(NODES, 3, seed=2)
    expected = (a[edges.target] * b[edges.source]).sum(1)
    factors = torch.arange(len(edges), dtype=torch.float64)
    torch.testing.assert_close(edges.dot(a, b), expected)
    gradients = [torch.autograd.grad((result * factors).sum(), [a, b]) for result in (expected, edges.dot(a, b))]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_more_edges_than_pairs_of_nodes():
    """As in LATTICE, where an edge of several graphs occurs several times, with few items."""
    source, target, weight = (np.tile(values, 5) for values in random_graph(False))
    edges, x, weight = Edges(source, target, NODES), vectors(NODES, 3, seed=1), torch.from_numpy(weight).requires_grad_()
    assert len(edges) > NODES**2
    results = [dense(source, target, weight) @ x, edges.weighted_sum(edges.sort(weight), x)]
    gradients = [torch.autograd.grad(result.square().sum(), [weight, x]) for result in results]
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_softmax_over_the_incoming_edges_of_a_node():
    source, target, logits = random_graph(False)
    edges = Edges(source, target, NODES)
    logits = (1000 * logits).requires_grad_()  # their powers are infinite
    matrix = torch.full((NODES, NODES), -torch.inf, dtype=torch.float64).index_put(
        (torch.tensor(target), torch.tensor(source)), logits
    )
    expected = matrix.softmax(1)[edges.target, edges.source]
    weights = edges.softmax(edges.sort(logits))
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(edges.sum(weights), (edges.in_degree() > 0).double())
    factors = torch.arange(len(edges), dtype=torch.float64)
    gradients = [torch.autograd.grad((result * factors).sum(), logits)[0] for result in (expected, weights)]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_edges_of_users_and_items_by_hand():
    """User 1 has items 1 and 2, user 2 has item 2; nodes 0 to 2 are users, 3 to 5 items."""
    interactions = csr_matrix(np.array([[0, 0, 0], [0, 2, 1], [0, 0, 1]]))
    edges = user_item_edges(interactions)
    assert list(zip(edges.source.tolist(), edges.target.tolist())) == [(4, 1), (5, 1), (5, 2), (1, 4), (1, 5), (2, 5)]
    assert edges.mean_weights().tolist() == [0.5, 0.5, 1, 1, 0.5, 0.5]
    root = 2**-0.5
    torch.testing.assert_close(edges.symmetric_weights(), torch.tensor([root, 0.5, root, root, 0.5, root]))
    to_users = user_item_edges(interactions, towards="users")
    assert list(zip(to_users.source.tolist(), to_users.target.tolist())) == [(4, 1), (5, 1), (5, 2)]
    assert len(user_item_edges(interactions, self_loops=True)) == 12


def test_a_graph_without_edges_sums_to_zero():
    edges, x = user_item_edges(csr_matrix((2, 3))), vectors(5, 2, seed=0)
    weight = torch.zeros(0, dtype=torch.float64, requires_grad=True)
    total = edges.weighted_sum(weight, x) + edges.dot(x, x).sum()
    total.sum().backward()
    assert not total.any() and not x.grad.any()
