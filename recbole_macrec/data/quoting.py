"""Detect whether double quotes in an atomic file are CSV quotes or text; most programs write these files without quoting."""
import csv
import re
from pathlib import Path
from typing import Literal, TypeAlias

Quoting: TypeAlias = Literal[0, 3]  # csv.QUOTE_MINIMAL, csv.QUOTE_NONE
_COMPLETE = re.compile(r'"(?:[^"]|"")*"')  # a quoted field, with the quotes inside it doubled


def quoting(path: str | Path, separator: str, encoding: str = "utf-8") -> Quoting:
    """Return the ``quoting`` option for reading ``path``: ``csv.QUOTE_MINIMAL``, or ``csv.QUOTE_NONE`` if quotes are text.

    For pandas, and therefore RecBole, a quote at the beginning of a field opens a quoted field that may end many lines below,
    and everything between is read as one field. If every line has as many fields as the first, no field spans several lines.
    Quotes are then CSV quotes if every field that begins with one is a complete quoted field. In other files (with separators
    or line breaks inside fields), they are CSV quotes if the whole file is valid CSV.

    Example: ``19" arm`` and ``"a ""b"" c"`` are complete; ``"Aurora lamp`` and ``"Aurora" lamp`` are not.
    """
    try:
        with open(path, encoding=encoding, newline="") as file:
            same_n_fields, complete = _scan(file, separator)
        if complete or same_n_fields:
            return csv.QUOTE_MINIMAL if complete else csv.QUOTE_NONE
        if len(separator) > 1:  # not CSV
            return csv.QUOTE_MINIMAL
        with open(path, encoding=encoding, newline="") as file:
            for _ in csv.reader(file, strict=True, delimiter=separator):
                pass
    except csv.Error:
        return csv.QUOTE_NONE
    except (OSError, UnicodeDecodeError):  # reported by the code that reads the file next
        pass
    return csv.QUOTE_MINIMAL


def _scan(lines, separator: str) -> tuple[bool, bool]:
    """Return whether all lines have as many fields as the first, and whether all fields that begin with a quote are
    complete."""
    n_separators, same_n_fields, complete = None, True, True
    for line in lines:
        line = line.rstrip("\r\n")
        if not line:
            continue
        n_separators = line.count(separator) if n_separators is None else n_separators
        same_n_fields = same_n_fields and line.count(separator) == n_separators
        if complete and '"' in line:
            complete = all(not field.startswith('"') or _COMPLETE.fullmatch(field) for field in line.split(separator))
        if not (same_n_fields or complete):
            break
    return same_n_fields, complete
