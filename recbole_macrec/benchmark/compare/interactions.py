"""Histories of the test rows, and the number of training interactions of each item, from the datasets that RecBole has split:
valid for every split.

Shapes: R test rows (RecBole's metrics average over rows: interactions for a sequential model, users for any other), N items
with padding.
"""
from typing import NamedTuple

import numpy as np

from recbole_macrec.data.interactions import has_histories, history_column, interactions_of


class History(NamedTuple):
    """Histories and item counts of one run.

    Attributes:
        histories: R arrays, the items before the targets of each row, oldest first, not cut to the history length of the model.
        counts: [N], number of training interactions of each item.
    """

    histories: list[np.ndarray]
    counts: np.ndarray


def read_history(train, valid, test, users: np.ndarray) -> History:
    """Read histories and counts from RecBole's three datasets after the split.

    Rows of a sequential model are prefixes: an interaction with the items before it. Rows of benchmark files contain their
    histories, cut to the length in the file and the history length of the model. Counts are those of :func:`interactions_of`.

    Args:
        train, valid, test: datasets of the data loaders; ``valid`` as :func:`all_rows` returns it, ``test`` in the order of the
            evaluation.
        users: [R], the user of each evaluated row.
    """
    counts = np.bincount(interactions_of(train)[1], minlength=train.item_num)
    if not has_histories(train):
        return History(_of_interactions(train, valid, users), counts)
    rows = [_columns(part) for part in (train, valid, test)]
    histories = _of_benchmark_rows(rows[2]) if train.config["benchmark_filename"] else _of_prefixes(rows)
    if len(histories) != len(users):  # with sampled negatives RecBole ranks the rows of a user together
        first = dict(zip(rows[2]["users"][::-1].tolist(), histories[::-1]))
        histories = [first[user] for user in users.tolist()]
    return History(histories, counts)


def all_rows(loader):
    """The dataset of an evaluation loader, including the rows that the option ``valid_users`` excludes from the evaluation."""
    return getattr(loader, "whole_dataset", loader._dataset)  # loaders saved by older versions have none


def _columns(part) -> dict[str, np.ndarray]:
    """Users, items, times, history lengths and histories of the rows of a part; all times are 0 if there is no time column."""
    feat = part.inter_feat
    users = feat[part.uid_field].numpy()
    columns = {"users": users, "items": feat[part.iid_field].numpy()}
    columns["times"] = feat[part.time_field].numpy() if part.time_field in feat else np.zeros(len(users))
    if has_histories(part):
        columns["lengths"] = feat[part.config["ITEM_LIST_LENGTH_FIELD"]].numpy()
        columns["lists"] = feat[history_column(part.config)].numpy()
    return columns


def _joined(rows: list[dict[str, np.ndarray]], name: str) -> np.ndarray:
    return np.concatenate([columns[name] for columns in rows])


def _of_interactions(train, valid, users: np.ndarray) -> list[np.ndarray]:
    """For models without histories: the interactions of training and validation precede those of the test."""
    rows = [_columns(train), _columns(valid)]
    owners, items = _joined(rows, "users"), _joined(rows, "items")
    order = np.lexsort((_joined(rows, "times"), owners))
    owners, items = owners[order], items[order]
    low, high = np.searchsorted(owners, users), np.searchsorted(owners, users, side="right")
    return [items[a:b] for a, b in zip(low, high)]


def _of_prefixes(rows: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
    users, items, lengths = (_joined(rows, name) for name in ("users", "items", "lengths"))
    order = np.lexsort((lengths, users))  # stable: RecBole splits sequences in the order of time alone
    starts = np.flatnonzero(np.diff(users[order], prepend=-1))
    firsts = np.concatenate([columns["lists"][:, 0] for columns in rows])[order[starts]]
    _, user_index, sizes = np.unique(users, return_inverse=True, return_counts=True)
    sequences = [np.append(first, own) for first, own in zip(firsts, np.split(items[order], starts[1:]))]
    place = np.empty(len(users), dtype=np.int64)
    place[order] = np.arange(len(users)) - np.repeat(starts, sizes) + 1  # of the target in its user's sequence
    tested = slice(len(users) - len(rows[2]["users"]), None)
    return [sequences[user][:end] for user, end in zip(user_index[tested], place[tested])]


def _of_benchmark_rows(test: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [items[:length] for items, length in zip(test["lists"], test["lengths"])]
