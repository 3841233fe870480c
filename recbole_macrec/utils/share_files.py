"""Give all processes that train together the same files, even if their machines share no folder."""
from __future__ import annotations

import socket
from pathlib import Path

from recbole_macrec.errors import UserError
from recbole_macrec.utils.distributed import current_group
from recbole_macrec.utils.files import atomic_write, sha256_of

BLOCK = 2**26  # bytes sent at once


def share_files(folder: Path, *patterns: str) -> None:
    """Send the first process's files in ``folder`` that match ``patterns`` to all processes that do not have them.

    With one process it does nothing.

    Raises:
        UserError: in every process, if one of them has a file with other content, or a file that the first process lacks.
    """
    group = current_group()
    if group.size == 1:
        return
    own = {path.name: path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()}
    everywhere = group.gather((socket.gethostname(), {name: sha256_of(path) for name, path in own.items()}))
    (first_host, expected), *others = everywhere
    for host, checksums in others:
        for name, checksum in checksums.items():
            if expected.get(name) != checksum:
                problem = "differs from that" if name in expected else "is not among those"
                raise UserError(
                    f"{folder / name} on {host} {problem} of the first process on {first_host}; copy the folder from there, or "
                    f"remove the file on {host}, which then receives it."
                )
    for name in expected:
        if any(name not in checksums for _, checksums in others):
            _send(folder / name, missing=name not in own)


def _send(path: Path, missing: bool) -> None:
    """Send ``path`` of the first process to all others; processes where it is missing write it."""
    group = current_group()
    if group.first:
        with path.open("rb") as file:
            while block := group.share(file.read(BLOCK)):
                pass
    elif missing:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            while block := group.share():
                file.write(block)
    else:
        while group.share():
            pass
