"""Checkpoints of tensors and plain values: reading one never runs code from the file."""
import os
import pickle
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from recbole.model.abstract_recommender import AbstractRecommender
from scipy import sparse

from recbole_macrec.errors import UserError, is_out_of_memory, one_line
from recbole_macrec.utils.distributed import current_group
from recbole_macrec.utils.torch_files import WrongChecksum, read_torch_file, write_torch_file

FORMAT = "recbole_macrec"
ARRAY, SPARSE = "numpy.ndarray", "scipy.sparse"


def save_checkpoint(state: dict, path: str | Path) -> None:
    """Write ``state``. Readers see either the old file or the complete new one."""
    write_torch_file({"format": FORMAT, **state}, Path(path))


def relative_folder(folder: str | Path, file: str | Path) -> str | None:
    """Path of ``folder`` relative to the folder of the checkpoint ``file``, so that both can be moved together; None across
    drives."""
    try:
        return os.path.relpath(folder, Path(file).parent)
    except ValueError:
        return None


def read_checkpoint(path: str | Path, device: torch.device | str | None = "cpu", trusted: bool = False):
    """Read a checkpoint from any source; unless it is trusted, only tensors and plain values.

    Args:
        trusted: also read a pickled checkpoint of RecBole, which can run any code.

    Raises:
        UserError: if the file is missing, truncated, damaged, not a checkpoint, or pickled and not ``trusted``, or if a weight
            is NaN.
    """
    if not Path(path).is_file():
        raise UserError(
            f"Checkpoint {path} does not exist; check the path. RecBole writes checkpoints to the folder checkpoint_dir."
        )
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise UserError(f"Checkpoint {path} can't be read: {error.strerror}; check its permissions.") from error
    unreadable = f"Checkpoint {path} can't be read: it is truncated or not a checkpoint; train again or name another file."
    try:
        state = read_torch_file(path, device, trusted)
    except WrongChecksum as error:
        raise UserError(
            f"Checkpoint {path} is damaged: the checksum of its part {error} is wrong; copy it again, or train again."
        ) from None
    except pickle.UnpicklingError:
        raise UserError(
            f"Checkpoint {path} is a pickle, and reading it runs any code in it; set trust_checkpoint=True only if you "
            "trust its author."
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError, zipfile.BadZipFile, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(unreadable) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        check_weights(state["state_dict"], f"Checkpoint {path}")
    return state


def read_together(path: str | Path, device: torch.device | str | None = "cpu", read: Callable = read_checkpoint):
    """``read(path, device)`` in every process of the group; the first process reads the file and sends its content to the
    others."""
    group = current_group()
    if group.size == 1:
        return read(path, device)
    return to_device(group.by_first(partial(read, path, "cpu"), "reads a checkpoint"), device or "cpu")


def to_device(value, device: torch.device | str):
    """Move the tensors in ``value``, also in nested dictionaries and lists, to ``device``."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, list | tuple):
        return type(value)(to_device(entry, device) for entry in value)
    return {key: to_device(entry, device) for key, entry in value.items()} if isinstance(value, dict) else value


def check_complete(state, names: Sequence[str], path: str | Path) -> None:
    """Raise a UserError unless the content ``state`` of the checkpoint ``path`` has the entries ``names``."""
    if not isinstance(state, dict):
        raise UserError(f"Checkpoint {path} contains a {type(state).__name__}, not a model; name another file.")
    if missing := [name for name in names if name not in state]:
        raise UserError(f"Checkpoint {path} lacks {', '.join(missing)}; name another checkpoint, or train again.")
    if not isinstance(state.get("state_dict", {}), dict | str):  # a text: the file of a decision tree
        raise UserError(
            f"Checkpoint {path} contains a {type(state['state_dict']).__name__} as state_dict; name another checkpoint."
        )


def check_weights(weights: dict[str, torch.Tensor], source: str) -> None:
    """Check that no weight is NaN, since all scores of the model would be NaN.

    Args:
        source: where the weights are from, for the message.

    Raises:
        UserError: if one is.
    """
    for name, weight in weights.items():
        if isinstance(weight, torch.Tensor) and weight.isnan().any():
            raise UserError(f"{source} contains weights that are NaN ({name}); train again with a lower learning_rate.")


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict:
    """Read a checkpoint that this package wrote.

    Raises:
        UserError: if it is not one.
    """
    state = read_checkpoint(path, device)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"Checkpoint {path} was not written by recbole_macrec; name one of its checkpoints.")
    return state


def load_weights(model: AbstractRecommender, state: dict, file: str | Path) -> None:
    """Load the weights of a checkpoint into ``model``.

    Args:
        file: path of the checkpoint, for messages.

    Raises:
        UserError: if it was trained on other semantic IDs or with other sizes.
    """
    check_complete(state, ["state_dict"], file)
    model.load_other_parameter(state.get("other_parameter"))
    try:
        model.load_state_dict(state["state_dict"])
    except RuntimeError as error:
        raise UserError(
            f"Checkpoint {file} does not fit this model ({one_line(error, 200)}); "
            "use the model and options it was trained with."
        ) from error


def best_beside(best_file: str, resume_file: str | Path, evaluated) -> str:
    """The checkpoint of the best epoch of a resumed run.

    It is the file beside ``resume_file`` with the name of ``best_file``, also if the folder was moved or copied, otherwise
    ``best_file``. If neither exists, it is ``resume_file`` if there was a validation before it, else the path beside it, which
    the first validation writes.

    Args:
        best_file: path in the checkpoint.
        evaluated: true if a validation preceded the checkpoint.
    """
    resume_file = Path(resume_file)
    beside = resume_file.with_name(Path(best_file).name)
    return str(next((path for path in (beside, Path(best_file)) if path.is_file()), resume_file if evaluated else beside))


def as_tensors(value):
    """Convert a value of RecBole's ``other_parameter`` to tensors and plain values; :func:`from_tensors` is the inverse."""
    if isinstance(value, np.ndarray):
        return {ARRAY: torch.from_numpy(np.require(value, requirements=["C", "W"]))}  # torch needs contiguous, writable memory
    if sparse.issparse(value):
        matrix = value.tocoo()
        return {SPARSE: value.format, "shape": list(value.shape), "values": torch.from_numpy(matrix.data),
                "rows": torch.from_numpy(matrix.row), "columns": torch.from_numpy(matrix.col)}
    if isinstance(value, dict):
        return {key: as_tensors(entry) for key, entry in value.items()}
    return type(value)(map(as_tensors, value)) if isinstance(value, list | tuple) else value


def from_tensors(value, device: torch.device | str):
    """Inverse of :func:`as_tensors`; tensors are moved to ``device``."""
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
