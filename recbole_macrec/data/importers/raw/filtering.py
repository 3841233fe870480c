"""The published filtering: one interaction per user and item, an iterated k-core, histories in time order.

Everything here is a pure function of integer arrays. n interactions lie in the order of their file, and that position
breaks every tie: of two interactions at the same time, the one that comes first in the file is the earlier one.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Interactions(NamedTuple):
    """Who took what, when; users and items are numbers from 0 in the order in which the file first names them."""

    users: np.ndarray  # int32 [n]
    items: np.ndarray  # int32 [n]
    times: np.ndarray  # float64 [n]

    def take(self, rows: np.ndarray) -> Interactions:
        """Return the interactions at ``rows``, positions or a mask."""
        return Interactions(self.users[rows], self.items[rows], self.times[rows])


class Step(NamedTuple):
    """What is left after a step of the filtering."""

    name: str
    users: int
    items: int
    interactions: int


def count(name: str, interactions: Interactions) -> Step:
    """Count users and items that still have an interaction."""
    users, items, _ = interactions
    return Step(name, len(np.unique(users)), len(np.unique(items)), len(users))


def earliest(interactions: Interactions) -> np.ndarray:
    """Return the rows, ascending, of the earliest interaction of each (user, item)."""
    users, items, times = interactions
    order = np.lexsort((times, items, users))  # stable: equal times stay in the order of the file
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(users[order]) != 0) | (np.diff(items[order]) != 0)
    return np.sort(order[first])


def k_core(interactions: Interactions, k: int) -> np.ndarray:
    """Return the rows, ascending, of the largest part in which every user and every item has ``k`` interactions or more.

    That part is unique: leaving out users and items round by round until nobody is below ``k`` finds it in any order.
    """
    users, items, _ = interactions
    rows = np.arange(len(users))
    while True:
        keep = (np.bincount(users[rows])[users[rows]] >= k) & (np.bincount(items[rows])[items[rows]] >= k)
        if keep.all():
            return rows
        rows = rows[keep]


def in_time_order(interactions: Interactions) -> np.ndarray:
    """Return all rows by user, then time, then position."""
    return np.lexsort((interactions.times, interactions.users))


class Filtering:
    """Interactions on their way through the steps, and what each step left."""

    def __init__(self, interactions: Interactions) -> None:
        self.left = interactions
        self.steps = [count("read", interactions)]

    def keep(self, name: str, rows: np.ndarray) -> None:
        """Keep ``rows``, positions or a mask, and record the counts under ``name``."""
        self.left = self.left.take(rows)
        self.steps.append(count(name, self.left))

    def keep_earliest(self) -> None:
        """Keep one interaction per user and item."""
        self.keep("one per user and item", earliest(self.left))

    def keep_core(self, k: int) -> None:
        """Keep the k-core."""
        self.keep(f"{k}-core", k_core(self.left, k))
