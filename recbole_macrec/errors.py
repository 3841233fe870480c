"""The one exception that command lines turn into a sentence instead of a traceback."""
import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something only the user can mend: the message names the file or option, what was seen, and the mend."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name nearest to ``name``, or an empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{match[0]}'?" if match else ""
