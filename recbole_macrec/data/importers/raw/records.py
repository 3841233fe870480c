"""Store item records on disk until the filtering has decided which items are kept."""
from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


class Record(NamedTuple):
    """One item: its texts, one per text column, and its images."""

    item: str
    texts: list[str]
    images: list[str]  # URLs, or the path of one local file


class Records:
    """Records in a temporary file, written and read in any order; only their positions are in memory.

    The file has no name, so nothing remains if the process is killed. It is on the disk of ``folder``, which needs room for the
    dataset anyway.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)
        self._positions: dict[str, int] = {}

    def put(self, record: Record) -> None:
        """Store a record; it replaces an earlier one of the same item."""
        self._positions[record.item] = self._file.seek(0, 2)
        self._file.write(json.dumps(record).encode() + b"\n")

    def read(self, items: Iterable[str]) -> Iterator[Record]:
        """Yield the records of ``items`` in their order."""
        for item in items:
            self._file.seek(self._positions[item])
            yield Record(*json.loads(self._file.readline()))

    def close(self) -> None:
        """Free the disk space."""
        self._file.close()
