"""Rankings and scores of a model for the rows of a split, stored in the folder of its run for later fusions.

Shapes: R rows, C candidates of a row, P scored pairs of a row and an item, N items including the padding.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from recbole_macrec.benchmark.compare.run_files import load_arrays, save_arrays


class ScoreFile:
    """The best items of every row and the scores of items, computed once and then read from ``path``.

    Args:
        path: the file; written again after each computation.
        digest: identity of the checkpoint and the rows. A file with another digest is ignored and replaced.
        n_items: N.

    Attributes:
        seconds: seconds that the results of the last calls took when they were computed.
    """

    def __init__(self, path: Path, digest: str, n_items: int):
        self.path, self.digest, self.n_items = path, digest, n_items
        self._best = np.zeros((0, 0), dtype=np.int64)
        self._top, self._keys, self._scores = 0, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        self._seconds = np.zeros(2)  # of all rankings and of all scores
        self._requested = [0.0, 0.0]
        if path.is_file():
            arrays = load_arrays(path, "delete it and fuse again")
            if str(arrays["digest"]) == digest:
                self._best, self._top = arrays["best"].astype(np.int64), int(arrays["top"])
                self._keys, self._scores, self._seconds = arrays["keys"], arrays["scores"], arrays["seconds"]

    @property
    def seconds(self) -> float:
        return sum(self._requested)

    def best(self, top: int, compute: Callable[[], tuple[np.ndarray, float]]) -> np.ndarray:
        """The ``top`` best items of every row, int64 [R, top]; ``compute`` returns them and its seconds.

        A longer list is not cut: ``top`` is also the number of beams, and fewer beams may find other items.
        """
        if self._top != top:
            self._best, self._seconds[0] = compute()
            self._top = top
            self._save()
        self._requested[0] = float(self._seconds[0])
        return self._best.copy()

    def scores(self, items: np.ndarray, compute: Callable[[np.ndarray], tuple[np.ndarray, float]]) -> np.ndarray:
        """The scores of ``items`` [R, C]; float32 [R, C], -inf for the padding 0.

        Args:
            compute: called with the items [R, C'] whose scores are unknown, padded with 0; returns their scores and its
                seconds.
        """
        keys = np.arange(len(items))[:, None] * self.n_items + items
        unknown = (items > 0) & ~np.isin(keys, self._keys)
        if unknown.any():
            missing = np.where(unknown, items, 0)
            order = np.argsort(~unknown, axis=1, kind="stable")[:, : unknown.sum(1).max()]  # unknown items first
            missing = np.take_along_axis(missing, order, axis=1)
            scores, seconds = compute(missing)
            present = missing > 0
            new_keys = (np.arange(len(items))[:, None] * self.n_items + missing)[present]
            keys_all = np.concatenate([self._keys, new_keys])
            ascending = np.argsort(keys_all)
            self._keys = keys_all[ascending]
            self._scores = np.concatenate([self._scores, scores[present].astype(np.float32)])[ascending]
            self._seconds[1] += seconds
            self._save()
        self._requested[1] = float(self._seconds[1]) * np.count_nonzero(items) / max(1, len(self._keys))
        found = np.full(items.shape, -np.inf, dtype=np.float32)
        found[items > 0] = self._scores[np.searchsorted(self._keys, keys[items > 0])]
        return found

    def _save(self) -> None:
        save_arrays(self.path, {
            "digest": np.array(self.digest), "best": self._best.astype(np.int32), "top": np.array(self._top),
            "keys": self._keys, "scores": self._scores, "seconds": self._seconds,
        })  # fmt: skip
