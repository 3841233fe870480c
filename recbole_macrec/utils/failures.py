"""Messages for errors that a user can correct."""
import re
import traceback
from pathlib import Path

import torch

from recbole_macrec.errors import UserError
from recbole_macrec.utils.requirements import recbole_folder

OUT_OF_MEMORY_MESSAGE = (
    "Not enough memory: lower train_batch_size (while training), eval_batch_size or num_beams (while ranking), for "
    "example --train_batch_size=256 --eval_batch_size=64."
)
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|MemoryError", re.IGNORECASE)
_CHILD_USER_ERROR = re.compile(r"^recbole_macrec\.[\w.]+\.(?:UserError|ProcessLost): (.*)\Z", re.MULTILINE | re.DOTALL)


def user_message(error: BaseException) -> str | None:
    """Return a one-line message if the user can correct ``error``, otherwise None."""
    message = _message(error)
    return " ".join(message.split()) if message is not None else None


def _message(error: BaseException) -> str | None:
    if isinstance(error, UserError | OSError):  # OSError: a full disk, an unreadable file
        return str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return OUT_OF_MEMORY_MESSAGE
    text = str(error)
    if isinstance(error, RuntimeError) and "can't allocate memory" in text:
        return OUT_OF_MEMORY_MESSAGE
    if isinstance(error, torch.multiprocessing.ProcessRaisedException):  # holds the traceback of a spawned process
        if match := _CHILD_USER_ERROR.search(text.rstrip()):
            return match[1]
        return OUT_OF_MEMORY_MESSAGE if _OUT_OF_MEMORY.search(text) else None
    refused_by_recbole = isinstance(error, ValueError | NotImplementedError | TypeError | RuntimeError)
    if refused_by_recbole and text and _raised_in_setup(error):
        return f"RecBole: {text}"
    return None


def _raised_in_setup(error: BaseException) -> bool:
    """Whether ``error`` was raised by a ``raise`` statement of RecBole's code that reads settings or atomic files."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    folders = [recbole_folder() / "config", recbole_folder() / "data" / "dataset"]
    raised = (frames[-1].line or "").startswith("raise ")
    return raised and any(folder in Path(frames[-1].filename).parents for folder in folders)
