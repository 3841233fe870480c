"""Read large line-based files, plain or gzip, one line in memory at a time, with a progress bar of the bytes read."""
from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from recbole_macrec.errors import UserError

LONGEST = 2**24  # bytes in a line; no record of a catalogue is longer, but a file without line breaks is
SHOWN_FROM = 2**22  # bytes of the smallest file with a progress bar
# an archive that unpacks to more bytes and to more than RATIO times its size is a decompression bomb
UNPACKED, RATIO = 2**30, 100
_T = TypeVar("_T")


@dataclass
class LineCounts:
    """Counts of the lines of a file: all that are not blank, and those that could not be parsed."""

    lines: int = 0
    broken: int = 0
    first_broken: int = 0  # line number, from 1; 0 if none is broken


def parse_lines(path: Path, parse: Callable[[bytes], _T], counts: LineCounts) -> Iterator[_T]:
    """Yield ``parse(line)`` for every line that is not blank; count lines, and those that ``parse`` rejects, in ``counts``.

    Raises:
        UserError: if the file is missing, truncated or empty, or if more than half of its lines are broken.
    """
    for number, line in enumerate(_lines(path), 1):
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not line.strip():
            continue
        counts.lines += 1
        try:
            if len(line) > LONGEST:
                raise ValueError("too long")
            parsed = parse(line)
        except (ValueError, TypeError, OverflowError, RecursionError):
            counts.broken += 1
            counts.first_broken = counts.first_broken or number
            continue
        yield parsed
    if not counts.lines:
        raise UserError(f"{path} is empty; download it again")
    if counts.broken * 2 > counts.lines:
        raise UserError(f"{path} has {counts.broken} broken lines of {counts.lines} (the first is line {counts.first_broken}); "
                        "it is damaged or of another format; download it again")


def progress(path: Path, verb: str) -> tqdm:
    """Return a progress bar over the bytes of a file; shown on terminals, for files from SHOWN_FROM bytes."""
    size = path.stat().st_size
    return tqdm(total=size, desc=f"{verb} {path.name}", unit="B", unit_scale=True, unit_divisor=1024,
                disable=None if size >= SHOWN_FROM else True)


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file; only LONGEST + 1 bytes of a longer line. UserError for decompression bombs."""
    try:
        with path.open("rb") as raw, progress(path, "reading") as bar:
            file = io.BufferedReader(gzip.GzipFile(fileobj=raw), 2**20) if path.suffix == ".gz" else raw

            def read_up_to_longest() -> bytes:
                if file.tell() > max(UNPACKED, RATIO * raw.tell()):
                    raise UserError(
                        f"{path} unpacks to more than {RATIO} times its size, which no catalogue does; download it again"
                    )
                return file.readline(LONGEST + 1)

            while line := read_up_to_longest():
                rest = line
                while len(rest) > LONGEST and not rest.endswith(b"\n"):
                    rest = read_up_to_longest()
                bar.update(raw.tell() - bar.n)
                yield line
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is not a complete gzip file ({error}); download it again") from error
