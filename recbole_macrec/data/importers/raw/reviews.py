"""Read interactions from raw Amazon review files."""
from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recbole_macrec.data.atomic import readable_token
from recbole_macrec.data.importers.raw.filtering import Interactions
from recbole_macrec.data.importers.raw.lines import LineCounts, parse_lines

_HEADER = (b"item", b"user", b"rating", b"timestamp")


class Review(NamedTuple):
    """One line of a review file; ``time`` is in the unit of the file."""

    user: str
    item: str
    rating: float
    time: float


@dataclass
class Reviews:
    """All interactions of a file; ``users[i]`` and ``items[i]`` are the ids of user and item number i."""

    users: list[str]
    items: list[str]
    interactions: Interactions
    line_counts: LineCounts


def read_reviews(path: Path, kind: str) -> Reviews:
    """Read a review file of ``kind``, a key of PARSERS. Broken lines are counted; UserError if most are broken."""
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    user_column, item_column, times = array("i"), array("i"), array("d")
    counts = LineCounts()
    for review in parse_lines(path, PARSERS[kind], counts):
        if review is not None:
            user_column.append(users.setdefault(review.user, len(users)))
            item_column.append(items.setdefault(review.item, len(items)))
            times.append(review.time)
    interactions = Interactions(np.array(user_column, np.int32), np.array(item_column, np.int32), np.array(times, np.float64))
    return Reviews(list(users), list(items), interactions, counts)


def parse_2018(line: bytes) -> Review | None:
    """Parse ``item,user,rating,timestamp``; None for the header that some copies have. ValueError if broken."""
    fields = [field.strip() for field in line.split(b",")]
    if tuple(field.lower() for field in fields) == _HEADER:
        return None
    item, user, rating, time = fields
    return _checked(user.decode(), item.decode(), rating, time)


def parse_2023(line: bytes) -> Review:
    """Parse a JSON object; the item is ``parent_asin``, the variants of a product together, as in the metadata.

    ValueError if broken.
    """
    review = json.loads(line)
    if not isinstance(review, dict):
        raise ValueError("not a JSON object")
    return _checked(review.get("user_id"), review.get("parent_asin") or review.get("asin"), review.get("rating"),
                    review.get("timestamp"))


PARSERS: dict[str, Callable[[bytes], Review | None]] = {"amazon2018": parse_2018, "amazon2023": parse_2023}


def _checked(user: object, item: object, rating: bytes | str | float | None, time: bytes | str | float | None) -> Review:
    if rating is None or time is None or not readable_token(user) or not readable_token(item):
        raise ValueError("a field is missing or unusable")
    (user + item).encode()  # raises ValueError for lone surrogates, which JSON can hold
    review = Review(user, item, float(rating), float(time))
    if not (math.isfinite(review.rating) and math.isfinite(review.time)):
        raise ValueError("not finite")
    return review
