"""Checkpoints of tensors and plain values, so that reading one never runs foreign code."""
import os
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

from recbole_macrec.errors import UserError
from recbole_macrec.utils.distributed import current_group
from recbole_macrec.utils.files import atomic_write

FORMAT = "recbole_macrec"
ARRAY, SPARSE = "numpy.ndarray", "scipy.sparse"


def save_checkpoint(state: dict, path: str | Path) -> None:
    """Write ``state`` so that a reader sees the old file or the new one, never half of one."""
    with atomic_write(Path(path)) as fresh, fresh.open("wb") as file:  # whose errors say why, unlike those of torch's own file
        torch.save({"format": FORMAT, **state}, file)


def relative_folder(folder: str | Path, file: str | Path) -> str | None:
    """``folder`` as seen from the folder of the checkpoint ``file``, so that both can be moved together; None across drives."""
    try:
        return os.path.relpath(folder, Path(file).parent)
    except ValueError:
        return None


def read_checkpoint(path: str | Path, device: torch.device | str | None = "cpu", trusted: bool = False):
    """Read a checkpoint from any source. Unless it is trusted, only tensors and plain values are read.

    The checksums (CRC-32) that torch stores in the file, but does not look at, are compared first.

    Args:
        trusted: also read a pickled checkpoint of RecBole, which can run any code.

    Raises:
        UserError: when the file is missing, truncated, changed since it was written, no checkpoint at all, or pickled and not
            ``trusted``, and when it holds weights that are NaN.
    """
    if not Path(path).is_file():
        raise UserError(f"Checkpoint {path} does not exist; check the path (RecBole writes them to checkpoint_dir).")
    unreadable = f"Checkpoint {path} can't be read: it is truncated or no checkpoint; train again or name another file."
    if not zipfile.is_zipfile(path):
        raise UserError(unreadable)
    try:
        with zipfile.ZipFile(path) as archive:
            if changed := archive.testzip():
                raise UserError(f"Checkpoint {path} is damaged: its part {changed} does not have the checksum it was written with; copy "
                                "it again, or train again.")
        state = torch.load(path, map_location=device, weights_only=not trusted)
    except pickle.UnpicklingError:
        raise UserError(f"Checkpoint {path} is a pickle, and reading one runs any code that is in it; only if you trust its writer, "
                        "give trust_checkpoint=True.") from None
    except (RuntimeError, EOFError, ValueError, OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(unreadable) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        check_weights(state["state_dict"], f"Checkpoint {path}")
    return state


def read_together(path: str | Path, device: torch.device | str | None = "cpu", read: Callable = read_checkpoint):
    """``read(path, device)``, in every process of the group; only the first one reads the file, and sends the others the content."""
    group = current_group()
    if group.size == 1:
        return read(path, device)
    return to_device(group.by_first(partial(read, path, "cpu"), "reads a checkpoint"), device or "cpu")


def to_device(value, device: torch.device | str):
    """Move the tensors in ``value``, in dictionaries and lists too, to ``device``."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, list | tuple):
        return type(value)(to_device(entry, device) for entry in value)
    return {key: to_device(entry, device) for key, entry in value.items()} if isinstance(value, dict) else value


def check_weights(weights: dict[str, torch.Tensor], holder: str) -> None:
    """Raise a UserError where one of ``weights`` is NaN, and so every score of the model would be; ``holder`` is what holds them."""
    for name, weight in weights.items():
        if isinstance(weight, torch.Tensor) and weight.isnan().any():
            raise UserError(f"{holder} holds weights that are NaN ({name}); train again, with a lower learning_rate.")


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict:
    """Read a checkpoint of ours; a UserError for anything else."""
    state = read_checkpoint(path, device)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"Checkpoint {path} was not written by recbole_macrec; name one of its checkpoints.")
    return state


def as_tensors(value):
    """``value`` of RecBole's ``other_parameter`` as tensors and plain values; :func:`from_tensors` is the inverse."""
    if isinstance(value, np.ndarray):
        return {ARRAY: torch.from_numpy(np.require(value, requirements=["C", "W"]))}  # as torch wants its memory
    if sparse.issparse(value):
        matrix = value.tocoo()
        return {SPARSE: value.format, "shape": list(value.shape), "values": torch.from_numpy(matrix.data),
                "rows": torch.from_numpy(matrix.row), "columns": torch.from_numpy(matrix.col)}
    if isinstance(value, dict):
        return {key: as_tensors(entry) for key, entry in value.items()}
    return type(value)(map(as_tensors, value)) if isinstance(value, list | tuple) else value


def from_tensors(value, device: torch.device | str):
    """What :func:`as_tensors` was given, tensors moved to ``device``, arrays and sparse matrices in the memory of the processor."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, list | tuple):
        return type(value)(from_tensors(entry, device) for entry in value)
    if not isinstance(value, dict):
        return value
    if ARRAY in value:
        return value[ARRAY].cpu().numpy()
    if SPARSE in value:
        values, rows, columns = (value[name].cpu().numpy() for name in ("values", "rows", "columns"))
        return sparse.coo_matrix((values, (rows, columns)), shape=value["shape"]).asformat(value[SPARSE])
    return {key: from_tensors(entry, device) for key, entry in value.items()}
