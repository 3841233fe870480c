"""Checkpoints of tensors and plain values, so that loading one never runs foreign code."""
import os
import pickle
from pathlib import Path

import torch

from recbole_macrec.errors import UserError

FORMAT = "recbole_macrec"


def save_checkpoint(state: dict, path: str | Path) -> None:
    """Write ``state`` so that a reader sees the old file or the new one, never half of one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save({"format": FORMAT, **state}, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict:
    """Read a checkpoint of ours.

    Raises:
        UserError: when the file is missing, truncated or not one of ours.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"Checkpoint {path} does not exist; check the path.") from None
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError, OSError) as error:
        raise UserError(
            f"Checkpoint {path} can't be read ({type(error).__name__}): it is truncated or was not written by "
            "recbole_macrec; train again or name another file."
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"Checkpoint {path} was not written by recbole_macrec; name one of its checkpoints.")
    return state
