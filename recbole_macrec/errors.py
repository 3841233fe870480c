"""The exception that commands report as one line instead of a traceback."""
import difflib
import re
from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can correct. The message names the file or option, the value seen, and the correction."""


def one_line(error: BaseException, length: int | None = None) -> str:
    """Return the message of ``error`` in one line, cut after ``length`` characters; the name of its class if it has none."""
    return (" ".join(str(error).split()) or type(error).__name__)[:length]


OUT_OF_MEMORY = re.compile(r"out of memory|allocate memory|not enough memory|ALLOC_FAILED|MemoryError", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was insufficient. For some of these errors torch raises a RuntimeError like any other."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(OUT_OF_MEMORY.search(str(error))))


def nearest(name: str, known: Iterable[str], similarity: float = 0.6) -> str:
    """Return ``" Did you mean 'x'?"`` with the known name nearest to ``name``; an empty string if none has the similarity.

    A name that differs only in case is the nearest; for ``difflib`` it differs as much as one with other letters.
    """
    known = list(known)
    same = [other for other in known if other.lower() == name.lower()]
    match = same or difflib.get_close_matches(name, known, n=1, cutoff=similarity)
    return f" Did you mean '{match[0]}'?" if match else ""
