"""Collision resolution: unique semantic IDs for items with equal codes.

To add a strategy, write a module with a subclass of :class:`Resolution` and add it to RESOLUTIONS.

Shapes: N items, L levels.
"""
import numpy as np

from recbole_macrec.config.schema.base import REGISTRIES
from recbole_macrec.semantic_ids.collisions.base import (
    ExtraToken,
    Geometry,
    Popularity,
    RandomToken,
    Resolution,
    ResolutionContext,
    Resolved,
)
from recbole_macrec.semantic_ids.collisions.reassign import Keep, Reassign
from recbole_macrec.semantic_ids.collisions.sinkhorn import Sinkhorn
from recbole_macrec.semantic_ids.statistics import collision_rate

RESOLUTIONS: dict[str, type[Resolution]] = {  # by value of the option ``collision``
    "reassign": Reassign,
    "extra_token": ExtraToken,
    "popularity": Popularity,
    "random": RandomToken,
    "sinkhorn": Sinkhorn,
    "keep": Keep,
}
REGISTRIES["collision"] = RESOLUTIONS


def resolve(strategy: str, codes: np.ndarray, sizes: tuple[int, ...], geometry: Geometry | None = None,
            counts: np.ndarray | None = None, seed: int = 0) -> Resolved:
    """Apply the strategy named by the option ``collision``. All but ``keep`` give every item a unique ID.

    Args:
        counts: training interactions [N] of each item, for ``popularity``.
        seed: seed of ``random``.
    """
    resolution = RESOLUTIONS[strategy]()
    _check_range("the quantizer", codes, sizes)
    resolved = resolution.resolve(codes, sizes, ResolutionContext(geometry, counts, seed))
    _check_range(f"collision strategy {strategy}", *resolved)
    if not resolution.keeps_collisions and collision_rate(resolved.codes) > 0:
        raise AssertionError(f"collision strategy {strategy} left items with equal IDs")
    return resolved


def _check_range(source: str, codes: np.ndarray, sizes: tuple[int, ...]) -> None:
    """Raise an AssertionError unless every code is below the size of its level: others would be codes of the next level."""
    if codes.shape[1] != len(sizes) or (codes < 0).any() or (codes >= sizes).any():
        raise AssertionError(f"{source} returned {codes.shape[1]} levels with codes from {codes.min(0)} to {codes.max(0)}; "
                             f"expected codes from 0 below the sizes {list(sizes)}")
