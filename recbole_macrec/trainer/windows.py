"""Training data of one pass per user: windows over users' sequences in place of one sample for every target.

Shapes: n samples, H items of the longest history.
"""
from typing import NamedTuple

import numpy as np
import torch
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction

from recbole_macrec.model.windowed import FIRST_TARGET


class Window(NamedTuple):
    """Items in time order, of which those from place ``first`` on are targets."""

    user: int
    items: np.ndarray  # int64 [at most H + 1]
    first: int


class WindowLoader(TrainDataLoader):
    """Batches of windows that hold the targets of another loader's samples, each exactly once.

    ``train_batch_size`` counts windows: users, those with more than H + 1 items more than once.

    Args:
        samples: RecBole's loader of training samples, a history and a target each.
    """

    def __init__(self, samples: TrainDataLoader):
        dataset = samples.dataset
        self.histories, self.lengths = dataset.item_id_list_field, dataset.item_list_length_field
        columns = (dataset.uid_field, self.histories, self.lengths, dataset.iid_field)
        self.windows = windows_of(*(dataset.inter_feat[column].numpy() for column in columns))
        super().__init__(samples.config, dataset, samples._sampler, shuffle=samples.config["shuffle"])

    def _init_batch_size_and_step(self) -> None:
        self.sample_size = len(self.windows)
        super()._init_batch_size_and_step()

    def collate_fn(self, index: list[int]) -> Interaction:
        chosen = [self.windows[i] for i in index]
        items = torch.zeros(len(chosen), max(len(window.items) for window in chosen), dtype=torch.long)
        for row, window in zip(items, chosen):
            row[: len(window.items)] = torch.from_numpy(window.items)
        return Interaction({
            self.uid_field: torch.tensor([window.user for window in chosen]),
            self.histories: items,
            self.lengths: torch.tensor([len(window.items) for window in chosen]),
            FIRST_TARGET: torch.tensor([window.first for window in chosen]),
        })


def windows_of(users: np.ndarray, histories: np.ndarray, lengths: np.ndarray, targets: np.ndarray) -> list[Window]:
    """Join samples whose history is that of the sample before and its target, and cut what is too long.

    A window holds at most H + 1 items. The windows of a longer sequence overlap by about half of that, and each target is
    in exactly one of them.

    Args:
        users: int [n].
        histories: int [n, H], 0 behind a history.
        lengths: int [n].
        targets: int [n].
    """
    most = histories.shape[1]
    grown = np.pad(histories, ((0, 0), (0, 1)))  # the histories with their targets
    grown[np.arange(len(grown)), lengths] = targets
    full = (lengths == most)[:, None]
    next_history = np.where(full, grown[:, 1:], grown[:, :-1])
    follows = (users[1:] == users[:-1]) & (next_history[:-1] == histories[1:]).all(1)
    begins = np.flatnonzero(np.append(True, ~follows)) if len(users) else np.zeros(0, dtype=int)
    windows = []
    for begin, end in zip(begins, np.append(begins[1:], len(users))):
        known = int(lengths[begin])
        items = np.concatenate([histories[begin, :known], targets[begin:end]])
        windows += [Window(int(users[begin]), items[start:stop], first) for start, stop, first in cuts(len(items), known, most)]
    return windows


def cuts(items: int, known: int, most: int) -> list[tuple[int, int, int]]:
    """How to cut a sequence of ``items``, whose first ``known`` are no targets, into windows of at most ``most`` + 1.

    Returns:
        (start, stop, first) of each window; ``first`` counts from its start. For 7 items, 1 known and most = 4:
        (0, 5, 1), (2, 7, 3).
    """
    windows, done = [], known
    stop = min(items, most + 1)
    while done < items:
        start = max(0, stop - most - 1)
        windows.append((start, stop, done - start))
        done, stop = stop, min(items, stop + max(1, most // 2))
    return windows
