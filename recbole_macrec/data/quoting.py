"""Whether double quotes in an atomic file are quoting or text: most programs write these files without any quoting."""
import csv
import re
from pathlib import Path

_COMPLETE = re.compile(r'"(?:[^"]|"")*"')  # a quoted field, with the quotes inside it doubled


def quoting(path: str | Path, separator: str, encoding: str = "utf-8") -> int:
    """The ``quoting`` with which ``path`` has to be read: ``csv.QUOTE_MINIMAL``, or ``csv.QUOTE_NONE`` where quotes are text.

    pandas, and so RecBole, takes a quote at the beginning of a field for the opening of a quoted field that may end many lines
    below, and makes one field of all between. Where every line has as many fields as the first, no field spans lines: quotes
    are then quoting if every field that begins with one is complete in its line. In other files (with separators or line breaks
    in their fields) they are quoting if all of the file follows the rules of CSV.

    Example: ``19" arm`` and ``"a ""b"" c"`` are complete, ``"Aurora lamp`` and ``"Aurora" lamp`` are not.
    """
    try:
        with open(path, encoding=encoding, newline="") as file:
            whole_lines, complete = _looked_through(file, separator)
        if complete or whole_lines:
            return csv.QUOTE_MINIMAL if complete else csv.QUOTE_NONE
        if len(separator) > 1:  # no CSV
            return csv.QUOTE_MINIMAL
        with open(path, encoding=encoding, newline="") as file:
            for _ in csv.reader(file, strict=True, delimiter=separator):
                pass
    except csv.Error:
        return csv.QUOTE_NONE
    except (OSError, UnicodeDecodeError):  # for the reader of the file to report
        pass
    return csv.QUOTE_MINIMAL


def _looked_through(lines, separator: str) -> tuple[bool, bool]:
    """Whether all lines have as many fields as the first, and whether all fields that begin with a quote are complete."""
    fields, whole_lines, complete = None, True, True
    for line in lines:
        line = line.rstrip("\r\n")
        if not line:
            continue
        fields = line.count(separator) if fields is None else fields
        whole_lines = whole_lines and line.count(separator) == fields
        if complete and '"' in line:
            complete = all(not field.startswith('"') or _COMPLETE.fullmatch(field) for field in line.split(separator))
        if not (whole_lines or complete):
            break
    return whole_lines, complete
