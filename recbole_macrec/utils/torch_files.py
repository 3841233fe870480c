"""Files of tensors and plain values that torch writes."""
import zipfile
from pathlib import Path

import torch

from recbole_macrec.utils.files import atomic_write


class WrongChecksum(Exception):
    """A part of a file, which the message names, has another checksum than the file says."""


def write_torch_file(value, path: Path) -> None:
    """Write ``value``. Readers see either the old file or the complete new one."""
    # the errors of this file give a reason, such as a full disk, unlike those of a file opened by torch
    with atomic_write(path) as fresh, fresh.open("wb") as file:
        torch.save(value, file)


def read_torch_file(path: str | Path, device: torch.device | str | None = "cpu", trusted: bool = False):
    """Read a file of :func:`write_torch_file`, after a check of the checksums (CRC-32) that torch writes but does not check.

    Args:
        trusted: also read pickled objects, which can run any code.

    Raises:
        WrongChecksum: if the file is damaged.
        pickle.UnpicklingError: if it contains other objects and is not ``trusted``.
        Exception: of many types, if it is truncated or no such file.
    """
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise WrongChecksum(damaged)
    return torch.load(path, map_location=device, weights_only=not trusted)
