"""The graph network: what a user took and who took an item, layer by layer.

Axes: U users, N items, F width of all features together, D width of a layer.
"""
import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

SLOPE = 0.01  # of LeakyReLU below zero


class GraphEncoder(nn.Module):
    """Users and items by what they are and whom they meet (MMGRec, Liu et al., 2024, arXiv 2404.16555).

    An item enters with its features, projected to half of the input width, beside a free collaborative embedding; a
    user with a free embedding. Each layer maps a node and the mean of its neighbours (GraphSAGE, Hamilton et al.,
    NeurIPS 2017),

        h' = LeakyReLU(W_own h + b + W_near mean_{n near h} h_n),

    the last one without the activation, so that inner products of its output can be of either sign alike.

    Args:
        interactions: [U, N], nonzero where a user took an item; how often does not matter.
        width: F.
        sizes: width of the input, then of every layer's output.
        dropout: of every layer's input.
        generator: a CPU generator; initial weights and dropout are drawn from it.
    """

    def __init__(self, interactions: csr_matrix, width: int, sizes: tuple[int, ...], dropout: tuple[float, ...],
                 generator: torch.Generator):
        super().__init__()
        users, items = interactions.shape
        self.dropout, self.generator = dropout, generator
        taken = csr_matrix(interactions, dtype=np.float32, copy=True)
        taken.data[:] = 1
        self.register_buffer("of_user", mean_over(taken))  # [U, N]
        self.register_buffer("of_item", mean_over(taken.T.tocsr()))  # [N, U]
        self.project = nn.Parameter(self._drawn(width, sizes[0] // 2))
        self.collaborative = nn.Parameter(self._drawn(items, sizes[0] // 2))
        self.users = nn.Parameter(self._drawn(users, sizes[0]))
        shapes = list(zip(sizes, sizes[1:]))
        self.own = nn.ParameterList(self._drawn(*shape) for shape in shapes)
        self.near = nn.ParameterList(self._drawn(*shape) for shape in shapes)
        self.bias = nn.ParameterList(torch.zeros(out) for _, out in shapes)

    def _drawn(self, rows: int, columns: int) -> Tensor:
        return nn.init.xavier_normal_(torch.empty(rows, columns), generator=self.generator)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Representations [U, D] of users and [N, D] of items with standardised ``features`` [N, F]."""
        users, items = self.users, torch.cat([features @ self.project, self.collaborative], dim=1)
        last = len(self.own) - 1
        for layer, share in enumerate(self.dropout):
            users, items = self._dropped(users, share), self._dropped(items, share)
            own, near, bias = self.own[layer], self.near[layer], self.bias[layer]
            users, items = (users @ own + bias + torch.sparse.mm(self.of_user, items @ near),
                            items @ own + bias + torch.sparse.mm(self.of_item, users @ near))
            if layer < last:
                users, items = (nn.functional.leaky_relu(x, SLOPE) for x in (users, items))
        return users, items

    def _dropped(self, x: Tensor, share: float) -> Tensor:
        if not self.training or not share:
            return x
        keep = torch.rand(x.shape, generator=self.generator) >= share
        return x * keep.to(x.device) / (1 - share)


def mean_over(matrix: csr_matrix) -> Tensor:
    """The sparse tensor that takes the mean over the ones of each row of ``matrix``; an empty row gives zeros."""
    counts = np.diff(matrix.indptr)
    rows = np.repeat(np.arange(matrix.shape[0]), counts)
    index = torch.from_numpy(np.stack([rows, matrix.indices.astype(np.int64)]))
    values = torch.from_numpy((1 / counts[rows]).astype(np.float32))
    return torch.sparse_coo_tensor(index, values, matrix.shape, check_invariants=False).coalesce()
