"""Histories of the test rows, and the number of training interactions of each item, from the datasets that RecBole has split:
valid for every split.

Shapes: R test rows (RecBole's metrics average over rows: interactions for a sequential model, users for any other), N items
with padding.
"""
from typing import NamedTuple

import numpy as np


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

    Rows of a sequential model are prefixes: an interaction with the items before it. The training interactions are the targets
    of the training rows and, for each of their users, the first interaction, which is never a target. Rows of benchmark files
    contain their histories, cut to the length in the file and the history length of the model; each pair of user and item
    counts once.

    Args:
        train, valid, test: datasets of the data loaders; ``valid`` as :func:`all_rows` returns it, ``test`` in the order of the
            evaluation.
        users: [R], the user of each evaluated row.
    """
    config = train.config
    if config["ITEM_LIST_LENGTH_FIELD"] not in train.inter_feat:
        return _of_interactions(train, valid, users)
    rows = [_columns(part) for part in (train, valid, test)]
    read = _of_benchmark_rows if config["benchmark_filename"] else _of_prefixes
    histories, counts = read(rows, train.item_num)
    if len(histories) != len(users):  # with sampled negatives RecBole ranks the rows of a user together
        first = dict(zip(rows[2]["users"][::-1].tolist(), histories[::-1]))
        histories = [first[user] for user in users.tolist()]
    return History(histories, counts)


def all_rows(loader):
    """The dataset of an evaluation loader, including the rows that the option ``valid_users`` excludes from the evaluation."""
    return getattr(loader, "whole_dataset", loader._dataset)  # loaders saved by older versions have none


def _columns(part) -> dict[str, np.ndarray]:
    """Users, items, times, history lengths and histories of the rows of a part; all times are 0 if there is no time column."""
    config, feat = part.config, part.inter_feat
    users = feat[part.uid_field].numpy()
    columns = {"users": users, "items": feat[part.iid_field].numpy()}
    columns["times"] = feat[part.time_field].numpy() if part.time_field in feat else np.zeros(len(users))
    if config["ITEM_LIST_LENGTH_FIELD"] in feat:
        columns["lengths"] = feat[config["ITEM_LIST_LENGTH_FIELD"]].numpy()
        columns["lists"] = feat[part.iid_field + config["LIST_SUFFIX"]].numpy()
    return columns


def _joined(rows: list[dict[str, np.ndarray]], name: str) -> np.ndarray:
    return np.concatenate([columns[name] for columns in rows])


def _of_interactions(train, valid, users: np.ndarray) -> History:
    """For models without histories: the interactions of training and validation precede those of the test."""
    rows = [_columns(train), _columns(valid)]
    owners, items = _joined(rows, "users"), _joined(rows, "items")
    order = np.lexsort((_joined(rows, "times"), owners))
    owners, items = owners[order], items[order]
    low, high = np.searchsorted(owners, users), np.searchsorted(owners, users, side="right")
    return History([items[a:b] for a, b in zip(low, high)], np.bincount(rows[0]["items"], minlength=train.item_num))


def _of_prefixes(rows: list[dict[str, np.ndarray]], item_num: int) -> History:
    users, items, lengths = (_joined(rows, name) for name in ("users", "items", "lengths"))
    order = np.lexsort((lengths, users))  # stable: RecBole splits sequences in the order of time alone
    starts = np.flatnonzero(np.diff(users[order], prepend=-1))
    firsts = np.concatenate([columns["lists"][:, 0] for columns in rows])[order[starts]]
    owners, user_index, sizes = np.unique(users, return_inverse=True, return_counts=True)
    sequences = [np.append(first, own) for first, own in zip(firsts, np.split(items[order], starts[1:]))]
    place = np.empty(len(users), dtype=np.int64)
    place[order] = np.arange(len(users)) - np.repeat(starts, sizes) + 1  # of the target in its user's sequence
    tested = slice(len(users) - len(rows[2]["users"]), None)
    histories = [sequences[user][:end] for user, end in zip(user_index[tested], place[tested])]
    trained = np.isin(owners, rows[0]["users"])
    return History(histories, np.bincount(np.append(rows[0]["items"], firsts[trained]), minlength=item_num))


def _of_benchmark_rows(rows: list[dict[str, np.ndarray]], item_num: int) -> History:
    train, _, test = rows
    histories = [items[:length] for items, length in zip(test["lists"], test["lengths"])]
    items = np.concatenate([train["items"][:, None], train["lists"]], axis=1)
    pairs = np.stack([np.broadcast_to(train["users"][:, None], items.shape), items])[:, items > 0]
    return History(histories, np.bincount(np.unique(pairs, axis=1)[1], minlength=item_num))
