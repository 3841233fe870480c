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

LONGEST = 2**24  # bytes; no record of a catalogue is longer, a file without line breaks is
SHOWN_FROM = 2**22  # bytes
UNPACKED, RATIO = 2**30, 100  # an archive that unpacks to more bytes, and to more than so many times its own, is a bomb
_T = TypeVar("_T")


@dataclass
class Tally:
    """How many lines a file has, and how many of them could not be read."""

    lines: int = 0
    broken: int = 0
    first_broken: int = 0  # line number from 1


def parse_lines(path: Path, parse: Callable[[bytes], _T], tally: Tally) -> Iterator[_T]:
    """Yield ``parse(line)`` of every line that is not blank; a line that ``parse`` cannot read counts as broken.

    UserError if the file is missing, truncated, empty, or if more than half of its lines are broken.
    """
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        tally.lines += 1
        try:
            if len(line) > LONGEST:
                raise ValueError("too long")
            parsed = parse(line)
        except (ValueError, TypeError, OverflowError, RecursionError):
            tally.broken += 1
            tally.first_broken = tally.first_broken or number
            continue
        yield parsed
    if not tally.lines:
        raise UserError(f"{path} is empty; fetch it again")
    if tally.broken * 2 > tally.lines:
        raise UserError(f"{path} has {tally.broken} broken lines of {tally.lines} (the first is line {tally.first_broken}); "
                        "it is damaged or of another format, fetch it again")


def progress(path: Path, verb: str) -> tqdm:
    """Return a bar over the bytes of a file with their rate; shown on terminals, for files that take a while."""
    size = path.stat().st_size
    return tqdm(total=size, desc=f"{verb} {path.name}", unit="B", unit_scale=True, unit_divisor=1024,
                disable=None if size >= SHOWN_FROM else True)


def _lines(path: Path) -> Iterator[bytes]:
    """Yield lines; of one beyond LONGEST, only LONGEST + 1 bytes. UserError for decompression bombs."""
    try:
        with path.open("rb") as raw, progress(path, "reading") as bar:
            file = io.BufferedReader(gzip.GzipFile(fileobj=raw), 2**20) if path.suffix == ".gz" else raw

            def piece() -> bytes:
                if file.tell() > max(UNPACKED, RATIO * raw.tell()):
                    raise UserError(f"{path} unpacks to more than {RATIO} times its size, as no catalogue does; fetch it again")
                return file.readline(LONGEST + 1)

            while line := piece():
                rest = line
                while len(rest) > LONGEST and not rest.endswith(b"\n"):
                    rest = piece()
                bar.update(raw.tell() - bar.n)
                yield line
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is no whole gzip file ({error}); fetch it again") from error
