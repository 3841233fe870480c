"""Resolutions that add a level: a last token tells the items of one ID apart.

Axes: N items, L levels.
"""
import numpy as np

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.collisions import Known, Resolved, rank_in_group


def with_rank(codes: np.ndarray, sizes: tuple[int, ...], key: np.ndarray) -> Resolved:
    """``codes`` [N, L] and one more level: an item's rank by ``key`` [N] among those of its ID, 0 first."""
    rank = rank_in_group(codes, key)  # [N]
    return Resolved(np.column_stack([codes, rank]), (*sizes, int(rank.max()) + 1))


class ExtraToken:
    """Rank in item order (Rajput et al., NeurIPS 2023).

    Example: (5, 7), (1, 1), (5, 7) become (5, 7, 0), (1, 1, 0), (5, 7, 1), and the new level has size 2.
    """

    def resolve(self, codes: np.ndarray, sizes: tuple[int, ...], known: Known) -> Resolved:
        return with_rank(codes, sizes, np.zeros(len(codes)))


class Popularity:
    """Rank by training interactions, the most popular first (MMGRec, arXiv 2404.16555); equals in item order.

    The paper counts the ranks from 1, the codes here from 0.

    Raises:
        UserError: when nobody counted the interactions.
    """

    def resolve(self, codes: np.ndarray, sizes: tuple[int, ...], known: Known) -> Resolved:
        if known.counts is None:
            raise UserError("collision = popularity counts the training interactions, which are known once a run has split "
                            "the data: run a model with it, or set collision to extra_token.")
        return with_rank(codes, sizes, -np.asarray(known.counts, dtype=float))


class RandomToken:
    """Rank in random order: what the popularity token is measured against (MMGRec, Table 4)."""

    def resolve(self, codes: np.ndarray, sizes: tuple[int, ...], known: Known) -> Resolved:
        return with_rank(codes, sizes, np.random.default_rng(known.seed).random(len(codes)))
