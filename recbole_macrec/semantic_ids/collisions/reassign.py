"""Keep collisions, or move items to the nearest unused ID.

Shapes: N items, L levels, K_l codes of level l, D code width.
"""
from collections import Counter, defaultdict

import numpy as np

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.collisions.base import (
    Geometry,
    Resolution,
    ResolutionContext,
    Resolved,
    quantization_error,
    rank_in_group,
)


def check_free_ids(items: int, sizes: tuple[int, ...]) -> None:
    """Raise a UserError if there are fewer IDs with codebooks of ``sizes`` than ``items``."""
    if count_ids(sizes) < items:
        raise UserError(f"{items} items cannot have different IDs of sizes {list(sizes)}; raise codebook_size or "
                        "codebook_levels, or set collision to extra_token.")


class Keep(Resolution):
    """Keep collisions."""

    keeps_collisions = True

    def resolve(self, codes: np.ndarray, sizes: tuple[int, ...], context: ResolutionContext) -> Resolved:
        return Resolved(codes.copy(), tuple(sizes))


class Reassign(Resolution):
    """Move all but one item of every collision to the nearest unused ID (MQL4GRec, MACRec).

    The item nearest to its codewords keeps the ID. The others, nearest first, get the nearest codeword of the last level that
    is unused after their first L-1 codes. If all of these are used, the code of the level before is replaced by the nearest
    one with unused IDs below it, and so on. Without geometry the first item keeps the ID and codewords are tried by number.

    Raises:
        UserError: there are more items than IDs.
    """

    needs_free_ids = True

    def resolve(self, codes: np.ndarray, sizes: tuple[int, ...], context: ResolutionContext) -> Resolved:
        check_free_ids(len(codes), sizes)
        geometry, codes = context.geometry, codes.copy()
        distance = quantization_error(codes, geometry)
        is_moved = rank_in_group(codes, distance) > 0  # [N]
        used = UsedIDs(sizes, codes[~is_moved])
        squares = None if geometry is None else geometry.squares()  # [L, K]
        moved = is_moved.nonzero()[0]
        for item in moved[np.argsort(distance[moved], kind="stable")]:
            codes[item] = self.nearest_free(codes[item].tolist(), used, geometry, squares, item)
            used.add(codes[item].tolist())
        return Resolved(codes, tuple(sizes))

    @staticmethod
    def nearest_free(code: list[int], used: "UsedIDs", geometry: Geometry | None, squares: np.ndarray | None,
                     item: int) -> list[int]:
        """Find the unused ID nearest to ``code``; codes without codewords (of an extra token) are tried by number."""
        level = len(code) - 1
        while used.is_full(code[:level]):
            level -= 1
        code = code[:level]
        while len(code) < len(used.sizes):
            level = len(code)
            if geometry is None or squares is None or level == len(geometry.codebooks):
                cost = np.arange(used.sizes[level], dtype=float)
            else:
                rest = geometry.z[item].copy()  # [D]
                for codebook, chosen in zip(geometry.codebooks, code):
                    rest -= codebook[chosen]
                cost = squares[level] - 2 * (geometry.codebooks[level] @ rest)  # [K] squared distance - |rest|^2
            cost[used.full_codes(code)] = np.inf
            code.append(int(cost.argmin()))
        return code


class UsedIDs:
    """The set of used IDs, which also finds prefixes without unused IDs.

    An ID is stored as a number in mixed radix, so the IDs below a prefix are a range. The initial IDs are counted in a sorted
    array, the few added later in dictionaries.

    Args:
        sizes: codebook size of each level.
        codes: [N, L] distinct initial IDs.
    """

    def __init__(self, sizes: tuple[int, ...], codes: np.ndarray):
        self.sizes = sizes
        self.span = [count_ids(sizes[level:]) for level in range(len(sizes) + 1)]  # number of IDs below a prefix, by its length
        kind = np.int64 if self.span[0] <= np.iinfo(np.int64).max else object  # Python integers have no limit
        self._initial = np.sort(codes.astype(kind) @ np.array(self.span[1:], dtype=kind))
        self._added: dict[tuple, Counter] = defaultdict(Counter)  # prefix -> next code -> IDs added below it

    def add(self, code: list[int]) -> None:
        for level, last in enumerate(code):
            self._added[tuple(code[:level])][last] += 1

    def is_full(self, prefix: list[int]) -> bool:
        """Whether every ID below ``prefix`` is used."""
        begin = self._number(prefix)
        first, last = np.searchsorted(self._initial, [begin, begin + self.span[len(prefix)]])
        added = self._added.get(tuple(prefix), Counter()).total()
        return bool(last - first + added == self.span[len(prefix)])

    def full_codes(self, prefix: list[int]) -> np.ndarray:
        """The codes after ``prefix`` below which every ID is used."""
        level = len(prefix)
        step = self.span[level + 1]
        bounds = self._number(prefix) + step * np.arange(self.sizes[level] + 1, dtype=self._initial.dtype)
        counts = np.diff(np.searchsorted(self._initial, bounds))
        for code, added in self._added.get(tuple(prefix), Counter()).items():
            counts[code] += added
        return np.flatnonzero(counts == step)

    def _number(self, prefix: list[int]) -> int:
        return sum(code * span for code, span in zip(prefix, self.span[1:]))


def count_ids(sizes: tuple[int, ...]) -> int:
    """Number of IDs with codebooks of these sizes."""
    count = 1
    for size in sizes:
        count *= size
    return count
