"""Inputs and outputs of collision resolution, and strategies that append a token.

Shapes: N items, L levels, K codes per level, D code width.
"""
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np

from recbole_macrec.errors import UserError
from recbole_macrec.utils.blocks import blocks


class Geometry(NamedTuple):
    """Vectors of items and codewords; published IDs have none."""

    z: np.ndarray  # [N, D] the quantized vectors
    codebooks: np.ndarray  # [L, K, D]

    def squares(self) -> np.ndarray:
        """Squared length [L, K] of every codeword."""
        return np.square(self.codebooks).sum(2)


class Resolved(NamedTuple):
    """The IDs of all items after the resolution of collisions."""

    codes: np.ndarray  # [N, L'] int64
    sizes: tuple[int, ...]  # L' codebook sizes


class ResolutionContext(NamedTuple):
    """Further inputs of a strategy."""

    geometry: Geometry | None = None
    counts: np.ndarray | None = None  # [N] training interactions of each item
    seed: int = 0


class Resolution(ABC):
    """A strategy that gives items with equal codes different IDs.

    The first line of its docstring describes it in the documentation of the option ``collision``.

    Attributes:
        keeps_collisions: whether items may still have equal IDs.
        needs_free_ids: whether there must be at least as many IDs, of the given codebook sizes, as items.
        needs_codewords: whether it reads :attr:`ResolutionContext.geometry`, which it then needs.
        reads_counts: whether it reads :attr:`ResolutionContext.counts`, so that the IDs depend on the training interactions.
        version: increase it when the same codes get other IDs, so that stored IDs are not used any more.
    """

    keeps_collisions: ClassVar[bool] = False
    needs_free_ids: ClassVar[bool] = False
    needs_codewords: ClassVar[bool] = False
    reads_counts: ClassVar[bool] = False
    version: ClassVar[int] = 1

    @abstractmethod
    def resolve(self, codes: np.ndarray, sizes: tuple[int, ...], context: ResolutionContext) -> Resolved:
        """Resolve the collisions of ``codes``.

        Args:
            codes: int64 [N, L], ``codes[:, l] < sizes[l]``.
            sizes: the L codebook sizes.
            context: further inputs.

        Returns:
            The IDs, which may have more levels, and their codebook sizes.

        Raises:
            UserError: the strategy is impossible with these inputs; the message names the option to change.
        """


def rank_in_group(codes: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Rank [N] of every item, from 0, among the items with the same codes, by ``key`` [N] and then by item order."""
    group = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)  # [N]
    order = np.lexsort((key, group))  # stable: equal keys stay in item order
    sorted_group = group[order]
    start = np.maximum.accumulate(np.where(np.r_[True, sorted_group[1:] != sorted_group[:-1]], np.arange(len(order)), 0))
    rank = np.empty(len(codes), dtype=np.int64)
    rank[order] = np.arange(len(order)) - start
    return rank


def quantization_error(codes: np.ndarray, geometry: Geometry | None) -> np.ndarray:
    """Squared distance [N] of every item to the sum of its codewords; 0 without geometry."""
    if geometry is None:
        return np.zeros(len(codes))
    error = np.empty(len(codes), geometry.z.dtype)
    for part, z, code in zip(blocks(error), blocks(geometry.z), blocks(codes)):
        part[:] = np.square(residual(code, z, geometry.codebooks)).sum(1)
    return error


def residual(codes: np.ndarray, z: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """``z`` [n, D] minus the codewords of ``codes`` [n, l] in the first l levels; [n, D]."""
    rest = z.copy()
    for level, codebook in enumerate(codebooks[: codes.shape[1]]):
        rest -= codebook[codes[:, level]]
    return rest


def with_rank(codes: np.ndarray, sizes: tuple[int, ...], key: np.ndarray) -> Resolved:
    """Append a level to ``codes`` [N, L]: the rank of an item, from 0, by ``key`` [N] among the items with its ID."""
    rank = rank_in_group(codes, key)  # [N]
    return Resolved(np.column_stack([codes, rank]), (*sizes, int(rank.max()) + 1))


class ExtraToken(Resolution):
    """Append the rank in item order (TIGER, Rajput et al., NeurIPS 2023).

    Example: (5, 7), (1, 1), (5, 7) become (5, 7, 0), (1, 1, 0), (5, 7, 1), and the new level has size 2.
    """

    def resolve(self, codes: np.ndarray, sizes: tuple[int, ...], context: ResolutionContext) -> Resolved:
        return with_rank(codes, sizes, np.zeros(len(codes)))


class Popularity(Resolution):
    """Append the rank by training interactions, most popular first (MMGRec, arXiv 2404.16555); equal ones in item order.

    Ranks are counted from 0 here, from 1 in the paper.

    Raises:
        UserError: the training interactions are not known.
    """

    reads_counts = True

    def resolve(self, codes: np.ndarray, sizes: tuple[int, ...], context: ResolutionContext) -> Resolved:
        if context.counts is None:
            raise UserError("collision = popularity needs the training interactions, which are known after a run has split "
                            "the data; run a model with it, or set collision to extra_token.")
        return with_rank(codes, sizes, -np.asarray(context.counts, dtype=float))


class RandomToken(Resolution):
    """Append the rank in random order, the baseline of the popularity token (MMGRec, Table 4)."""

    def resolve(self, codes: np.ndarray, sizes: tuple[int, ...], context: ResolutionContext) -> Resolved:
        return with_rank(codes, sizes, np.random.default_rng(context.seed).random(len(codes)))
