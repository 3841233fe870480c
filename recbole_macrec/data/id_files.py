"""Published semantic IDs: JSON files of MQL4GRec, MACRec and LC-Rec, {"0": ["<a_170>", "<b_224>", ...], ...}; arrays of codes.

Keys are item tokens. The letter of a code is its level, a for the first. All letters of a file have the same case (lower for
text IDs, upper for image IDs).

Shapes: K tokenizations, N items, L levels.
"""
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase

import numpy as np

from recbole_macrec.config.schema.base import shown
from recbole_macrec.data.features import read_npy
from recbole_macrec.data.json_files import read_json_object
from recbole_macrec.errors import UserError

IDS_FOLDER = "semantic_ids"  # of a dataset's folder
CODE = re.compile(r"<([A-Za-z])_(0|[1-9][0-9]{0,17})>")
MAX_LEVELS = len(ascii_lowercase)
MAX_CODES = 2**16  # codes of a level; more only where there are more items


def tokenization_name(modality: str, number: int) -> str:
    """Name of the IDs of a modality in the tokenization ``number``, from 0: text, text@2, text@3, ..."""
    return modality if number == 0 else f"{modality}@{number + 1}"


def modality_of(name: str) -> str:
    """The modality of the IDs ``name``; the inverse of :func:`tokenization_name`. Names of modalities contain no @."""
    return name.partition("@")[0]


def decode_ids(path: Path, ids: Mapping[str, object]) -> dict[str, list[int]]:
    """Return the codes of each item, from the content ``ids`` of the file ``path``.

    Example: ["<a_170>", "<b_224>"] becomes [170, 224].

    Raises:
        UserError: IDs have different lengths, unknown levels, or invalid codes.
    """
    rows: dict[str, list[int]] = {}
    largest, first = max(MAX_CODES, len(ids)) - 1, None
    for item, words in ids.items():
        codes, upper = _decode(path, item, words)
        if first is None:
            first = (item, len(codes), upper)
        if len(codes) != first[1]:
            raise UserError(f"{path}: item '{item}' has {len(codes)} codes, item '{first[0]}' has {first[1]}; "
                            "give every item the same number of codes.")
        if upper != first[2]:
            raise UserError(f"{path}: item '{item}' has levels in {_case(upper)} case, item '{first[0]}' in "
                            f"{_case(first[2])} case; use one case in the whole file.")
        if max(codes) > largest:
            raise UserError(
                f"{path}: item '{item}' has the code {max(codes)}; expected at most {largest}. Number the codes of a level "
                "from 0."
            )
        rows[item] = codes
    return rows


def read_published(path: Path, item_tokens: Sequence[str]) -> np.ndarray:
    """Read the codes [N, L] int64 of ``item_tokens``, in this order. Other items in the file are checked and ignored.

    Example: ["<a_170>", "<b_224>"] is the row (170, 224).

    Raises:
        UserError: the file has another format, items are missing or listed twice, or IDs have different lengths, unknown
            levels or invalid codes.
    """
    path = Path(path)
    ids = read_json_object(path)
    if not ids:
        raise UserError(f'{path} is empty; expected {{"item": ["<a_1>", "<b_2>", ...], ...}}')
    missing = [token for token in item_tokens if token not in ids]
    if missing:
        raise UserError(f"{path}: {len(missing)} of {len(item_tokens)} items have no semantic ID, e.g. "
                        f"{missing[:5]}; add them to the file, or remove these items from the dataset.")
    rows = decode_ids(path, ids)
    return np.array([rows[token] for token in item_tokens], dtype=np.int64).reshape(len(item_tokens), -1)


def _decode(path: Path, item: str, words: object) -> tuple[list[int], bool]:
    """Codes of one item, and whether its levels are in upper case."""
    if not isinstance(words, list) or not words or len(words) > MAX_LEVELS:
        raise UserError(f"{path}: item '{item}' has {shown(words)}; expected a list of 1 to {MAX_LEVELS} codes, e.g. "
                        '["<a_170>", "<b_224>"].')
    matches = []
    for word in words:
        match = CODE.fullmatch(word) if isinstance(word, str) else None
        if match is None:
            raise UserError(f"{path}: item '{item}' has the code {shown(word)}; expected <level_code> with a whole number "
                            "from 0, e.g. <a_170>.")
        matches.append(match)
    upper = matches[0][1].isupper()
    letters = ascii_lowercase.upper() if upper else ascii_lowercase
    for level, match in enumerate(matches):
        if match[1] != letters[level]:
            raise UserError(f"{path}: item '{item}' has '{match[0]}' as code {level + 1}; its level is unknown here, "
                            f"expected '{letters[level]}'. Order the codes by level.")
    return [int(match[2]) for match in matches], upper


def read_array(path: Path) -> list[np.ndarray]:
    """The codes of each tokenization in a .npy file, [N, L] each; the file holds whole numbers [N, L] or [K, N, L].

    Raises:
        UserError: the file cannot be read, or contains other numbers.
    """
    codes = read_npy(path, str(path))
    if codes.ndim not in (2, 3) or not codes.size or not np.issubdtype(codes.dtype, np.integer) or codes.min() < 0:
        raise UserError(f"{path} has shape {codes.shape} and type {codes.dtype}; expected whole numbers from 0, of shape "
                        "[items, levels] or [tokenizations, items, levels].")
    if codes.shape[-1] > MAX_LEVELS:
        raise UserError(f"{path} has {codes.shape[-1]} levels; expected at most {MAX_LEVELS}.")
    return list(codes if codes.ndim == 3 else codes[None])


def encode_ids(codes: np.ndarray) -> list[list[str]]:
    """Codes [N, L] as in the JSON files, with lower-case letters.

    Example: [[170, 224]] becomes [["<a_170>", "<b_224>"]].
    """
    return [[f"<{ascii_lowercase[level]}_{code}>" for level, code in enumerate(row)] for row in codes.tolist()]


def _case(upper: bool) -> str:
    return "upper" if upper else "lower"
