"""Replace files and folders atomically: if the writer fails or is killed, the old version is unchanged."""
from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from filelock import FileLock

from recbole_macrec.errors import UserError


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yield a temporary path. When the block ends without an exception, its file replaces ``target``."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with report_full_disk(target):
            yield temporary
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def report_full_disk(target: Path) -> Iterator[None]:
    """Raise a UserError that names ``target`` if the block fails because the disk is full."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _disk_full(error)
        if reason is None:
            raise
        raise UserError(f"{target} can't be written: {reason}; free some space, or write elsewhere, and give the same command "
                        "again.") from error


def _disk_full(error: BaseException | None) -> str | None:
    """Return the system's message if ``error`` or its cause says that the disk is full, otherwise None.

    Libraries that write files raise their own exceptions, which contain the message of the system.
    """
    while error is not None:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
                return os.strerror(number).lower()
        error = error.__cause__ or error.__context__
    return None


def is_read_only(error: OSError) -> bool:
    """Whether ``error`` says that a folder is read-only, by its permissions or its file system."""
    return error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def lock_folder(folder: Path, name: str, missing: str) -> Iterator[None]:
    """Create ``folder`` if necessary and hold the lock file ``name`` in it.

    Args:
        missing: what is to be written there, for the error message.

    Raises:
        UserError: if the folder is read-only.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / name)
        lock.acquire()
    except OSError as error:
        if not is_read_only(error):
            raise
        raise UserError(f"{folder} is read-only and has no {missing}; make it writable for one run, or copy the dataset to a "
                        "writable folder and set data_path to that") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def replace_folder(target: Path, overwrite: bool) -> Iterator[Path]:
    """Yield an empty temporary folder. When the block ends without an exception, it replaces ``target``.

    A lock file beside the folder admits one writer at a time. If a writer is killed between the two renames, the old folder is
    left as ``.NAME.old``; the next writer restores it first.

    Raises:
        UserError: if ``target`` exists and ``overwrite`` is false.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f".{target.name}.old")
    with FileLock(target.with_name(f".{target.name}.lock")):
        _restore(target, old)
        if target.exists() and not overwrite:
            raise UserError(f"dataset {target} already exists; add --overwrite to replace it")
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.new-", dir=target.parent))
        try:
            temporary.chmod(0o777 & ~_umask())
            with report_full_disk(target):
                yield temporary
            if target.exists():
                os.rename(target, old)
            try:
                os.rename(temporary, target)
            except OSError:
                if old.exists():
                    os.rename(old, target)
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def needs_restore(target: Path) -> bool:
    """Whether a killed :func:`replace_folder` left an old version of ``target``."""
    return target.with_name(f".{target.name}.old").exists()


def restore_folder(target: Path) -> None:
    """Restore ``target`` after a killed :func:`replace_folder`, if there was one."""
    with FileLock(target.with_name(f".{target.name}.lock")):
        _restore(target, target.with_name(f".{target.name}.old"))


def remove_temporary_files(folder: Path, name: str = "") -> None:
    """Remove temporary files of killed :func:`atomic_write` calls from ``folder``, for targets whose name starts with
    ``name``."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith(f".{name}") and path.suffix[1:].isdecimal() and path.is_file():
            path.unlink(missing_ok=True)


def _restore(target: Path, old: Path) -> None:
    """Restore what a killed writer moved, and remove its incomplete folders."""
    if old.exists() and not target.exists():
        os.rename(old, target)
    shutil.rmtree(old, ignore_errors=True)
    for incomplete in target.parent.glob(f".{escape(target.name)}.new-*"):
        shutil.rmtree(incomplete, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


CHUNK_BYTES = 2**20  # bytes


def sha256_of(path: Path, advance: Callable[[int], object] = lambda count: None) -> str:
    """Return the hexadecimal SHA-256 digest of a file.

    Args:
        advance: called with the number of bytes of each piece read, for a progress bar.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
            advance(len(piece))
    return digest.hexdigest()
