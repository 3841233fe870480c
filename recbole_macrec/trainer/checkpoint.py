"""Checkpoints of tensors and plain values, so that loading one never runs foreign code."""
import os
import pickle
import zipfile
from pathlib import Path

import torch

from recbole_macrec.data.replace import whole_file
from recbole_macrec.errors import UserError

FORMAT = "recbole_macrec"


def save_checkpoint(state: dict, path: str | Path) -> None:
    """Write ``state`` so that a reader sees the old file or the new one, never half of one."""
    with whole_file(Path(path)) as fresh:
        torch.save({"format": FORMAT, **state}, fresh)


def relative_folder(folder: str | Path, file: str | Path) -> str | None:
    """``folder`` as seen from the folder of the checkpoint ``file``, so that both can be moved together; None across drives."""
    try:
        return os.path.relpath(folder, Path(file).parent)
    except ValueError:
        return None


def read_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict | None:
    """Read a checkpoint of ours; None for one that RecBole pickled itself.

    Raises:
        UserError: when the file is missing, truncated or no checkpoint at all.
    """
    if not Path(path).is_file():
        raise UserError(f"Checkpoint {path} does not exist; check the path (RecBole writes them to checkpoint_dir).")
    unreadable = f"Checkpoint {path} can't be read: it is truncated or no checkpoint; train again or name another file."
    if not zipfile.is_zipfile(path):
        raise UserError(unreadable)
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError:
        return None
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise UserError(unreadable) from error
    return state if isinstance(state, dict) and state.get("format") == FORMAT else None


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict:
    """Read a checkpoint of ours; a UserError for anything else."""
    state = read_checkpoint(path, device)
    if state is None:
        raise UserError(f"Checkpoint {path} was not written by recbole_macrec; name one of its checkpoints.")
    return state
