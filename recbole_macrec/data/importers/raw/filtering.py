"""The published filtering: one interaction per user and item, an iterated k-core, histories in time order.

The functions here are pure functions of arrays. Interactions are in the order of their file, and this order breaks ties: of two
interactions at the same time, the first in the file is the earlier one.

Shapes: n interactions.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

WITH_IMAGE = "items with an image"  # name of a step


class Interactions(NamedTuple):
    """User, item and time of each interaction; users and items are numbered from 0 by first occurrence in the file."""

    users: np.ndarray  # int32 [n]
    items: np.ndarray  # int32 [n]
    times: np.ndarray  # float64 [n]

    def take(self, rows: np.ndarray) -> Interactions:
        """Return the interactions at ``rows``, row numbers or a mask."""
        return Interactions(self.users[rows], self.items[rows], self.times[rows])


class Step(NamedTuple):
    """Counts after a step of the filtering."""

    name: str
    users: int
    items: int
    interactions: int


def count(name: str, interactions: Interactions) -> Step:
    """Return the counts of users, items and interactions after the step ``name``."""
    users, items, _ = interactions
    return Step(name, len(np.unique(users)), len(np.unique(items)), len(users))


def earliest(interactions: Interactions) -> np.ndarray:
    """Return the rows, ascending, of the earliest interaction of each (user, item) pair."""
    users, items, times = interactions
    order = np.lexsort((times, items, users))  # stable: equal times stay in the order of the file
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(users[order]) != 0) | (np.diff(items[order]) != 0)
    return np.sort(order[first])


def k_core(interactions: Interactions, k: int) -> np.ndarray:
    """Return the rows, ascending, of the k-core: the largest subset in which every user and item has at least ``k``
    interactions.

    It is unique: removing users and items with fewer than ``k`` interactions until there are none finds it in any order.
    """
    users, items, _ = interactions
    rows = np.arange(len(users))
    while True:
        keep = (np.bincount(users[rows])[users[rows]] >= k) & (np.bincount(items[rows])[items[rows]] >= k)
        if keep.all():
            return rows
        rows = rows[keep]


def in_time_order(interactions: Interactions) -> np.ndarray:
    """Return all rows sorted by user, then time, then row."""
    return np.lexsort((interactions.times, interactions.users))


class Filtering:
    """Filter interactions step by step and record the counts after each step."""

    def __init__(self, interactions: Interactions) -> None:
        self.left = interactions
        self.steps = [count("read", interactions)]

    def keep(self, name: str, rows: np.ndarray) -> None:
        """Keep ``rows``, row numbers or a mask, and record the counts as step ``name``."""
        self.left = self.left.take(rows)
        self.steps.append(count(name, self.left))

    def keep_earliest(self) -> None:
        """Keep one interaction per user and item."""
        self.keep("one per user and item", earliest(self.left))

    def keep_core(self, k: int) -> None:
        """Keep the k-core."""
        self.keep(f"{k}-core", k_core(self.left, k))
