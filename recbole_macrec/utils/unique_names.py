"""Names that no other run has: files and folders that this process made itself."""
from collections.abc import Callable
from pathlib import Path


def new_folder(path: str | Path) -> Path:
    """Create the folder ``path``, or ``path``-2, ``path``-3, ... where another run has the name; returns it."""
    return _first_free(Path(path), "", Path.mkdir)


def new_file(path: str | Path) -> Path:
    """Create the empty file ``path``, or with -2, -3, ... before its suffix where another run has the name; returns it."""
    path = Path(path)
    return _first_free(path.with_suffix(""), path.suffix, lambda name: name.touch(exist_ok=False))


def remove_if_empty(path: str | Path) -> None:
    """Remove the file ``path`` if nothing was written to it."""
    path = Path(path)
    if path.is_file() and not path.stat().st_size:
        path.unlink(missing_ok=True)


def _first_free(path: Path, suffix: str, create: Callable[[Path], None]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        name = path.with_name(path.name + (f"-{number}" if number > 1 else "") + suffix)
        try:
            create(name)
            return name
        except FileExistsError:
            number += 1
