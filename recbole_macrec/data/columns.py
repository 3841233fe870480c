"""Checks of a dataset's atomic files before RecBole reads them."""
from __future__ import annotations

from pathlib import Path

from recbole_macrec.data.atomic import AtomicFormat
from recbole_macrec.errors import UserError


def check_columns(config, folder: Path, name: str) -> None:
    """Raise UserError unless every ``.inter`` file of the dataset has the columns named in ``config``.

    RecBole reports missing files itself.
    """
    form = AtomicFormat.from_config(config)
    parts = config["benchmark_filename"]
    in_time_order = not parts and (config["eval_args"] or {}).get("order") == "TO"
    for path in [folder / f"{name}.{part}.inter" for part in parts] if parts else [folder / f"{name}.inter"]:
        if path.is_file():
            _check_header(path, form, in_time_order)


def _check_header(path: Path, form: AtomicFormat, in_time_order: bool) -> None:
    with path.open(encoding=form.encoding) as file:
        header = file.readline().rstrip("\n")
    columns = [column.split(":")[0] for column in header.split(form.field_separator)]
    needed = {"USER_ID_FIELD": form.user, "ITEM_ID_FIELD": form.item} | ({"TIME_FIELD": form.time} if in_time_order else {})
    for option, column in needed.items():
        if column not in columns:
            raise UserError(f"{path} has no column {column}, which {option} names; its first line is {header[:200]!r}, and "
                            f"field_separator is {form.field_separator!r}: set {option} and field_separator to match the file")
