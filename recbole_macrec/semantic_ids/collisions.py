"""What every way of resolving collisions knows and hands back.

Axes: N items, L levels, K codes per level, D code width.
"""
from typing import NamedTuple, Protocol

import numpy as np

from recbole_macrec.data.blocks import blocks


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


class Known(NamedTuple):
    """What a strategy may look at besides the codes."""

    geometry: Geometry | None = None
    counts: np.ndarray | None = None  # [N] training interactions of each item
    seed: int = 0


class Resolution(Protocol):
    def resolve(self, codes: np.ndarray, sizes: tuple[int, ...], known: Known) -> Resolved: ...


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
