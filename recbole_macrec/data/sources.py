"""Read what others released, or a CSV, into one form: ``Source``."""
from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from recbole_macrec.data.atomic import check_tokens, clean_text
from recbole_macrec.data.features import duplicates, listing
from recbole_macrec.errors import UserError, nearest

TEXT_FIELDS = ("title", "description", "brand", "categories")  # what released metadata files hold
_COLUMNS = {"user": ("user", "user_id"), "item": ("item", "item_id"), "timestamp": ("timestamp", "time")}


@dataclass
class Source:
    """Interactions and the catalogue; ``items`` holds tokens, ``numbers`` how the source's files name each token."""

    path: Path
    users: list[str]
    items: list[str]
    timestamps: list[float]
    catalogue: list[str]
    numbers: dict[str, str]  # item number (or CSV value) as text -> item token
    fixed: bool  # True when the source lists its whole catalogue, False when only interactions tell it
    columns: dict[str, list[str]] = field(default_factory=dict)  # text columns in catalogue order
    notes: list[str] = field(default_factory=list)


def read_source(path: Path, name: str) -> Source:
    """Read a released folder, a CSV file, or a folder with one CSV file; raise UserError saying what is wrong."""
    if not path.exists():
        raise UserError(f"SRC {path} does not exist; name a released folder, a CSV file or a folder with a CSV file")
    if path.is_file():
        if path.suffix.lower() != ".csv":
            raise UserError(f"SRC {path} is not a .csv file; name a CSV file or a folder")
        return read_csv(path)
    released = sorted(path.glob("*.inter.json"))
    if released:
        return read_released(_choose(released, path, f"{name}.inter.json"))
    tables = sorted(path.glob("*.csv"))
    if not tables:
        raise UserError(f"SRC {path} holds neither NAME.inter.json nor a .csv file; name the folder that does")
    return read_csv(_choose(tables, path, "interactions.csv"))


def read_released(inter: Path) -> Source:
    """Read ``NAME.inter.json`` (user -> item numbers in time order) with ``NAME.item2id`` (``ASIN<tab>number``)."""
    stem = inter.name.removesuffix(".inter.json")
    numbers = _read_item2id(inter.with_name(f"{stem}.item2id"))
    histories = read_json_object(inter)
    users, items, timestamps, notes = [], [], [], []
    for user, history in histories.items():
        if not isinstance(history, list) or not all(type(number) in (int, str) for number in history):
            raise UserError(f"{inter} user '{user}' is not a list of item numbers; expected {{\"user\": [0, 5, ...]}}")
        users += [user] * len(history)
        items += [str(number) for number in history]
        timestamps += range(len(history))
    check_tokens(list(histories), "user", inter)
    unknown = [number for number in dict.fromkeys(items) if number not in numbers]
    if unknown:
        raise UserError(f"{inter} has {listing(unknown, 'item number')} that {stem}.item2id lacks; use files of one release")
    if not items:
        raise UserError(f"{inter} has no interactions; check the file")
    empty = sum(not history for history in histories.values())
    if empty:
        notes.append(f"{empty} users of {inter.name} have no interactions and are left out")
    source = Source(inter, users, [numbers[number] for number in items], timestamps, list(numbers.values()), numbers,
                    fixed=True, notes=notes)
    metadata = inter.with_name(f"{stem}.item.json")
    if metadata.exists():
        source.columns = _read_metadata(metadata, numbers)
    return source


def read_csv(path: Path) -> Source:
    """Read ``user,item[,timestamp]``; rows without a timestamp keep their order."""
    users, items, timestamps = [], [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, strict=True)
            header = [column.strip() for column in next(rows, [])]
            user, item, time = (_column(header, name, path) for name in ("user", "item", "timestamp"))
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise UserError(f"{path} line {rows.line_num} has {len(row)} values; expected {len(header)} "
                                    f"({', '.join(header)})")
                users.append(row[user].strip())
                items.append(row[item].strip())
                timestamps.append(float(len(timestamps)) if time is None else _time(row[time], path, rows.line_num))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path} is not a readable CSV file ({error}); check its quotes") from error
    if not items:
        raise UserError(f"{path} has no interactions; expected rows of user,item[,timestamp]")
    catalogue = list(dict.fromkeys(items))
    if all(value.isdecimal() for value in catalogue):
        catalogue.sort(key=int)
    check_tokens(list(dict.fromkeys(users)), "user", path)
    check_tokens(catalogue, "item", path)
    notes = [] if time is not None else [f"{path.name} has no timestamp column: the order of its rows is taken as time"]
    return Source(path, users, items, timestamps, catalogue, {token: token for token in catalogue}, fixed=False, notes=notes)


def read_json_object(path: Path) -> dict:
    """Read a JSON file that is one object; a key given twice, which json would swallow, is a UserError."""
    def pairs(found: list[tuple]) -> dict:
        twice = duplicates(key for key, _ in found)
        if twice:
            raise UserError(f"{path} has {listing(twice, 'key')} more than once; keep one entry each")
        return dict(found)

    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=pairs)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); the file may be truncated, fetch it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}; expected a JSON object {{key: value}}")
    return value


def _read_item2id(path: Path) -> dict[str, str]:
    """Return {number: ASIN} in number order; numbers are 0..n-1, ids and numbers are unique."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; it must lie beside the .inter.json file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; fetch it again") from error
    tokens, numbers = [], []
    for i, line in enumerate(lines, 1):
        parts = line.split("\t")
        if len(parts) != 2 or not (parts[1].isascii() and parts[1].isdigit()):
            raise UserError(f"{path} line {i} is {line[:60]!r}; expected ASIN<tab>number")
        tokens.append(parts[0])
        numbers.append(int(parts[1]))
    check_tokens(tokens, "item", path)
    for twice, noun in ((duplicates(tokens), "item id"), (duplicates(map(str, numbers)), "item number")):
        if twice:
            raise UserError(f"{path} has {listing(twice, noun)} more than once; keep one line an item")
    if sorted(numbers) != list(range(len(numbers))):
        raise UserError(f"{path} numbers {len(numbers)} items up to {max(numbers)}; expected 0 to n-1 without gaps")
    return {str(number): token for number, token in sorted(zip(numbers, tokens))}


def _read_metadata(path: Path, numbers: dict[str, str]) -> dict[str, list[str]]:
    metadata = read_json_object(path)
    unusable = [number for number in numbers if not isinstance(metadata.get(number), dict)]
    if unusable:
        raise UserError(f"{path} has no metadata object for {listing(unusable, 'item number')}; use files of one release")
    columns = {name: [clean_text(metadata[number].get(name)) for number in numbers] for name in TEXT_FIELDS}
    return {name: values for name, values in columns.items() if any(values)}


def _choose(found: list[Path], folder: Path, preferred: str) -> Path:
    if len(found) == 1:
        return found[0]
    chosen = [path for path in found if path.name == preferred]
    if not chosen:
        raise UserError(f"SRC {folder} holds several files ({', '.join(path.name for path in found)}) and none is "
                        f"{preferred}; name one file or a folder with one")
    return chosen[0]


def _column(header: list[str], name: str, path: Path) -> int | None:
    places = [i for i, column in enumerate(header) if column.lower() in _COLUMNS[name]]
    if len(places) > 1:
        raise UserError(f"{path} has {len(places)} columns for {name} ({', '.join(header)}); keep one")
    if not places and name != "timestamp":
        hint = nearest(name, header).replace("Did you mean", "Is it")
        raise UserError(f"{path} has no column '{name}' in its first line ({', '.join(header)}); "
                        f"expected user,item[,timestamp].{hint}")
    return places[0] if places else None


def _time(value: str, path: Path, line: int) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{path} line {line} has timestamp {value!r}; expected a number such as Unix seconds")
    return number
