"""Read RecBole's files: ``NAME.inter``, also in MMRec's format, and benchmark files ``NAME.train.inter`` etc."""
from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from recbole_macrec.data import atomic
from recbole_macrec.data.atomic import AtomicFormat, check_tokens, clean_text
from recbole_macrec.data.encoders.content import TEXT_FIELDS
from recbole_macrec.data.features import format_items
from recbole_macrec.data.importers.detected_files import find_beside
from recbole_macrec.data.importers.raw.folder import IMAGE_COLUMNS
from recbole_macrec.data.importers.sources import (
    Source,
    dropped_columns,
    find_column,
    header_of,
    read_interactions,
    read_rows,
    usual_names,
)
from recbole_macrec.data.numbers import plain_numbers
from recbole_macrec.errors import UserError

_FIRST_COLUMN = re.compile(r"[^:]+:(?:token|float)(?:_seq)?(?P<separator>[^\w:]+)")
PARTS = ("train", "valid", "test")


def read_inter(path: Path, table_options: Mapping[str, str]) -> Source:
    """Read ``NAME.inter`` of RecBole (``user_id:token ...``) or MMRec (``userID itemID rating timestamp x_label``).

    If there is a ``NAME.item`` beside it, its items are the catalogue and its columns are kept, except image columns.

    Args:
        table_options: RecBole's options for columns and separators; by default the separator is detected from the first line.
    """
    separator = _separator(path, table_options)
    header = _names(path, separator)
    source = read_interactions(path, header, separator, table_options)
    if "x_label" in header:
        source.notes.append(
            f"the split in column x_label of {path.name} is not used, because the models here use a leave-one-out split"
        )
    item = header[find_column(header, "item", path, table_options)]
    return _with_items(source, path.parent, path.name.removesuffix(".inter"), item, separator, table_options)


def read_benchmark(train: Path, table_options: Mapping[str, str]) -> Source:
    """Read ``NAME.train.inter``, ``NAME.valid.inter`` and ``NAME.test.inter``, whose rows have a history such as
    ``item_id_list``.

    The interactions of a user are reconstructed from the rows, so that a leave-one-out split gives the same parts as the files.

    Raises:
        UserError: if that is impossible: the rows of a user contradict each other, a user has several rows for validation or
            test, or is missing from one of the files.
    """
    name, separator = train.name.removesuffix(".train.inter"), _separator(train, table_options)
    user_field, item_field = table_options.get("USER_ID_FIELD", "user_id"), table_options.get("ITEM_ID_FIELD", "item_id")
    history_field, history_separator = f"{item_field}_list", table_options.get("seq_separator", " ")
    use_directly = (
        f"use the files without import: --benchmark_filename=\"['train','valid','test']\" --data_path={train.parent.parent}"
    )
    histories: dict[str, list[str]] = {}
    for part in PARTS:
        path, seen = train.with_name(f"{name}.{part}.inter"), set()
        header = _names(path, separator)
        missing = [column for column in (user_field, history_field, item_field) if column not in header]
        if missing:
            raise UserError(
                f"{path} has no column {missing[0]} in its first line ({', '.join(header)}); expected {user_field}:token, "
                f"{history_field}:token_seq and {item_field}:token, or other names in --USER_ID_FIELD and --ITEM_ID_FIELD"
            )
        user_at, history_at, item_at = (header.index(column) for column in (user_field, history_field, item_field))
        for line, row in read_rows(path, separator, header):
            user, item = row[user_at].strip(), row[item_at].strip()
            row_history = [token for token in row[history_at].strip().split(history_separator) if token]
            history = histories.setdefault(user, row_history[:])
            if history[len(history) - len(row_history):] != row_history:
                raise UserError(f"{path} line {line} gives user '{user}' another history than the lines before it, so the "
                                f"interactions cannot be reconstructed; {use_directly}")
            if user in seen and part != "train":
                raise UserError(f"{path} has user '{user}' more than once, unlike a leave-one-out split; {use_directly}")
            seen.add(user)
            history.append(item)
        if seen != set(histories):
            raise UserError(f"{path} lacks {format_items(sorted(set(histories) - seen), 'user')} of the files before it, "
                            f"unlike a leave-one-out split; {use_directly}")
    users = [user for user, history in histories.items() for _ in history]
    items = [item for history in histories.values() for item in history]
    if not items:
        raise UserError(f"{train} has no interactions; check the file")
    times = [float(position) for history in histories.values() for position in range(len(history))]
    catalogue = list(dict.fromkeys(items))
    check_tokens(list(histories), "user", train)
    check_tokens(catalogue, "item", train)
    read = (user_field, history_field, item_field)
    notes = dropped_columns(train, [name for name in _names(train, separator) if name not in read])
    source = Source(train, users, items, times, catalogue, {item: item for item in catalogue}, fixed=False, notes=notes)
    return _with_items(source, train.parent, name, item_field, separator, table_options)


def _separator(path: Path, table_options: Mapping[str, str]) -> str:
    """Return ``field_separator`` of ``table_options``, else the characters after the type of the first column, else a tab."""
    if "field_separator" in table_options:
        return table_options["field_separator"]
    match = _FIRST_COLUMN.match("".join(header_of(path, "\x1f")))
    separator = match["separator"] if match else "\t"
    if len(separator) > 1:
        raise UserError(
            f"{path} has {separator!r} between the columns of its first line; expected one character, such as a tab"
        )
    return separator


def _names(path: Path, separator: str) -> list[str]:
    return [column.split(":")[0].strip() for column in header_of(path, separator)]


def _seq_separator(sequences: pd.DataFrame, path: Path, table_options: Mapping[str, str], notes: list[str]) -> str:
    """Return ``seq_separator`` of ``table_options``, else a space, or the separator found in sequences that have no space."""
    if "seq_separator" in table_options:
        return table_options["seq_separator"]
    text = "".join("".join(sequences[column]) for column in sequences)
    separator = next((character for character in "|;," if character in text), None)
    if separator is None or " " in text:
        return " "
    notes.append(f"{path.name}: sequences are read as separated by '{separator}'; --seq_separator sets another separator")
    return separator


def _with_items(source: Source, folder: Path, name: str, item: str, separator: str, table_options: Mapping[str, str]) -> Source:
    """Add detected feature and ID files, and the catalogue and columns of ``NAME.item`` if it exists, to ``source``.

    Raises:
        UserError: if ``NAME.item`` is unusable or lacks an item of the interactions.
    """
    source.detected_files, path = find_beside(source.path, name), folder / f"{name}.item"
    if not path.is_file():
        return source
    frame = atomic.read_items(folder, name, AtomicFormat(item=item, field_separator=separator))
    catalogue = frame["item_id"].tolist()
    check_tokens(catalogue, "item", path)
    numbered = set(catalogue) == {str(i) for i in range(len(catalogue))}
    if numbered:  # files by row number have the rows in this order
        frame = frame.sort_values("item_id", key=lambda tokens: tokens.astype(int), ignore_index=True)
        catalogue = frame["item_id"].tolist()
    known = set(catalogue)
    missing = [item for item in source.catalogue if item not in known]
    if missing:
        raise UserError(f"{path} lacks {format_items(missing, 'item')} of {source.path.name}; give every item a row")
    header = header_of(path, separator)
    types = dict(column.split(":") for column in header if column.count(":") == 1)
    untyped = [column for column in header if column.count(":") != 1 and column != item]
    if untyped:
        source.notes.append(f"{path.name}: columns without a type are not imported: {', '.join(untyped)}; write "
                            f"{untyped[0]}:token_seq in its first line to import texts")
    source.notes += [
        f"{path.name}: column {column} is left out, because its images are not copied; name images in an items.csv to import "
        "them"
        for column in types
        if column in IMAGE_COLUMNS
    ]
    types = {column: kind for column, kind in types.items() if column not in (item, *IMAGE_COLUMNS)}
    seq_separator = _seq_separator(
        frame[[column for column, kind in types.items() if kind.endswith("_seq")]], path, table_options, source.notes
    )
    source.catalogue, source.fixed = catalogue, True
    for (column, kind), name in zip(types.items(), usual_names(list(types), path, source.notes)):
        values = frame[column]
        if kind == "token_seq" and name not in TEXT_FIELDS and seq_separator != " ":
            values = values.map(lambda tokens: " ".join("_".join(token.split()) for token in tokens.split(seq_separator)))
        elif kind.endswith("_seq"):
            values = values.str.replace(seq_separator, " ", regex=False)
        if kind.startswith("float"):
            source.columns[f"{name}:{kind}"] = plain_numbers(
                values.tolist(), column, catalogue, path, source.notes, sequence=kind.endswith("_seq")
            )
        else:
            source.columns[f"{name}:{kind}"] = [clean_text(value) for value in values]
    source.numbers = {item: item for item in catalogue} if numbered else {}
    return source
