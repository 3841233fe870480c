"""Training data for one pass per user: windows of users' sequences instead of one sample per target.

Shapes: n samples, H items of the longest history.
"""
from typing import NamedTuple

import numpy as np
import torch
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction

from recbole_macrec.data.interactions import history_column
from recbole_macrec.model.windowed import FIRST_TARGET


class Window(NamedTuple):
    """Items of a user in time order; those from index ``first`` on are targets."""

    user: int
    items: np.ndarray  # int64 [at most H + 1]
    first: int


class WindowLoader(TrainDataLoader):
    """Batches of windows that contain each target of another loader's samples exactly once.

    ``train_batch_size`` is a number of windows. A user has one window, or several with more than H + 1 items.

    Args:
        samples: RecBole's loader of training samples, each with a history and a target.
    """

    def __init__(self, samples: TrainDataLoader):
        dataset = samples.dataset
        self.histories = history_column(samples.config)
        self.lengths = dataset.item_list_length_field
        columns = (dataset.uid_field, self.histories, self.lengths, dataset.iid_field)
        self.windows = windows_of(*(dataset.inter_feat[column].numpy() for column in columns))
        super().__init__(samples.config, dataset, samples._sampler, shuffle=samples.config["shuffle"])

    def _init_batch_size_and_step(self) -> None:
        self.sample_size = len(self.windows)
        super()._init_batch_size_and_step()

    def collate_fn(self, index: list[int]) -> Interaction:
        windows = [self.windows[i] for i in index]
        items = torch.zeros(len(windows), max(len(window.items) for window in windows), dtype=torch.long)
        for row, window in zip(items, windows):
            row[: len(window.items)] = torch.from_numpy(window.items)
        return Interaction({
            self.uid_field: torch.tensor([window.user for window in windows]),
            self.histories: items,
            self.lengths: torch.tensor([len(window.items) for window in windows]),
            FIRST_TARGET: torch.tensor([window.first for window in windows]),
        })


def windows_of(users: np.ndarray, histories: np.ndarray, lengths: np.ndarray, targets: np.ndarray) -> list[Window]:
    """Join the samples of a user into sequences, and cut them into windows.

    A sample continues a sequence if its history is that of the user's previous sample followed by its target. Samples of other
    users may lie between them, as with ``group_by: none``. A window has at most H + 1 items. The windows of a longer sequence
    overlap by about half of that; each target is in exactly one of them.

    Args:
        users: int [n].
        histories: int [n, H], padded with 0 on the right.
        lengths: int [n].
        targets: int [n].
    """
    _, first_row, user = np.unique(users, return_index=True, return_inverse=True)
    order = first_row[user].argsort(kind="stable")  # users in the order of their first samples
    users, histories, lengths, targets = users[order], histories[order], lengths[order], targets[order]
    longest = histories.shape[1]
    extended = np.pad(histories, ((0, 0), (0, 1)))  # the histories with their targets
    extended[np.arange(len(extended)), lengths] = targets
    full = (lengths == longest)[:, None]
    next_history = np.where(full, extended[:, 1:], extended[:, :-1])
    follows = (users[1:] == users[:-1]) & (next_history[:-1] == histories[1:]).all(1)
    starts = np.flatnonzero(np.append(True, ~follows)) if len(users) else np.zeros(0, dtype=int)
    windows = []
    for start, end in zip(starts, np.append(starts[1:], len(users))):
        known = int(lengths[start])
        items = np.concatenate([histories[start, :known], targets[start:end]])
        windows += [Window(int(users[start]), items[a:b], first) for a, b, first in cuts(len(items), known, longest)]
    return windows


def cuts(items: int, known: int, longest: int) -> list[tuple[int, int, int]]:
    """Cut a sequence into windows of at most ``longest`` + 1 items.

    Args:
        items: number of items of the sequence.
        known: number of its first items that are not targets.
        longest: length of the longest history.

    Returns:
        (start, stop, first) of each window; ``first`` is relative to ``start``. For 7 items, known = 1 and longest = 4:
        (0, 5, 1), (2, 7, 3).
    """
    windows, next_target = [], known
    stop = min(items, longest + 1)
    while next_target < items:
        start = max(0, stop - longest - 1)
        windows.append((start, stop, next_target - start))
        next_target, stop = stop, min(items, stop + max(1, longest // 2))
    return windows
