"""Create files and folders with names that no other run uses."""
from collections.abc import Callable
from pathlib import Path


def unique_folder(path: str | Path) -> Path:
    """Create and return the folder ``path``, or ``path-2``, ``path-3``, ... if the name is in use."""
    return _first_free(Path(path), "", Path.mkdir)


def unique_file(path: str | Path) -> Path:
    """Create and return the empty file ``path``, or one with -2, -3, ... before the suffix if the name is in use."""
    path = Path(path)
    return _first_free(path.with_suffix(""), path.suffix, lambda name: name.touch(exist_ok=False))


def remove_if_empty(path: str | Path) -> None:
    """Remove the file ``path`` if it is empty."""
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
