"""Graph neural network over users and items, connected by training interactions.

Shapes: U users, N items, F width of all features together, D width of a layer.
"""
import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

SLOPE = 0.01  # negative slope of LeakyReLU


class GraphEncoder(nn.Module):
    """Graph network of MMGRec (Liu et al., 2024, arXiv 2404.16555).

    The input of an item consists of its features, projected to half of the input width, and a learnt collaborative embedding;
    the input of a user is a learnt embedding. Each layer combines a node with the mean of its neighbours (GraphSAGE, Hamilton
    et al., NeurIPS 2017),

        h' = LeakyReLU(W_own h + b + W_neighbour mean_{n in N(h)} h_n).

    The last layer has no activation, so that positive and negative inner products are equally possible.

    Args:
        interactions: [U, N], nonzero where a user interacted with an item; the values are ignored.
        width: F.
        sizes: width of the input, then of every layer's output.
        dropout: dropout probability of every layer's input.
        generator: CPU generator of the initial weights and of dropout.
    """

    def __init__(self, interactions: csr_matrix, width: int, sizes: tuple[int, ...], dropout: tuple[float, ...],
                 generator: torch.Generator):
        super().__init__()
        users, items = interactions.shape
        self.dropout, self.generator = dropout, generator
        adjacency = csr_matrix(interactions, dtype=np.float32, copy=True)
        adjacency.data[:] = 1
        self.register_buffer("item_mean", row_mean(adjacency))  # [U, N], mean over the items of each user
        self.register_buffer("user_mean", row_mean(adjacency.T.tocsr()))  # [N, U], mean over the users of each item
        self.project = nn.Parameter(self._initial_weights(width, sizes[0] // 2))
        self.collaborative = nn.Parameter(self._initial_weights(items, sizes[0] // 2))
        self.users = nn.Parameter(self._initial_weights(users, sizes[0]))
        shapes = list(zip(sizes, sizes[1:]))
        self.own = nn.ParameterList(self._initial_weights(*shape) for shape in shapes)
        self.neighbour = nn.ParameterList(self._initial_weights(*shape) for shape in shapes)
        self.bias = nn.ParameterList(torch.zeros(out) for _, out in shapes)

    def _initial_weights(self, rows: int, columns: int) -> Tensor:
        return nn.init.xavier_normal_(torch.empty(rows, columns), generator=self.generator)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Representations [U, D] of users and [N, D] of items, from standardised ``features`` [N, F]."""
        users: Tensor = self.users
        items = torch.cat([features @ self.project, self.collaborative], dim=1)
        last = len(self.own) - 1
        for layer, p in enumerate(self.dropout):
            users, items = self._apply_dropout(users, p), self._apply_dropout(items, p)
            own, neighbour, bias = self.own[layer], self.neighbour[layer], self.bias[layer]
            users, items = (users @ own + bias + torch.sparse.mm(self.item_mean, items @ neighbour),
                            items @ own + bias + torch.sparse.mm(self.user_mean, users @ neighbour))
            if layer < last:
                users, items = (nn.functional.leaky_relu(x, SLOPE) for x in (users, items))
        return users, items

    def _apply_dropout(self, x: Tensor, p: float) -> Tensor:
        if not self.training or not p:
            return x
        keep = torch.rand(x.shape, generator=self.generator) >= p
        return x * keep.to(x.device) / (1 - p)


def row_mean(matrix: csr_matrix) -> Tensor:
    """Sparse tensor whose product is the mean over the nonzero columns in each row of ``matrix``; zeros for empty rows."""
    counts = np.diff(matrix.indptr)
    rows = np.repeat(np.arange(matrix.shape[0]), counts)
    index = torch.from_numpy(np.stack([rows, matrix.indices.astype(np.int64)]))
    values = torch.from_numpy((1 / counts[rows]).astype(np.float32))
    return torch.sparse_coo_tensor(index, values, matrix.shape, check_invariants=False).coalesce()
