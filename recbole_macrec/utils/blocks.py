"""Read matrices that may not fit into memory, block by block."""
from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Protocol, TypeVar

import numpy as np

BLOCK = 2**16  # rows read at once


Block = TypeVar("Block", covariant=True)


class Rows(Protocol[Block]):
    """A matrix that can be read by a slice of rows: an array, a memory map, selected rows of one, or a tensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> Block: ...


def blocks(x: Rows[Block]) -> Iterator[Block]:
    """Yield the rows of ``x``, ``BLOCK`` at a time."""
    for begin in range(0, len(x), BLOCK):
        yield x[begin : begin + BLOCK]
        release_pages(x)


def release_pages(x: object) -> None:
    """Free the memory of pages read from a read-only memory map; do nothing for other matrices.

    Without this, reading all rows would load the whole file into the memory of the process. The pages stay in the file cache
    of the operating system.
    """
    pages = getattr(x, "_mmap", None)
    if pages is not None and getattr(x, "mode", None) == "r" and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


def non_finite_rows(x: Rows[np.ndarray]) -> np.ndarray:
    """Return the indices of rows that contain NaN or inf, int64. ``x`` needs at least one row."""
    return np.flatnonzero(np.concatenate([~np.isfinite(block).all(axis=1) for block in blocks(x)]))
