"""Read and write RecBole's atomic files."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeGuard

import pandas as pd

from recbole_macrec.config.options import import_command
from recbole_macrec.data.features import duplicates, format_items
from recbole_macrec.data.quoting import quoting
from recbole_macrec.errors import UserError, one_line

# pandas, and therefore RecBole, reads these as missing values. RecBole pads with [PAD].
RESERVED = {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
            "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "[PAD]"}
_CONTROL = dict.fromkeys((*range(32), 127), " ")


class AtomicFormat(NamedTuple):
    """Column names and separators of the atomic files of a dataset; the defaults are RecBole's."""

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    field_separator: str = "\t"
    seq_separator: str = " "
    encoding: str = "utf-8"

    @classmethod
    def from_config(cls, config) -> AtomicFormat:
        """Return the format set in ``config``, RecBole's Config or a dictionary of its options."""
        given = {name: config[option] for name, option in FORMAT_OPTIONS.items() if option in config}
        return cls(**{name: value for name, value in given.items() if value})


FORMAT_OPTIONS = {"user": "USER_ID_FIELD", "item": "ITEM_ID_FIELD", "time": "TIME_FIELD", "field_separator": "field_separator",
                  "seq_separator": "seq_separator", "encoding": "encoding"}
DEFAULT_FORMAT = AtomicFormat()


def readable_token(token: object) -> TypeGuard[str]:
    """Return whether RecBole reads an id unchanged: not a reserved word, no tab, line break, leading or trailing space."""
    return (isinstance(token, str) and token not in RESERVED and token == token.strip() and "\t" not in token
            and len(token.splitlines()) == 1)


def check_tokens(tokens: list[str], noun: str, path: Path) -> None:
    """Raise UserError for ids that RecBole would read incorrectly; see :func:`readable_token`."""
    bad = [token for token in tokens if not readable_token(token)]
    if bad:
        raise UserError(f"{path} has {format_items(bad, noun + ' id')} that RecBole cannot read (empty, a word for a missing "
                        "value, or with a tab, a line break, or a leading or trailing space); rename them")


def clean_text(value: object) -> str:
    """Return ``value`` as text for an atomic file: lists are joined, white space is collapsed, None becomes "".

    Control characters count as white space. A lone surrogate ("\\ud83d"), which JSON can hold but UTF-8 cannot, becomes "?".
    """
    if isinstance(value, (list, tuple)):
        value = " ".join(clean_text(part) for part in value)
    if value is None:
        return ""
    return " ".join(str(value).translate(_CONTROL).encode("utf-8", "replace").decode("utf-8").split())


def write(path: Path, columns: dict[str, list], form: AtomicFormat = DEFAULT_FORMAT) -> None:
    """Write an atomic file.

    Args:
        path: the file to write.
        columns: ``name:type`` -> values; the parts of a sequence are separated by spaces.
        form: column names and separators of the file.
    """
    write_table(path, _separated(pd.DataFrame(columns), form), form)


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]], form: AtomicFormat = DEFAULT_FORMAT) -> None:
    """Write the same file as :func:`write`, from rows that need not fit into memory together."""
    rows = iter(rows)
    write_table(path, pd.DataFrame(columns=list(header)), form)
    while chunk := list(islice(rows, 4096)):
        _separated(pd.DataFrame(chunk, columns=list(header)), form).to_csv(path, mode="a", header=False, **_dialect(form))


def read_table(path: Path, form: AtomicFormat, skip_blank_lines: bool = True) -> pd.DataFrame:
    """Read an atomic file as text, without NaN; columns are ``name:type``.

    Raises:
        ValueError: of pandas, or if the first row has more values than there are columns, which pandas would shift.
    """
    table = pd.read_csv(path, sep=form.field_separator, dtype=str, keep_default_na=False, na_filter=False,
                        encoding=form.encoding, skip_blank_lines=skip_blank_lines,
                        engine="c" if len(form.field_separator) == 1 else "python",
                        quoting=quoting(path, form.field_separator, form.encoding))
    if len(table) and not isinstance(table.index, pd.RangeIndex):
        raise ValueError("its rows have more values than its first line has columns")
    return table


# Errors of reading an atomic file: those of pandas are ValueErrors, as is a wrong encoding; an unknown one is a LookupError.
UNREADABLE = (ValueError, LookupError)


def not_readable(path: Path, error: Exception) -> UserError:
    """Return the error for a file whose reading ended with ``error``, one of UNREADABLE."""
    return UserError(f"{path} is not a readable atomic file ({one_line(error)}); correct it, or set encoding and "
                     "field_separator to match it")


def check_distinct_columns(names: Sequence[str], path: Path) -> None:
    """Raise a UserError if two columns of an atomic file have the same name."""
    if twice := duplicates(names):
        raise UserError(f"{path} has {format_items(twice, 'column')} more than once; rename or remove one")


def write_table(path: Path, table: pd.DataFrame, form: AtomicFormat) -> None:
    """Write ``table`` so that :func:`read_table` reads it back."""
    table.to_csv(path, **_dialect(form))


def _dialect(form: AtomicFormat) -> dict:
    return {"sep": form.field_separator, "index": False, "encoding": form.encoding, "lineterminator": "\n"}


def _separated(table: pd.DataFrame, form: AtomicFormat) -> pd.DataFrame:
    """Return ``table`` with the spaces in its sequences replaced by ``seq_separator``."""
    if form.seq_separator == " ":
        return table
    sequences = [column for column in table if column.endswith("_seq")]
    return table.assign(**{column: table[column].str.replace(" ", form.seq_separator, regex=False) for column in sequences})


def read_items(dataset_folder: Path, name: str, form: AtomicFormat = DEFAULT_FORMAT) -> pd.DataFrame:
    """Read ``NAME.item`` as text, without NaN.

    Column names have no types. The item column is always called ``item_id``, whatever its name in the file. The parts of
    sequences are separated by spaces.

    Raises:
        UserError: if the file is missing or unreadable, has no item column, or lists a column or an item twice.
    """
    path = Path(dataset_folder) / f"{name}.item"
    try:
        frame = read_table(path, form)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; import the dataset first: {import_command(dataset_folder, name)}") from None
    except UNREADABLE as error:
        raise not_readable(path, error) from error
    names = [str(column).split(":")[0] for column in frame.columns]
    check_distinct_columns(names, path)
    if form.seq_separator != " ":
        for column in frame.columns[frame.columns.str.endswith("_seq")]:
            frame[column] = frame[column].str.replace(form.seq_separator, " ", regex=False)
    frame.columns = names
    if form.item not in frame:
        raise UserError(
            f"{path} has no column {form.item}:token, which ITEM_ID_FIELD names (columns: {', '.join(frame.columns)}); "
            "set ITEM_ID_FIELD and field_separator to match the file, or import it again"
        )
    if form.item != "item_id":
        frame = frame.drop(columns="item_id", errors="ignore").rename(columns={form.item: "item_id"})
    repeated = list(frame.loc[frame["item_id"].duplicated(), "item_id"].unique())
    if repeated:
        raise UserError(f"{path} lists {format_items(repeated, 'item')} more than once; keep one row per item")
    return frame
