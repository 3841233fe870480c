"""Collision resolution: what happens to items that share one semantic ID.

A strategy is a class with ``resolve``; RESOLUTIONS names them for the option ``collision``. To add one, write the
class and its entry.

Axes: N items, L levels, K_l codes of level l, D code width.
"""
from collections import Counter, defaultdict

import numpy as np

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.collisions.base import (
    ExtraToken,
    Geometry,
    Popularity,
    RandomToken,
    Resolution,
    ResolutionContext,
    Resolved,
    quantization_error,
    rank_in_group,
    residual,
)
from recbole_macrec.semantic_ids.collisions.sinkhorn import uniform_assignment
from recbole_macrec.semantic_ids.statistics import collision_rate


class Keep:
    """Leave collisions as they are."""

    def resolve(self, codes: np.ndarray, sizes: tuple[int, ...], known: ResolutionContext) -> Resolved:
        return Resolved(codes.copy(), tuple(sizes))


class Reassign:
    """Move all but one item of every collision to the nearest free ID (MQL4GRec, MACRec).

    The item nearest its codewords keeps the ID. The others, nearest first, take the nearest codeword of the last
    level that is free under their first L-1 codes; where all are taken, the nearest of the level before that still
    has room, and so on upwards. Without geometry the first item keeps the ID and codewords are tried by number.

    Raises:
        UserError: when there are more items than IDs.
    """

    def resolve(self, codes: np.ndarray, sizes: tuple[int, ...], known: ResolutionContext) -> Resolved:
        geometry = known.geometry
        if ids_below(sizes) < len(codes):
            raise UserError(f"{len(codes)} items cannot have different IDs of sizes {list(sizes)}: raise "
                            "codebook_size or codebook_levels, or set collision to extra_token.")
        codes = codes.copy()
        distance = np.zeros(len(codes)) if geometry is None else quantization_error(codes, geometry)
        moves = rank_in_group(codes, distance) > 0  # [N]
        taken = TakenIDs(sizes, codes[~moves])
        squares = None if geometry is None else geometry.squares()  # [L, K]
        movers = moves.nonzero()[0]
        for item in movers[np.argsort(distance[movers], kind="stable")]:
            codes[item] = self.nearest_free(codes[item].tolist(), taken, geometry, squares, item)
            taken.add(codes[item].tolist())
        return Resolved(codes, tuple(sizes))

    @staticmethod
    def nearest_free(code: list[int], taken: "TakenIDs", geometry: Geometry | None, squares: np.ndarray | None,
                     item: int) -> list[int]:
        """The free ID nearest to ``code``; codes without codewords (an extra token's) are tried by number."""
        level = len(code) - 1
        while taken.is_full(code[:level]):
            level -= 1
        code = code[:level]
        while len(code) < len(taken.sizes):
            level = len(code)
            if geometry is None or level == len(geometry.codebooks):
                cost = np.arange(taken.sizes[level], dtype=float)
            else:
                rest = geometry.z[item].copy()  # [D]
                for codebook, chosen in zip(geometry.codebooks, code):
                    rest -= codebook[chosen]
                cost = squares[level] - 2 * (geometry.codebooks[level] @ rest)  # [K] squared distance - |rest|^2
            cost[taken.full_below(code)] = np.inf
            code.append(int(cost.argmin()))
        return code


class TakenIDs:
    """Which IDs are taken, and below which prefixes no ID is free.

    An ID is a number in mixed radix, so the IDs below a prefix are a range: those taken from the start are counted in a
    sorted array, the few added later in dictionaries.

    Args:
        sizes: codebook sizes, level by level.
        codes: [N, L] distinct IDs taken from the start.
    """

    def __init__(self, sizes: tuple[int, ...], codes: np.ndarray):
        self.sizes = sizes
        self.span = [ids_below(sizes[level:]) for level in range(len(sizes) + 1)]  # IDs below a prefix of a length
        kind = np.int64 if self.span[0] <= np.iinfo(np.int64).max else object  # Python's integers have no limit
        self._taken = np.sort(codes.astype(kind) @ np.array(self.span[1:], dtype=kind))
        self._added: dict[tuple, Counter] = defaultdict(Counter)  # prefix -> next code -> IDs added below it

    def add(self, code: list[int]) -> None:
        for level, last in enumerate(code):
            self._added[tuple(code[:level])][last] += 1

    def is_full(self, prefix: list[int]) -> bool:
        """Whether every ID below ``prefix`` is taken."""
        begin = self._number(prefix)
        first, last = np.searchsorted(self._taken, [begin, begin + self.span[len(prefix)]])
        added = self._added.get(tuple(prefix), Counter()).total()
        return bool(last - first + added == self.span[len(prefix)])

    def full_below(self, prefix: list[int]) -> np.ndarray:
        """The next codes below which every ID is taken."""
        level = len(prefix)
        step = self.span[level + 1]
        borders = self._number(prefix) + step * np.arange(self.sizes[level] + 1, dtype=self._taken.dtype)
        counts = np.diff(np.searchsorted(self._taken, borders))
        for code, added in self._added.get(tuple(prefix), Counter()).items():
            counts[code] += added
        return np.flatnonzero(counts == step)

    def _number(self, prefix: list[int]) -> int:
        return sum(code * span for code, span in zip(prefix, self.span[1:]))


class Sinkhorn:
    """Uniform assignment at the last level, then :class:`Reassign` for items that found no room there.

    The items that collide under one prefix of L-1 codes are spread evenly over the codewords that are free below it:
    the transport plan of least cost (sinkhorn.py), in which every item goes to the codeword that takes most of it.

    Raises:
        UserError: without the codewords (published IDs), and when there are more items than IDs.
    """

    def resolve(self, codes: np.ndarray, sizes: tuple[int, ...], known: ResolutionContext) -> Resolved:
        geometry = known.geometry
        if geometry is None:
            raise UserError("collision = sinkhorn needs the codewords, which published IDs and hierarchical k-means lack: set "
                            "collision to reassign, extra_token or popularity.")
        codes, last = codes.copy(), len(sizes) - 1
        _, which, sharing = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
        collides = sharing[which.reshape(-1)] > 1  # [N]
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
        return Reassign().resolve(codes, sizes, known)


RESOLUTIONS: dict[str, type[Resolution]] = {
    "reassign": Reassign, "extra_token": ExtraToken, "popularity": Popularity, "random": RandomToken, "sinkhorn": Sinkhorn,
    "keep": Keep,
}


def resolve(strategy: str, codes: np.ndarray, sizes: tuple[int, ...], geometry: Geometry | None = None,
            counts: np.ndarray | None = None, seed: int = 0) -> Resolved:
    """Apply the strategy named by the option ``collision``; all but ``keep`` end with one ID per item.

    Args:
        counts: training interactions [N] of each item, for ``popularity``. seed: of ``random``.
    """
    resolved = RESOLUTIONS[strategy]().resolve(codes, sizes, ResolutionContext(geometry, counts, seed))
    if strategy != "keep" and collision_rate(resolved.codes) > 0:
        raise AssertionError(f"collision strategy {strategy} left items with equal IDs")
    return resolved


def ids_below(sizes: tuple[int, ...]) -> int:
    """How many IDs codebooks of these sizes can form."""
    count = 1
    for size in sizes:
        count *= size
    return count
