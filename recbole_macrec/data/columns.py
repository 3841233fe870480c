"""Checks of a dataset's atomic files before RecBole reads them."""
from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from recbole.utils import ModelType

from recbole_macrec.data.atomic import UNREADABLE, AtomicFormat, check_distinct_columns, not_readable
from recbole_macrec.data.interactions import history_column
from recbole_macrec.data.quoting import quoting
from recbole_macrec.errors import UserError


def check_columns(config, folder: Path, name: str) -> None:
    """Raise UserError unless the ``.inter`` and ``.item`` files of the dataset have the columns that a run with ``config``
    needs, and they are loaded.

    RecBole reports missing files itself.
    """
    form = AtomicFormat.from_config(config)
    parts, sequential = config["benchmark_filename"], config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    needed = {"USER_ID_FIELD": form.user, "ITEM_ID_FIELD": form.item}
    if is_sorted_by_time(config):
        needed["TIME_FIELD"] = form.time
    for path in [folder / f"{name}.{part}.inter" for part in parts] if parts else [folder / f"{name}.inter"]:
        if path.is_file():
            _check_file(path, form, needed, history_column(config) if parts and sequential else None)
    items, loaded = folder / f"{name}.item", config["load_col"]
    if items.is_file() and (loaded is None or "item" in loaded):
        _check_file(items, form, {"ITEM_ID_FIELD": form.item}, None)
    _check_loaded(config, list(needed.values()))


def is_sorted_by_time(config) -> bool:
    """Whether RecBole sorts the interactions by time: not those of benchmark files, and not with ``order: RO``."""
    return not config["benchmark_filename"] and (config["eval_args"] or {}).get("order") == "TO"


def _check_loaded(config, needed: list[str]) -> None:
    """Raise UserError unless ``load_col`` and ``unload_col`` load the columns ``needed`` of the interactions."""
    if unloaded := set(needed) & set((config["unload_col"] or {}).get("inter") or []):
        raise UserError(f"unload_col leaves out the columns {sorted(unloaded)} of interactions, but this run needs them; "
                        "remove them from unload_col")
    loaded = (config["load_col"] or {"inter": "*"}).get("inter") or []
    if loaded != "*" and (missing := [column for column in needed if column not in loaded]):
        raise UserError(f"load_col loads the columns {loaded} of interactions, but this run also needs {', '.join(missing)}; "
                        f"set load_col to {{'inter': {needed}}}")


def _check_file(path: Path, form: AtomicFormat, needed: dict[str, str], histories: str | None) -> None:
    """Check the first line of a file, and that no row has more values than it.

    Args:
        needed: option -> column that it names.
        histories: column of sequences of items; None if the run reads none.
    """
    try:
        with path.open(encoding=form.encoding) as file:
            header = file.readline().rstrip("\n")
    except UNREADABLE as error:
        raise not_readable(path, error) from error
    if header.startswith("\ufeff"):
        raise UserError(f"{path} begins with a byte order mark; save it as UTF-8 without one, or set encoding to utf-8-sig")
    fields = header.split(form.field_separator)
    columns = [column.split(":")[0] for column in fields]
    for option, column in needed.items():
        if column not in columns:
            raise UserError(f"{path} has no column {column}, which {option} names; its first line is {header[:200]!r}, and "
                            f"field_separator is {form.field_separator!r}: set {option} and field_separator to match the file")
    untyped = [field for field in fields if field.count(":") != 1]
    if untyped:
        raise UserError(f"{path} has the column {untyped[0]!r} in its first line; expected a name and a type, such as "
                        f"{form.user}:token")
    check_distinct_columns(columns, path)
    if "TIME_FIELD" in needed and f"{needed['TIME_FIELD']}:float" not in fields:
        raise UserError(f"{path} has no column {needed['TIME_FIELD']}:float in its first line ({', '.join(fields)}); write "
                        "times as numbers, since RecBole puts tokens in the order of their first rows")
    _check_row_lengths(path, form, len(fields))
    if histories and f"{histories}:token_seq" not in fields:
        raise UserError(f"{path} has no column {histories}:token_seq, the history of each row; add it, or import the "
                        "interactions and remove benchmark_filename.")


def _check_row_lengths(path: Path, form: AtomicFormat, columns: int) -> None:
    """Raise UserError for the first row with more values than ``columns``.

    Without an error, pandas would leave out its last value, or read all values from the wrong columns if it is the first row.
    """
    separator = form.field_separator
    try:
        with path.open(encoding=form.encoding) as file:
            if not any(line.count(separator) >= columns for line in file):
                return
        with path.open(encoding=form.encoding, newline="") as file:  # separators within quotes are part of a value
            rows: Iterator[tuple[int, list[str]]]
            if len(separator) == 1:
                reader = csv.reader(file, delimiter=separator, quoting=quoting(path, separator, form.encoding))
                rows = ((reader.line_num, row) for row in reader)
            else:
                rows = enumerate((line.split(separator) for line in file), 1)
            line, values = next(((line, len(row)) for line, row in rows if len(row) > columns), (0, 0))
    except (*UNREADABLE, csv.Error) as error:
        raise not_readable(path, error) from error
    if line:
        raise UserError(f"{path} has {values} values in line {line}, but {columns} columns in its first line; name every "
                        "column, and remove separators at the end of lines")
