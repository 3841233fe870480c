"""RecBole's own files: ``NAME.inter``, also as MMRec releases it, and benchmark files ``NAME.train.inter`` and so on."""
from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from recbole_macrec.data import atomic
from recbole_macrec.data.atomic import AtomicFormat, check_tokens, clean_text
from recbole_macrec.data.features import listing
from recbole_macrec.data.importers.detected_files import find_beside
from recbole_macrec.data.importers.raw.folder import IMAGE_COLUMNS
from recbole_macrec.data.importers.sources import NO_OPTIONS, Source, find_column, header_of, read_table, rows_of
from recbole_macrec.data.numbers import plain_numbers
from recbole_macrec.errors import UserError

_FIRST_COLUMN = re.compile(r"[^:]+:(?:token|float)(?:_seq)?(?P<separator>[^\w:]+)")
PARTS = ("train", "valid", "test")


def read_inter(path: Path, reads: Mapping[str, str] = NO_OPTIONS) -> Source:
    """Read ``NAME.inter`` of RecBole (``user_id:token ...``) or MMRec (``userID itemID rating timestamp x_label``).

    The items of a ``NAME.item`` beside it are the catalogue, and its columns are kept, but for paths of images. The first line
    tells the separator unless ``reads``, RecBole's options for columns and separators, does.
    """
    separator = _separator(path, reads)
    header = _names(path, separator)
    source = read_table(path, header, separator, reads)
    if "x_label" in header:
        source.notes.append(f"the split in column x_label of {path.name} is not used: every model here splits leave-one-out")
    item = header[find_column(header, "item", path, reads)]
    return _with_items(source, path.parent, path.name.removesuffix(".inter"), item, separator, reads)


def read_benchmark(train: Path, reads: Mapping[str, str] = NO_OPTIONS) -> Source:
    """Read ``NAME.train.inter``, ``NAME.valid.inter`` and ``NAME.test.inter``, rows with a history such as ``item_id_list``.

    The interactions are put together from the rows, and leave-one-out splits them as the files do. UserError where that
    cannot be: rows of a user that contradict each other, or more than one row of a user for validation or for test.
    """
    name, separator = train.name.removesuffix(".train.inter"), _separator(train, reads)
    user_field, item_field = reads.get("USER_ID_FIELD", "user_id"), reads.get("ITEM_ID_FIELD", "item_id")
    past_field, past_separator = f"{item_field}_list", reads.get("seq_separator", " ")
    use = f"use them as they are: --benchmark_filename=\"['train','valid','test']\" --data_path={train.parent.parent}"
    histories: dict[str, list[str]] = {}
    for part in PARTS:
        path, seen = train.with_name(f"{name}.{part}.inter"), set()
        header = _names(path, separator)
        lacks = [column for column in (user_field, past_field, item_field) if column not in header]
        if lacks:
            raise UserError(f"{path} has no column {lacks[0]} in its first line ({', '.join(header)}); expected {user_field}:token, "
                            f"{past_field}:token_seq and {item_field}:token, or other names in --USER_ID_FIELD and --ITEM_ID_FIELD")
        user_at, past_at, item_at = (header.index(column) for column in (user_field, past_field, item_field))
        for line, row in rows_of(path, separator, header):
            user, item = row[user_at].strip(), row[item_at].strip()
            past = [token for token in row[past_at].strip().split(past_separator) if token]
            history = histories.setdefault(user, past[:])
            if history[len(history) - len(past):] != past:
                raise UserError(f"{path} line {line} gives user '{user}' another history than the lines before it, so the "
                                f"interactions can't be put together; {use}")
            if user in seen and part != "train":
                raise UserError(f"{path} has user '{user}' more than once, which leave-one-out would split otherwise; {use}")
            seen.add(user)
            history.append(item)
        if seen != set(histories):
            raise UserError(f"{path} lacks {listing(sorted(set(histories) - seen), 'user')} of the files before it, which "
                            f"leave-one-out would split otherwise; {use}")
    users = [user for user, history in histories.items() for _ in history]
    items = [item for history in histories.values() for item in history]
    if not items:
        raise UserError(f"{train} has no interactions; check the file")
    times = [float(place) for history in histories.values() for place in range(len(history))]
    catalogue = list(dict.fromkeys(items))
    check_tokens(list(histories), "user", train)
    check_tokens(catalogue, "item", train)
    source = Source(train, users, items, times, catalogue, {item: item for item in catalogue}, fixed=False)
    return _with_items(source, train.parent, name, item_field, separator, reads)


def _separator(path: Path, reads: Mapping[str, str]) -> str:
    """Return ``field_separator`` of ``reads``, or else what follows the type of the first column; a tab where it has none."""
    if "field_separator" in reads:
        return reads["field_separator"]
    typed = _FIRST_COLUMN.match("".join(header_of(path, "\x1f")))
    return typed["separator"] if typed else "\t"


def _names(path: Path, separator: str) -> list[str]:
    return [column.split(":")[0].strip() for column in header_of(path, separator)]


def _seq_separator(sequences: pd.DataFrame, path: Path, reads: Mapping[str, str], notes: list[str]) -> str:
    """Return ``seq_separator`` of ``reads``, or else a space, or what the sequences have where none of them has a space."""
    if "seq_separator" in reads:
        return reads["seq_separator"]
    text = "".join("".join(sequences[column]) for column in sequences)
    mark = next((mark for mark in "|;," if mark in text), None)
    if mark is None or " " in text:
        return " "
    notes.append(f"{path.name}: sequences are read as separated by '{mark}'; --seq_separator names another separator")
    return mark


def _with_items(source: Source, folder: Path, name: str, item: str, separator: str, reads: Mapping[str, str]) -> Source:
    """Find features and IDs, and take catalogue and columns of ``NAME.item`` where there is one; UserError if it lacks items."""
    source.found, path = find_beside(source.path, name), folder / f"{name}.item"
    if not path.is_file():
        return source
    frame = atomic.read_items(folder, name, AtomicFormat(item=item, field_separator=separator))
    catalogue = frame["item_id"].tolist()
    check_tokens(catalogue, "item", path)
    known = set(catalogue)
    missing = [item for item in source.catalogue if item not in known]
    if missing:
        raise UserError(f"{path} lacks {listing(missing, 'item')} of {source.path.name}; give every item a row")
    types = dict(column.split(":") for column in header_of(path, separator) if column.count(":") == 1)
    source.notes += [f"{path.name}: column {column} is left out, as import does not copy its images; items.csv can name images"
                     for column in types if column in IMAGE_COLUMNS]
    types = {column: kind for column, kind in types.items() if column not in (item, *IMAGE_COLUMNS)}
    mark = _seq_separator(frame[[column for column, kind in types.items() if kind.endswith("_seq")]], path, reads, source.notes)
    source.catalogue, source.fixed = catalogue, True
    for column, kind in types.items():
        values = frame[column].str.replace(mark, " ", regex=False) if kind.endswith("_seq") else frame[column]
        numbers = kind.startswith("float")
        source.columns[f"{column}:{kind}"] = (plain_numbers(values.tolist(), column, catalogue, path, source.notes) if numbers
                                              else [clean_text(value) for value in values])
    numbered = sorted(catalogue, key=lambda item: (len(item), item)) == [str(i) for i in range(len(catalogue))]
    source.numbers = {item: item for item in catalogue} if numbered and catalogue == sorted(catalogue, key=int) else {}
    return source
