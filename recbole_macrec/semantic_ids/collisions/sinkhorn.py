"""Different codewords for colliding items, as near as possible.

Shapes: N items, n items of a group, L levels, K codewords, D code width.
"""
import numpy as np
from scipy.optimize import linear_sum_assignment

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.collisions.base import Resolution, ResolutionContext, Resolved, quantization_error, residual
from recbole_macrec.semantic_ids.collisions.reassign import Reassign


class Sinkhorn(Resolution):
    """Different codewords of the last level for colliding items, in place of the Sinkhorn plan of LC-Rec (ICDE 2024).

    The colliding items of each prefix of L-1 codes are assigned to different unused codewords, with the least total squared
    distance. :class:`Reassign` follows for items without an unused codeword. The official code chooses by a plan of Sinkhorn's
    algorithm that has equal sums for all codewords; if there are many more codewords than items, as is usual, its choice is as
    far from the items as a random one.

    Raises:
        UserError: there are no codewords, or there are more items than IDs.
    """

    needs_free_ids = True
    needs_codewords = True
    version = 2

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
            codes[items, last] = free[linear_sum_assignment(cost)[1]]
        return Reassign().resolve(codes, sizes, context)
