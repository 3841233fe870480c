"""Filter a ``Source``, and convert filtered arrays to a ``Source``."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recbole_macrec.data.importers.raw.filtering import WITH_IMAGE, Filtering, Interactions, Step, in_time_order
from recbole_macrec.data.importers.sources import Source
from recbole_macrec.errors import UserError


def as_source(path: Path, filtering: Filtering, users: Sequence[str], items: Sequence[str]) -> Source:
    """Return the filtered interactions as a ``Source``, sorted by user and time; the catalogue is their items in this order.

    Args:
        path: the file of the interactions.
        filtering: the filtered interactions.
        users: the id of each user number.
        items: the id of each item number.

    Raises:
        UserError: if no interactions are left.
    """
    if not len(filtering.left.users):
        steps = "; ".join(f"{step.name}: {step.interactions}" for step in filtering.steps)
        images = " or set --require_image=False" * any(step.name == WITH_IMAGE for step in filtering.steps)
        raise UserError(f"{path} has no interactions left after filtering ({steps}); lower --core{images}")
    left = filtering.left.take(in_time_order(filtering.left))
    tokens = [items[i] for i in left.items]
    return Source(path, [users[i] for i in left.users], tokens, left.times.tolist(), list(dict.fromkeys(tokens)), {},
                  fixed=True, filtered=True)


def filter_source(source: Source, core: int | None, allowed: set[str] | None = None) -> list[Step]:
    """Filter ``source`` in place and return the counts after each step; none without a filter.

    Args:
        source: the source.
        core: k of the k-core. Only the earliest interaction of each user and item is kept, then the k-core, and the catalogue
            is reduced to its items. None keeps all interactions of the allowed items, and the catalogue.
        allowed: the items whose interactions are kept; None for all.

    Raises:
        UserError: if no interactions are left.
    """
    if core is None and allowed is None:
        return []
    users, items = ({token: i for i, token in enumerate(dict.fromkeys(column))} for column in (source.users, source.items))
    filtering = Filtering(Interactions(np.array([users[user] for user in source.users], np.int32),
                                       np.array([items[item] for item in source.items], np.int32),
                                       np.array(source.timestamps, np.float64)))
    if core is not None:
        filtering.keep_earliest()
    if allowed is not None:
        filtering.keep(WITH_IMAGE, np.array([item in allowed for item in items])[filtering.left.items])
    if core is not None:
        filtering.keep_core(core)
    left = as_source(source.path, filtering, list(users), list(items))
    source.users, source.items, source.timestamps, source.filtered = left.users, left.items, left.timestamps, True
    if core is not None:
        kept = set(left.items)
        source.catalogue = [item for item in source.catalogue if item in kept]
        source.numbers = {number: item for number, item in source.numbers.items() if item in kept}
    return filtering.steps
