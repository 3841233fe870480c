"""``Source``, the common form of all sources of interactions, and readers for tables and JSON files."""
from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from recbole_macrec.data.atomic import check_tokens
from recbole_macrec.data.attributes import KNOWN
from recbole_macrec.data.encoders.content import TEXT_FIELDS
from recbole_macrec.data.importers.detected_files import DetectedFiles
from recbole_macrec.data.numbers import is_number
from recbole_macrec.data.quoting import Quoting, quoting
from recbole_macrec.errors import UserError, nearest

# Accepted column names: the usual ones first, then those of published files, whose use is noted.
_COLUMNS = {
    "user": (("user", "user_id", "userid"), ("session_id", "sessionid", "session")),
    "item": (("item", "item_id", "itemid"), ("product_id", "parent_asin", "asin", "movie_id", "artist_id", "venue_id",
                                             "business_id", "book_id", "article_id", "news_id", "video_id", "track_id")),
    "timestamp": (("timestamp", "time"),),
}
USUAL_ITEM_NAMES, PUBLISHED_ITEM_NAMES = _COLUMNS["item"]
_OPTIONS = {"user": "USER_ID_FIELD", "item": "ITEM_ID_FIELD", "timestamp": "TIME_FIELD"}
_SEPARATORS = ",;\t|"
_READ_BY_DEFAULT = (*TEXT_FIELDS, *KNOWN)
csv.field_size_limit(2**31 - 1)  # by default texts of more than 131,072 characters are an error


@dataclass
class Source:
    """Interactions and the catalogue; ``users``, ``items`` and ``timestamps`` have one entry per interaction."""

    path: Path
    users: list[str]
    items: list[str]
    timestamps: list[float]
    catalogue: list[str]
    numbers: dict[str, str]  # item number in the source's files, as a string -> item token
    fixed: bool  # whether the source lists its catalogue; otherwise it is the items of the interactions
    filtered: bool = False  # whether items were removed; feature and ID files may contain these
    columns: dict[str, list[str]] = field(default_factory=dict)  # name:type -> values in catalogue order
    notes: list[str] = field(default_factory=list)
    detected_files: DetectedFiles = field(default_factory=DetectedFiles)  # feature and ID files in the source's folder


def read_csv(path: Path, table_options: Mapping[str, str]) -> Source:
    """Read ``user,item[,timestamp]``; without timestamps, the order of the rows is the time."""
    delimiter = separator_of(path, table_options)
    return read_interactions(path, [name.strip() for name in header_of(path, delimiter)], delimiter, table_options)


def read_interactions(path: Path, header: list[str], delimiter: str, table_options: Mapping[str, str]) -> Source:
    """Read a table of interactions. Without timestamps, the row number is the time.

    Args:
        path: the file.
        header: the column names in its first line.
        delimiter: the separator of its columns.
        table_options: RecBole's options for columns, such as ``{"ITEM_ID_FIELD": "product_id"}``.
    """
    user_at, item_at = (find_column(header, name, path, table_options) for name in ("user", "item"))
    time_at = _position(header, "timestamp", path, table_options)
    users: list[str] = []
    items: list[str] = []
    timestamps: list[float] = []
    for line, row in read_rows(path, delimiter, header):
        users.append(row[user_at].strip())
        items.append(row[item_at].strip())
        timestamps.append(float(len(timestamps)) if time_at is None else _time(row[time_at].strip(), path, line))
    if not items:
        raise UserError(f"{path} has no interactions; expected rows of {delimiter.join(('user', 'item[', 'timestamp]'))}")
    catalogue = list(dict.fromkeys(items))
    if all(value.isdecimal() for value in catalogue):
        catalogue.sort(key=int)
    check_tokens(list(dict.fromkeys(users)), "user", path)
    check_tokens(catalogue, "item", path)
    notes = [f"{path.name}: column {header[position]} is read as the {name}; --{_OPTIONS[name]} sets another column"
             for name, position in zip(_OPTIONS, (user_at, item_at, time_at))
             if position is not None and _OPTIONS[name] not in table_options
             and header[position].lower() not in _COLUMNS[name][0]]
    notes += dropped_columns(path, [name for i, name in enumerate(header) if i not in (user_at, item_at, time_at)])
    if time_at is None:
        notes.append(f"{path.name} has no timestamp column: the order of its rows is used as time; --TIME_FIELD sets a column")
    return Source(path, users, items, timestamps, catalogue, {token: token for token in catalogue}, fixed=False, notes=notes)


def read_rows(path: Path, delimiter: str, header: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and values of each row after the header; UserError unless a row has one value per column."""
    rows = _rows(path, delimiter)
    next(rows)
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(f"{path} line {line} has {len(row)} values; expected {len(header)} ({', '.join(header)})")
        yield line, row


def open_text(path: Path) -> TextIO:
    """Open a table; a pipe, which would block and cannot be read twice, is a UserError."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a regular file; save its content as a file")
    return path.open(newline="", encoding="utf-8-sig")


def header_of(path: Path, delimiter: str) -> list[str]:
    """Return the values in the first line of a table, [] if the file is empty."""
    return next(_rows(path, delimiter), (0, []))[1]


def separator_of(path: Path, table_options: Mapping[str, str]) -> str:
    """Return the separator of a CSV file: ``field_separator`` of ``table_options``, else the one in the first line.

    A comma has precedence: a line with commas and semicolons is separated by commas.
    """
    if "field_separator" in table_options:
        return table_options["field_separator"]
    with _reading(path), open_text(path) as file:
        first = next((line for line in file if line.strip()), "")
    return next((separator for separator in _SEPARATORS if separator in first), ",")


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and values of each row that is not empty."""
    plain = path.suffix == ".csv" or not path.is_file()
    quotes: Quoting = csv.QUOTE_MINIMAL if plain else quoting(path, delimiter)  # quotes in atomic files may be text
    with _reading(path), open_text(path) as file:
        rows = csv.reader(file, strict=True, delimiter=delimiter, quoting=quotes)
        start = 1  # line of the start of the row
        try:
            for row in rows:
                if row:
                    yield rows.line_num, row
                start = rows.line_num + 1
        except csv.Error as error:
            raise csv.Error(f"line {start}: {error}") from None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors in reading a table into UserErrors."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    except csv.Error as error:
        kind = "CSV" if path.suffix == ".csv" else "atomic"
        raise UserError(f"{path} is not a readable {kind} file ({error}); check its quotes") from error


def find_column(header: list[str], name: str, path: Path, table_options: Mapping[str, str]) -> int:
    """Return the position of the column set in ``table_options``, else of one with an accepted name.

    Raises:
        UserError: there is no such column.
    """
    position = _position(header, name, path, table_options)
    if position is None:
        raise UserError(
            f"{path} has no column '{name}' in its first line ({', '.join(header)}); expected user,item[,timestamp], or "
            f"the name of the column in --{_OPTIONS[name]}.{missing_column(name, header)}"
        )
    return position


def _position(header: list[str], name: str, path: Path, table_options: Mapping[str, str]) -> int | None:
    """Return the position of the column set in ``table_options``, else of one with an accepted name, else None."""
    option = _OPTIONS[name]
    if option in table_options:
        if table_options[option] not in header:
            raise UserError(f"{path} has no column '{table_options[option]}', which --{option} names, in its first line "
                            f"({', '.join(header)}).{missing_column(table_options[option], header)}")
        return header.index(table_options[option])
    for names in _COLUMNS[name]:
        positions = [i for i, column in enumerate(header) if column.lower() in names]
        if len(positions) > 1:
            raise UserError(
                f"{path} has {len(positions)} columns for {name} ({', '.join(header)}); keep one, or choose one with --{option}"
            )
        if positions:
            return positions[0]
    return None


def dropped_columns(path: Path, names: Sequence[str]) -> list[str]:
    """Return a note that the columns ``names`` of interactions are not imported, [] without any."""
    shown = ", ".join(name or "one without a name" for name in names)  # pandas writes its index as such a column
    return [f"{path.name}: columns that are not imported: {shown}"] if names else []


def usual_names(names: Sequence[str], path: Path, notes: list[str]) -> list[str]:
    """Return ``names`` with those that runs read by default in lower case, such as ``title`` for ``Title``.

    Names that differ only in case from another one are unchanged. A note about each change is appended to ``notes``.
    """
    lower = [name.lower() for name in names]
    usual = [low if low in _READ_BY_DEFAULT and lower.count(low) == 1 else name for name, low in zip(names, lower)]
    notes += [f"{path.name}: column {name} is imported as {new}" for name, new in zip(names, usual) if name != new]
    return usual


def is_item_number(token: str) -> bool:
    """Return whether ``token`` is a number from 0 as Python writes it, without leading zeros."""
    return token.isascii() and token.isdigit() and str(int(token)) == token


def missing_column(name: str, header: list[str]) -> str:
    """Return a hint for the message that the first line of a file has no column ``name``."""
    if not header:
        return " The file is empty."
    if any(separator in column for column in header for separator in _SEPARATORS):
        return " If columns have another separator, set it with --field_separator."
    return nearest(name, header).replace("Did you mean", "Is it")


def _time(value: str, path: Path, line: int) -> float:
    if not is_number(value):
        raise UserError(f"{path} line {line} has timestamp {value!r}; expected a number such as Unix seconds")
    return float(value)
