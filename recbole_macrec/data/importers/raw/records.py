"""Item records kept on disk until it is known which items stay."""
from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


class Record(NamedTuple):
    """What becomes of one item: its texts, one for each text column, and its images."""

    item: str
    texts: list[str]
    images: list[str]  # URLs, or the one path of a local file


class Records:
    """Records written in any order and read in any other; only the place of each is in memory.

    The file has no name, so nothing is left of it after a kill; it lies on the disk of ``folder``, which has to have room
    for the data set anyway.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)
        self._places: dict[str, int] = {}

    def put(self, record: Record) -> None:
        """Keep a record; a later one of the same item takes its place."""
        self._places[record.item] = self._file.seek(0, 2)
        self._file.write(json.dumps(record).encode() + b"\n")

    def read(self, items: Iterable[str]) -> Iterator[Record]:
        """Yield the records of ``items`` in their order."""
        for item in items:
            self._file.seek(self._places[item])
            yield Record(*json.loads(self._file.readline()))

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()
