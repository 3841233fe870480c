"""The same files for all processes that train together, also where their machines share no folder."""
from __future__ import annotations

import socket
from pathlib import Path

from recbole_macrec.errors import UserError
from recbole_macrec.utils.distributed import current
from recbole_macrec.utils.files import sha256_of, whole_file

BLOCK = 2**26  # bytes sent at once


def same_files(folder: Path, *patterns: str) -> None:
    """Give every process the files of ``folder`` that match ``patterns``: those of the first process.

    A process whose folder lacks one receives it. With one process nothing is done.

    Raises:
        UserError: in every process, when one has a file with other content, or one that the first process has not.
    """
    group = current()
    if group.size == 1:
        return
    found = {path.name: path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()}
    everywhere = group.gather((socket.gethostname(), {name: sha256_of(path) for name, path in found.items()}))
    (first_host, expected), *others = everywhere
    for host, checksums in others:
        for name, checksum in checksums.items():
            if expected.get(name) != checksum:
                what = "differs from the one" if name in expected else "has no counterpart"
                raise UserError(f"{folder / name} on {host} {what} of the first process on {first_host}; copy the folder from there, or "
                                f"remove the file on {host}, which then receives it.")
    for name in expected:
        if any(name not in checksums for _, checksums in others):
            _send(folder / name, lacks=name not in found)


def _send(path: Path, lacks: bool) -> None:
    """Send ``path`` of the first process to all others; those that lack it write it."""
    group = current()
    if group.first:
        with path.open("rb") as file:
            while block := group.share(file.read(BLOCK)):
                pass
    elif lacks:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as fresh, fresh.open("wb") as file:
            while block := group.share():
                file.write(block)
    else:
        while group.share():
            pass
