"""Read the folders released with MQL4GRec, MACRec, LC-Rec and LETTER: histories, item numbers, texts, features and IDs."""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from recbole_macrec.data.atomic import check_tokens, clean_text
from recbole_macrec.data.attributes import CATEGORY_COLUMN, category_tokens
from recbole_macrec.data.features import duplicates, format_items
from recbole_macrec.data.importers.detected_files import find_beside
from recbole_macrec.data.importers.sources import Source, is_item_number
from recbole_macrec.data.json_files import read_json_object
from recbole_macrec.errors import UserError

TEXT_KEYS = ("title", "description", "brand", "categories")  # keys of the released metadata files


def read_released(inter: Path) -> Source:
    """Read ``NAME.inter.json`` (user -> item numbers in time order) and the files beside it.

    ``NAME.item2id`` (``ASIN<tab>number``) gives the item tokens. LC-Rec and LETTER do not release it: then item numbers are the
    tokens, and ``NAME.item.json`` or the ID file gives the catalogue. Feature and ID files are detected by their names.
    """
    stem, notes = inter.name.removesuffix(".inter.json"), []
    item2id, metadata = inter.with_name(f"{stem}.item2id"), inter.with_name(f"{stem}.item.json")
    detected = find_beside(inter, stem)
    texts = read_json_object(metadata) if metadata.exists() else None
    histories = read_json_object(inter)
    users, items, timestamps = _flatten(histories, inter)
    catalogue_file = next((path for path in (item2id, metadata, *sum(detected.ids.values(), [])) if path.exists()), None)
    if catalogue_file == item2id:
        numbers = _read_item2id(item2id)
    else:
        notes.append(f"{item2id.name} does not exist: item numbers are used as item tokens")
        numbers = _numbers_as_tokens(read_json_object(catalogue_file) if catalogue_file else items, catalogue_file or inter,
                                     complete=catalogue_file is not None)
    unknown = [number for number in dict.fromkeys(items) if number not in numbers]
    if unknown:
        raise UserError(
            f"{inter} has {format_items(unknown, 'item number')} that {(catalogue_file or inter).name} lacks; use files of "
            "one release"
        )
    empty = sum(not history for history in histories.values())
    if empty:
        notes.append(f"{empty} users of {inter.name} have no interactions and are left out")
    source = Source(inter, users, [numbers[number] for number in items], timestamps, list(numbers.values()), numbers,
                    fixed=catalogue_file is not None, notes=notes, detected_files=detected)
    if texts is not None:
        source.columns = _text_columns(texts, numbers, metadata)
    return source


def _flatten(histories: dict, inter: Path) -> tuple[list[str], list[str], list[float]]:
    """Return the user, item number and position in the history of every interaction."""
    users: list[str] = []
    items: list[str] = []
    timestamps: list[float] = []
    for user, history in histories.items():
        if not isinstance(history, list) or not all(type(number) in (int, str) for number in history):
            raise UserError(f"{inter} user '{user}' is not a list of item numbers; expected {{\"user\": [0, 5, ...]}}")
        users += [user] * len(history)
        items += [str(number) for number in history]
        timestamps += range(len(history))
    check_tokens(list(histories), "user", inter)
    if not items:
        raise UserError(f"{inter} has no interactions; check the file")
    return users, items, timestamps


def _numbers_as_tokens(numbers: Iterable[str], path: Path, complete: bool) -> dict[str, str]:
    """Return {number: number}, sorted; UserError if one is not a number, or for gaps if ``path`` lists the complete
    catalogue."""
    distinct = list(dict.fromkeys(numbers))
    wrong = [number for number in distinct if not is_item_number(number)]
    if wrong:
        raise UserError(
            f"{path} has {format_items(wrong, 'item')} that are not item numbers; put the .item2id file (ASIN<tab>number) "
            "of the release beside it"
        )
    distinct.sort(key=int)
    if complete:
        _check_gapless(list(map(int, distinct)), path)
    return {number: number for number in distinct}


def _check_gapless(numbers: list[int], path: Path) -> None:
    if sorted(numbers) != list(range(len(numbers))):
        raise UserError(
            f"{path} numbers {len(numbers)} items up to {max(numbers)}; expected the numbers 0 to {len(numbers) - 1} without "
            "gaps"
        )


def _read_item2id(path: Path) -> dict[str, str]:
    """Return {item number: ASIN} in number order; UserError unless the numbers are 0..n-1 and the ASINs are unique."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; download it again") from error
    tokens, numbers = [], []
    for i, line in enumerate(lines, 1):
        parts = line.split("\t")
        if len(parts) != 2 or not (parts[1].isascii() and parts[1].isdigit()):
            raise UserError(f"{path} line {i} is {line[:60]!r}; expected ASIN<tab>number")
        tokens.append(parts[0])
        numbers.append(int(parts[1]))
    check_tokens(tokens, "item", path)
    for repeated, noun in ((duplicates(tokens), "item id"), (duplicates(map(str, numbers)), "item number")):
        if repeated:
            raise UserError(f"{path} has {format_items(repeated, noun)} more than once; keep one line per item")
    _check_gapless(numbers, path)
    return {str(number): token for number, token in sorted(zip(numbers, tokens))}


def _text_columns(texts: dict, numbers: dict[str, str], path: Path) -> dict[str, list[str]]:
    unusable = [number for number in numbers if not isinstance(texts.get(number), dict)]
    if unusable:
        raise UserError(f"{path} has no metadata object for {format_items(unusable, 'item number')}; use files of one release")
    columns = {name: [clean_text(texts[number].get(name)) for number in numbers] for name in TEXT_KEYS}
    columns[CATEGORY_COLUMN] = [category_tokens(texts[number].get("categories")) for number in numbers]
    return {f"{name}:token_seq": values for name, values in columns.items() if any(values)}
