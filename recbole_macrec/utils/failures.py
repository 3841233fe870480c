"""Messages for errors that a user can correct."""
import re
import traceback
from pathlib import Path

import torch

from recbole_macrec.errors import OUT_OF_MEMORY, UserError, is_out_of_memory
from recbole_macrec.utils.requirements import recbole_folder

OUT_OF_MEMORY_MESSAGE = (
    "Not enough memory: lower train_batch_size or, for the models of this package, pass_tokens (while training), "
    "eval_batch_size or num_beams (while ranking)."
)
_CHILD_USER_ERROR = re.compile(r"^recbole_macrec\.[\w.]+\.(?:UserError|ProcessLost): (.*)\Z", re.MULTILINE | re.DOTALL)


def user_message(error: BaseException) -> str | None:
    """Return a one-line message if the user can correct ``error``, otherwise None."""
    message = _message(error)
    return " ".join(message.split()) if message is not None else None


def _message(error: BaseException) -> str | None:
    if isinstance(error, UserError | OSError):  # OSError: a full disk, an unreadable file
        return str(error)
    if is_out_of_memory(error):
        return OUT_OF_MEMORY_MESSAGE
    text = str(error)
    if isinstance(error, torch.multiprocessing.ProcessRaisedException):  # holds the traceback of a spawned process
        if match := _CHILD_USER_ERROR.search(text.rstrip()):
            return match[1]
        return OUT_OF_MEMORY_MESSAGE if OUT_OF_MEMORY.search(text) else None
    if isinstance(error, ModuleNotFoundError) and error.name and _loads_a_model(error):
        return f"{error.name} is not installed; the model needs it: pip install {error.name.partition('.')[0]}"
    refused_by_recbole = isinstance(error, ValueError | NotImplementedError | TypeError | RuntimeError)
    if refused_by_recbole and text and _raised_in_setup(error):
        return f"RecBole: {text}"
    return None


def _raised_in_setup(error: BaseException) -> bool:
    """Whether RecBole raised ``error`` because of wrong settings or files.

    It did if the error comes from a ``raise`` statement in its code that reads settings or atomic files, or that creates a
    model or its layers.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not (frames[-1].line or "").startswith("raise "):
        return False
    folders = [recbole_folder() / "config", recbole_folder() / "data" / "dataset"]
    reads = any(folder in Path(frames[-1].filename).parents for folder in folders)
    return reads or any(_in_models(frame) and frame.name == "__init__" for frame in frames)


def _loads_a_model(error: BaseException) -> bool:
    """Whether ``error`` was raised by an import in RecBole, such as that of a model or its dataset."""
    return any(recbole_folder() in Path(frame.filename).parents for frame in traceback.extract_tb(error.__traceback__))


def _in_models(frame: traceback.FrameSummary) -> bool:
    return recbole_folder() / "model" in Path(frame.filename).parents
