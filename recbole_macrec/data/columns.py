"""Checks of a dataset's atomic files before RecBole reads them."""
from __future__ import annotations

import csv
from pathlib import Path

from recbole.utils import ModelType

from recbole_macrec.data.atomic import UNREADABLE, AtomicFormat, check_distinct_columns, not_readable
from recbole_macrec.errors import UserError


def check_columns(config, folder: Path, name: str) -> None:
    """Raise UserError unless every ``.inter`` file of the dataset has the columns that a run with ``config`` needs, and
    ``load_col`` loads them.

    RecBole reports missing files itself.
    """
    form = AtomicFormat.from_config(config)
    parts, sequential = config["benchmark_filename"], config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    needed = {"USER_ID_FIELD": form.user, "ITEM_ID_FIELD": form.item}
    in_time_order = not parts and (config["eval_args"] or {}).get("order") == "TO"
    if in_time_order:
        needed["TIME_FIELD"] = form.time
    for path in [folder / f"{name}.{part}.inter" for part in parts] if parts else [folder / f"{name}.inter"]:
        if path.is_file():
            _check_header(path, form, needed, form.item + config["LIST_SUFFIX"] if parts and sequential else None)
    _check_loaded(config, list(needed.values()))


def _check_loaded(config, needed: list[str]) -> None:
    """Raise UserError unless ``load_col`` loads the columns ``needed`` of the interactions."""
    loaded = (config["load_col"] or {"inter": "*"}).get("inter") or []
    if loaded != "*" and (missing := [column for column in needed if column not in loaded]):
        raise UserError(f"load_col loads the columns {loaded} of interactions, but this run also needs {', '.join(missing)}; "
                        f"set load_col to {{'inter': {needed}}}")


def _check_header(path: Path, form: AtomicFormat, needed: dict[str, str], histories: str | None) -> None:
    """Check the first two lines of a file.

    Args:
        needed: option -> column that it names.
        histories: column of sequences of items; None if the run reads none.
    """
    try:
        with path.open(encoding=form.encoding) as file:
            header, first_row = (file.readline().rstrip("\n") for _ in range(2))
    except UNREADABLE as error:
        raise not_readable(path, error) from error
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
    one_character = len(form.field_separator) == 1
    values = (next(csv.reader([first_row], delimiter=form.field_separator)) if one_character else
              first_row.split(form.field_separator))
    if len(values) > len(fields):  # pandas would read the values of each column from the next one
        raise UserError(f"{path} has {len(values)} values in line 2, but {len(fields)} columns in its first line; name every "
                        "column, and remove separators at the end of lines")
    if histories and f"{histories}:token_seq" not in fields:
        raise UserError(f"{path} has no column {histories}:token_seq, the history of each row; add it, or import the "
                        "interactions and remove benchmark_filename.")
