"""What every way of resolving collisions knows and hands back.

Axes: N items, L levels, K codes per level, D code width.
"""
from typing import NamedTuple, Protocol

import numpy as np

from recbole_macrec.errors import UserError
from recbole_macrec.utils.blocks import blocks


class Geometry(NamedTuple):
    """Where items and codewords lie; published IDs have none."""

    z: np.ndarray  # [N, D] what was quantized
    codebooks: np.ndarray  # [L, K, D]

    def squares(self) -> np.ndarray:
        """Squared length [L, K] of every codeword."""
        return np.square(self.codebooks).sum(2)


class Resolved(NamedTuple):
    codes: np.ndarray  # [N, L'] int64
    sizes: tuple[int, ...]  # L' codebook sizes


class ResolutionContext(NamedTuple):
    """What a strategy may look at besides the codes."""

    geometry: Geometry | None = None
    counts: np.ndarray | None = None  # [N] training interactions of each item
    seed: int = 0


class Resolution(Protocol):
    def resolve(self, codes: np.ndarray, sizes: tuple[int, ...], known: ResolutionContext) -> Resolved: ...


def rank_in_group(codes: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Rank [N] of every item among the items of its code, by ``key`` [N] and then by item order; 0 first."""
    group = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)  # [N]
    order = np.lexsort((key, group))  # stable: equal keys stay in item order
    in_order = group[order]
    start = np.maximum.accumulate(np.where(np.r_[True, in_order[1:] != in_order[:-1]], np.arange(len(order)), 0))
    rank = np.empty(len(codes), dtype=np.int64)
    rank[order] = np.arange(len(order)) - start
    return rank


def quantization_error(codes: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Squared distance [N] of every item to the sum of its codewords."""
    error = np.empty(len(codes), geometry.z.dtype)
    for part, z, code in zip(blocks(error), blocks(geometry.z), blocks(codes)):
        part[:] = np.square(residual(code, z, geometry.codebooks)).sum(1)
    return error


def residual(codes: np.ndarray, z: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """What ``codes`` [n, l] of the first l levels leave of ``z`` [n, D]; [n, D]."""
    rest = z.copy()
    for level, codebook in enumerate(codebooks[: codes.shape[1]]):
        rest -= codebook[codes[:, level]]
    return rest


def with_rank(codes: np.ndarray, sizes: tuple[int, ...], key: np.ndarray) -> Resolved:
    """``codes`` [N, L] and one more level: an item's rank by ``key`` [N] among those of its ID, 0 first."""
    rank = rank_in_group(codes, key)  # [N]
    return Resolved(np.column_stack([codes, rank]), (*sizes, int(rank.max()) + 1))


class ExtraToken:
    """Rank in item order (Rajput et al., NeurIPS 2023).

    Example: (5, 7), (1, 1), (5, 7) become (5, 7, 0), (1, 1, 0), (5, 7, 1), and the new level has size 2.
    """

    def resolve(self, codes: np.ndarray, sizes: tuple[int, ...], known: ResolutionContext) -> Resolved:
        return with_rank(codes, sizes, np.zeros(len(codes)))


class Popularity:
    """Rank by training interactions, the most popular first (MMGRec, arXiv 2404.16555); equals in item order.

    The paper counts the ranks from 1, the codes here from 0.

    Raises:
        UserError: when nobody counted the interactions.
    """

    def resolve(self, codes: np.ndarray, sizes: tuple[int, ...], known: ResolutionContext) -> Resolved:
        if known.counts is None:
            raise UserError("collision = popularity counts the training interactions, which are known once a run has split "
                            "the data: run a model with it, or set collision to extra_token.")
        return with_rank(codes, sizes, -np.asarray(known.counts, dtype=float))


class RandomToken:
    """Rank in random order: what the popularity token is measured against (MMGRec, Table 4)."""

    def resolve(self, codes: np.ndarray, sizes: tuple[int, ...], known: ResolutionContext) -> Resolved:
        return with_rank(codes, sizes, np.random.default_rng(known.seed).random(len(codes)))
