"""The SHA-256 of a file, read piece by piece."""
from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

PIECE = 2**20  # bytes


def sha256_of(path: Path, advance: Callable[[int], object] = lambda count: None) -> str:
    """Return the hexadecimal digest; ``advance`` is told how many bytes of each piece have been read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            advance(len(piece))
    return digest.hexdigest()
