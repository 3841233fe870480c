"""Put a whole file or folder in place at once, so that a failed or killed writer leaves the old one as it was."""
from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from recbole_macrec.errors import UserError


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` whose file takes its place when the block ends without an exception."""
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with writing(target):
            yield fresh
            os.replace(fresh, target)
    finally:
        fresh.unlink(missing_ok=True)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raise a UserError that names ``target`` where the block fails for lack of room on the disk."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _no_room(error)
        if reason is None:
            raise
        raise UserError(f"{target} can't be written: {reason}; free some space, or write elsewhere, and give the same command "
                        "again.") from error


def _no_room(error: BaseException | None) -> str | None:
    """Why nothing more can be written, from ``error`` or what it came from; None where it says nothing like that.

    Libraries that write by themselves raise errors of their own, with the system's words in them.
    """
    while error is not None:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
                return os.strerror(number).lower()
        error = error.__cause__ or error.__context__
    return None


def is_read_only(error: OSError) -> bool:
    """Whether ``error`` says that a folder is read-only: by its permissions or by its file system."""
    return error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def lock_in(folder: Path, name: str, lacks: str) -> Iterator[None]:
    """Make ``folder`` and hold the lock file ``name`` in it.

    Raises:
        UserError: when the folder is read-only; ``lacks`` says what would have been written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / name)
        lock.acquire()
    except OSError as error:
        if not is_read_only(error):
            raise
        raise UserError(f"{folder} is read-only and has no {lacks}; make it writable for one run, or copy the dataset to a folder "
                        "that is writable and name that in data_path") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def new_folder(target: Path, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that takes its place when the block ends without an exception.

    One writer at a time (a lock file beside the folder). A writer killed between the two renames leaves the old folder
    under ``.NAME.old``; the next writer puts it back first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f".{target.name}.old")
    with FileLock(target.with_name(f".{target.name}.lock")):
        _tidy(target, old)
        if target.exists() and not overwrite:
            raise UserError(f"dataset {target} already exists; add --overwrite to replace it")
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.new-", dir=target.parent))
        try:
            fresh.chmod(0o777 & ~_umask())
            with writing(target):
                yield fresh
            if target.exists():
                os.rename(target, old)
            try:
                os.rename(fresh, target)
            except OSError:
                if old.exists():
                    os.rename(old, target)
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def half_replaced(target: Path) -> bool:
    """Whether a killed :func:`new_folder` left the old folder beside ``target``, or in its stead."""
    return target.with_name(f".{target.name}.old").exists()


def recover(target: Path) -> None:
    """Tidy up after a killed :func:`new_folder`, if there was one."""
    with FileLock(target.with_name(f".{target.name}.lock")):
        _tidy(target, target.with_name(f".{target.name}.old"))


def remove_unfinished(folder: Path, name: str = "") -> None:
    """Remove what killed writers of :func:`whole_file` left in ``folder``, of files whose name begins with ``name``."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith(f".{name}") and path.suffix[1:].isdecimal() and path.is_file():
            path.unlink(missing_ok=True)


def _tidy(target: Path, old: Path) -> None:
    """Put back what a killed writer moved away, and remove what it left half written."""
    if old.exists() and not target.exists():
        os.rename(old, target)
    shutil.rmtree(old, ignore_errors=True)
    for left in target.parent.glob(f".{target.name}.new-*"):
        shutil.rmtree(left, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


PIECE = 2**20  # bytes


def sha256_of(path: Path, advance: Callable[[int], object] = lambda count: None) -> str:
    """Return the hexadecimal digest; ``advance`` is told how many bytes of each piece have been read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            advance(len(piece))
    return digest.hexdigest()
