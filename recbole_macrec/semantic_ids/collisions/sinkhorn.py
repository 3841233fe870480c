"""Uniform assignment by entropic optimal transport (Cuturi, NeurIPS 2013).

Shapes: N items, n items of a group, L levels, K codewords, D code width.
"""
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.collisions.base import Resolution, ResolutionContext, Resolved, quantization_error, residual
from recbole_macrec.semantic_ids.collisions.reassign import Reassign

REGULARISATION = 0.05  # relative to the mean cost
ITERATIONS = 100


def transport_plan(cost: np.ndarray) -> np.ndarray:
    """Entropic transport plan [n, K] for ``cost`` [n, K], with marginals 1 / n of items and 1 / K of codewords."""
    items, words = cost.shape
    mean = cost.mean()
    kernel = -cost / (REGULARISATION * mean) if mean > 0 else np.zeros_like(cost)
    item_scale, word_scale = np.zeros((items, 1)), np.zeros((1, words))
    for _ in range(ITERATIONS):
        word_scale = -np.log(words) - logsumexp(kernel + item_scale, axis=0, keepdims=True)
        item_scale = -np.log(items) - logsumexp(kernel + word_scale, axis=1, keepdims=True)
    return np.exp(kernel + item_scale + word_scale)


def uniform_assignment(cost: np.ndarray) -> np.ndarray:
    """Assign a different codeword to every item, [n], n <= K, with the largest total mass of the transport plan."""
    return linear_sum_assignment(-transport_plan(cost.astype(np.float64)))[1]


class Sinkhorn(Resolution):
    """Uniform assignment at the last level, then :class:`Reassign` for items without an unused code.

    The colliding items of each prefix of L-1 codes are distributed over its unused codewords by an entropic optimal transport
    plan.

    Raises:
        UserError: there are no codewords, or there are more items than IDs.
    """

    needs_codewords = True

    def resolve(self, codes: np.ndarray, sizes: tuple[int, ...], context: ResolutionContext) -> Resolved:
        geometry = context.geometry
        if geometry is None:
            raise UserError("collision is sinkhorn, which needs codewords, but published IDs have none; "
                            "set collision to reassign, extra_token or popularity.")
        codes, last = codes.copy(), len(sizes) - 1
        _, id_of_item, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
        collides = counts[id_of_item.reshape(-1)] > 1  # [N]
        error = quantization_error(codes, geometry)
        prefix = np.unique(codes[:, :last], axis=0, return_inverse=True)[1].reshape(-1)
        order = np.argsort(prefix, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(prefix[order])) + 1):  # items of one prefix
            items, others = group[collides[group]], group[~collides[group]]
            if not len(items):
                continue
            free = np.setdiff1d(np.arange(sizes[last]), codes[others, last])
            items = items[np.argsort(error[items], kind="stable")][: len(free)]
            rest = residual(codes[items, :last], geometry.z[items], geometry.codebooks)  # [n, D]
            cost = np.square(rest[:, None] - geometry.codebooks[last][free]).sum(2)
            codes[items, last] = free[uniform_assignment(cost)]
        return Reassign().resolve(codes, sizes, context)
