"""Encode a catalogue shard by shard, so that a killed run can resume and several processes can share the work.

Shapes: n items, d feature dimensions.
"""
from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from recbole_macrec.data.encoders import RawItem
from recbole_macrec.data.encoders.pretrained import PretrainedEncoder
from recbole_macrec.data.features import format_items
from recbole_macrec.errors import UserError
from recbole_macrec.utils.distributed import Group
from recbole_macrec.utils.files import atomic_write

SHARD_ITEMS = 1024


class Shards:
    """Feature files of ``SHARD_ITEMS`` items each, ``FOLDER/<hash>/NNNNN.npy``.

    The hash covers everything that the features depend on, so shards of different settings are never mixed. A shard depends
    only on its own items, so any process may encode it. Shards are float16 for models in bf16 or fp16, and float32 for models
    in fp32, because float16 would change features by up to 5e-4 of their value.
    """

    def __init__(self, folder: Path, identity: dict, encoder: PretrainedEncoder, items: Sequence[RawItem]) -> None:
        key = json.dumps([identity, encoder.shard_settings, SHARD_ITEMS], sort_keys=True)
        self._root, self._encoder, self._items = folder, encoder, items
        self._folder = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
        self._dtype = np.float32 if encoder.dtype == torch.float32 else np.float16
        self._starts = range(0, len(items), SHARD_ITEMS)

    def encode(self, processes: Group, show_progress: bool) -> None:
        """Encode this process's shards that are not on disk; UserError naming items that cannot be encoded."""
        own = range(processes.rank, len(self._starts), processes.size)
        finished = {shard for shard in own if self._read(shard) is not None}
        title = f"{self._encoder.kind} features" + (f" (process 1 of {processes.size})" if processes.size > 1 else "")
        with tqdm(
            total=sum(len(self._items_of(shard)) for shard in own),
            initial=sum(len(self._items_of(shard)) for shard in finished),
            desc=title,
            unit="items",
            disable=not (show_progress and processes.first),
        ) as bar:
            for shard in own:
                if shard not in finished:
                    self._write(shard, self._encoder.encode(self._items_of(shard), bar.update))

    def join(self) -> np.ndarray:
        """Return the features of all items, a memory-mapped float32 [n, d]; UserError if a shard is missing."""
        shards = [self._read(shard) for shard in range(len(self._starts))]
        missing = [f"{shard:05d}" for shard, matrix in enumerate(shards) if matrix is None]
        if missing:
            raise UserError(
                f"{self._folder} lacks {format_items(missing, 'shard')}; all processes must use the same folder: set "
                "the same --data_path, on a shared disk, for each"
            )
        found = [matrix for matrix in shards if matrix is not None]
        shape = (len(self._items), found[0].shape[1])
        joined = np.lib.format.open_memmap(self._folder / "joined", mode="w+", dtype=np.float32, shape=shape)
        for start, matrix in zip(self._starts, found):
            joined[start : start + len(matrix)] = matrix
        return joined

    def remove(self) -> None:
        """Remove all shards, also unfinished ones of other settings."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _items_of(self, shard: int) -> Sequence[RawItem]:
        return self._items[self._starts[shard] : self._starts[shard] + SHARD_ITEMS]

    def _path(self, shard: int) -> Path:
        return self._folder / f"{shard:05d}.npy"

    def _read(self, shard: int) -> np.ndarray | None:
        """Return a finished shard as a memory map, or None if it is missing or incomplete."""
        try:
            matrix = np.load(self._path(shard), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return matrix if len(matrix) == len(self._items_of(shard)) else None

    def _write(self, shard: int, matrix: np.ndarray) -> None:
        with np.errstate(over="ignore"):  # a value too large for float16 becomes inf and is reported below
            matrix = matrix.astype(self._dtype)
        bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        if len(bad):
            tokens = [self._items_of(shard)[row].token for row in bad.tolist()]
            raise UserError(
                f"{self._encoder.source.model} gives NaN or infinite features for {format_items(tokens, 'item')}; set "
                "precision: fp32 (or bf16 instead of fp16) for this encoder"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._path(shard)) as path, path.open("wb") as file:
            np.save(file, matrix)
