"""The rows of a dataset that RecBole has split.

A row of a sequential dataset is a prefix: an interaction, and the items before it as history.

Shapes: R rows, T items of the longest history, E interactions.
"""
import numpy as np


def history_column(config) -> str:
    """Name of the column of histories in a sequential dataset and its batches, such as ``item_id_list``.

    Args:
        config: RecBole's Config or a dictionary of its options.
    """
    return config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]


def has_histories(part) -> bool:
    """Whether the rows of a part of a dataset have histories, and their lengths."""
    return part.config["ITEM_LIST_LENGTH_FIELD"] in part.inter_feat


def interactions_of(part) -> tuple[np.ndarray, np.ndarray]:
    """Users and items of the interactions of a part of a dataset, int64 [E] each; for the training part all of them.

    A user's first interaction has no row of its own: it is the history of the earliest row. Benchmark files need no row for
    every prefix, so that with them each pair of user and item counts once, wherever it occurs.
    """
    rows, config = part.inter_feat, part.config
    users, items = rows[part.uid_field].numpy(), rows[part.iid_field].numpy()  # [R]
    if not has_histories(part):
        return users, items
    histories = rows[history_column(config)].numpy()  # [R, T]
    if config["benchmark_filename"]:
        items = np.column_stack([items, histories])
        pairs = np.stack([np.broadcast_to(users[:, None], items.shape), items])[:, items > 0]
        users, items = np.unique(pairs, axis=1)
        return users, items
    _, first = np.unique(users, return_index=True)
    first = first[rows[config["ITEM_LIST_LENGTH_FIELD"]].numpy()[first] == 1]
    return np.append(users, users[first]), np.append(items, histories[first, 0])
