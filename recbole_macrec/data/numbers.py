"""Clean number columns as shops write them: "$1,299.00", or "—" for a missing price."""
from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from recbole_macrec.data.atomic import RESERVED, UNREADABLE, AtomicFormat, not_readable, read_table
from recbole_macrec.data.features import format_items
from recbole_macrec.errors import UserError

_MISSING = {*RESERVED, "-", "‐", "‑", "‒", "–", "—", "−", "?"}  # hyphens, dashes and the minus sign
_PRICE = re.compile(r"(-?)\s*[$€£¥₹]?\s*(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)\s*[$€£¥₹]?")


def plain_numbers(
    values: Sequence[str], column: str, items: Sequence[str], path: Path, notes: list[str], sequence: bool = False
) -> list[str]:
    """Return ``values``, one per item, in the form that RecBole reads: "$1,299.00" becomes "1299.00", a dash "".

    A note about each kind of change is appended to ``notes``.

    Args:
        sequence: whether a value may be several numbers separated by spaces.

    Raises:
        UserError: naming file, line, item and value, if a value is not a number.
    """
    plain = []
    for row, value in enumerate(values):
        parts = value.split() if sequence and _plain(value) is None else [value]
        numbers = [_plain(part) for part in parts]
        if None in numbers:
            raise not_a_number(path, row + 2, column, f"item '{items[row]}'", value)
        plain.append(" ".join(filter(None, numbers)))
    changed = [row for row, (before, after) in enumerate(zip(values, plain)) if before != after]
    for change, rows in (("cleaned", [row for row in changed if plain[row]]),
                         ("left empty", [row for row in changed if not plain[row]])):
        if rows:
            first = f"{values[rows[0]]!r}" + (f" to {plain[rows[0]]!r}" if plain[rows[0]] else "")
            notes.append(
                f"{path.name}: {column} of {format_items([items[row] for row in rows], 'item')} is {change}, the first is "
                f"{first}"
            )
    return plain


def first_unreadable(path: Path, form: AtomicFormat, columns: Collection[str]) -> UserError | None:
    """Return an error for the first value that RecBole cannot read in the number columns among ``columns``, or for a file that
    is unreadable as a whole; None if all are fine."""
    try:
        table = read_table(path, form, skip_blank_lines=False)
    except UNREADABLE as error:
        return not_readable(path, error)
    header = {name.split(":")[0]: name for name in table}
    owner, key = next(((owner, header[name]) for owner, name in (("item", form.item), ("user", form.user)) if name in header),
                      ("row", table.columns[0]))
    for name in (name for column, name in header.items() if column in columns and ":float" in name):
        for row, value in enumerate(table[name]):
            parts = value.split(form.seq_separator) if name.endswith("_seq") else [value]
            if not all(part in RESERVED or is_number(part) for part in parts):
                return not_a_number(path, row + 2, name.split(":")[0], f"{owner} '{table[key][row]}'", value)
    return None


def not_a_number(path: Path, line: int, column: str, row_owner: str, value: str) -> UserError:
    """Return an error for a value that is not a number; ``row_owner`` is for example "item 'B01'"."""
    return UserError(
        f"{path} line {line} has {value!r} as {column} of {row_owner}; expected a number such as 1299.00, or nothing"
    )


def _plain(value: str) -> str | None:
    """Return ``value`` in the form that RecBole reads, "" if it stands for a missing value, None if it is not a number."""
    if value.strip() in _MISSING:
        return ""
    if is_number(value):
        return value
    price = _PRICE.fullmatch(value.strip())
    return price[1] + price[2].replace(",", "") if price else None


def is_number(value: str) -> bool:
    """Whether ``value`` is a finite number; unlike Python's ``float``, without ``_`` between digits."""
    try:
        return math.isfinite(float(value)) and "_" not in value
    except ValueError:
        return False
