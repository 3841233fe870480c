"""What users interacted with before each test row, and how often items were trained on: read from the parts of the data that
RecBole made, so that it holds under every split.

Shapes: R test rows (what RecBole's metrics average over: an interaction of a sequential model, a user of any other), N items with
padding.
"""
from typing import NamedTuple

import numpy as np


class History(NamedTuple):
    """Of the test rows of one run.

    Attributes:
        histories: R arrays, the items before the row's targets, oldest first, not cut to the length a model sees.
        counts: [N], how often an item occurs in the training part.
    """

    histories: list[np.ndarray]
    counts: np.ndarray


def read_history(train, valid, test, users: np.ndarray) -> History:
    """Histories and counts from RecBole's three datasets, once they are split.

    A sequential model is trained on prefixes: each row is an interaction with the items before it. Its training part are the
    interactions of the training rows, and the first one of each of their users, which no row is about. Rows of benchmark files
    bring their histories with them, as long as the files have them and the model sees them; each user and item counts once there.

    Args:
        train, valid, test: ``_dataset`` of the data loaders; the order of the rows of ``test`` is that of the evaluation.
        users: [R], of each evaluated row.
    """
    config = train.config
    if config["ITEM_LIST_LENGTH_FIELD"] not in train.inter_feat:
        return _of_interactions(train, valid, users)
    rows = [_columns(part) for part in (train, valid, test)]
    read = _of_benchmark_rows if config["benchmark_filename"] else _of_prefixes
    histories, counts = read(rows, train.item_num)
    if len(histories) != len(users):  # RecBole ranks a user's rows together against sampled negatives
        first = dict(zip(rows[2]["users"][::-1].tolist(), histories[::-1]))
        histories = [first[user] for user in users.tolist()]
    return History(histories, counts)


def _columns(part) -> dict[str, np.ndarray]:
    """Users, items, times, lengths and lists of the rows of a part; equal times where there are none."""
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
    """Interactions as they are: those of training and validation come before the test's."""
    rows = [_columns(train), _columns(valid)]
    owners, items = _joined(rows, "users"), _joined(rows, "items")
    order = np.lexsort((_joined(rows, "times"), owners))
    owners, items = owners[order], items[order]
    low, high = np.searchsorted(owners, users), np.searchsorted(owners, users, side="right")
    return History([items[a:b] for a, b in zip(low, high)], np.bincount(rows[0]["items"], minlength=train.item_num))


def _of_prefixes(rows: list[dict[str, np.ndarray]], item_num: int) -> History:
    users, items, lengths = (_joined(rows, name) for name in ("users", "items", "lengths"))
    order = np.lexsort((lengths, users))  # stable: RecBole splits sequences in the order of time alone
    begins = np.flatnonzero(np.diff(users[order], prepend=-1))
    firsts = np.concatenate([columns["lists"][:, 0] for columns in rows])[order[begins]]
    owners, which, sizes = np.unique(users, return_inverse=True, return_counts=True)
    sequences = [np.append(first, own) for first, own in zip(firsts, np.split(items[order], begins[1:]))]
    place = np.empty(len(users), dtype=np.int64)
    place[order] = np.arange(len(users)) - np.repeat(begins, sizes) + 1  # of the target in its user's sequence
    tested = slice(len(users) - len(rows[2]["users"]), None)
    histories = [sequences[user][:end] for user, end in zip(which[tested], place[tested])]
    trained = np.isin(owners, rows[0]["users"])
    return History(histories, np.bincount(np.append(rows[0]["items"], firsts[trained]), minlength=item_num))


def _of_benchmark_rows(rows: list[dict[str, np.ndarray]], item_num: int) -> History:
    train, _, test = rows
    histories = [items[:length] for items, length in zip(test["lists"], test["lengths"])]
    items = np.concatenate([train["items"][:, None], train["lists"]], axis=1)
    pairs = np.stack([np.broadcast_to(train["users"][:, None], items.shape), items])[:, items > 0]
    return History(histories, np.bincount(np.unique(pairs, axis=1)[1], minlength=item_num))
