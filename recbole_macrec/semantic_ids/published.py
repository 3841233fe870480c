"""Read published semantic IDs (data/id_files.py).

Shapes: N items, L levels.
"""
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recbole_macrec.data.features import duplicates
from recbole_macrec.data.id_files import decode_ids
from recbole_macrec.errors import UserError


def read_published(path: Path, item_tokens: Sequence[str]) -> np.ndarray:
    """Read the codes [N, L] int64 of ``item_tokens``, in this order. Other items in the file are checked and ignored.

    Example: ["<a_170>", "<b_224>"] is the row (170, 224).

    Raises:
        UserError: the file has another format, items are missing or listed twice, or IDs have different lengths, unknown
            levels or invalid codes.
    """
    path = Path(path)
    ids = _load(path)
    missing = [token for token in item_tokens if token not in ids]
    if missing:
        raise UserError(f"{path}: {len(missing)} of {len(item_tokens)} items have no semantic ID, e.g. "
                        f"{missing[:5]}; add them to the file, or remove these items from the dataset.")
    rows = decode_ids(path, ids)
    return np.array([rows[token] for token in item_tokens], dtype=np.int64).reshape(len(item_tokens), -1)


def _load(path: Path) -> dict[str, list]:
    def unique(pairs: list[tuple[str, list]]) -> dict[str, list]:
        table = dict(pairs)
        if len(table) < len(pairs):
            raise UserError(f"{path}: item '{duplicates(key for key, _ in pairs)[0]}' is listed twice; keep one ID per item.")
        return table

    try:
        ids = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the JSON file with the published semantic IDs.") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: bad JSON or bad UTF-8
        raise UserError(f"{path}: cannot be read as JSON ({error}); download it again, or correct it.") from None
    if not isinstance(ids, dict) or not ids:
        raise UserError(f'{path}: expected {{"item": ["<a_1>", "<b_2>", ...], ...}}, found {type(ids).__name__} '
                        f"of length {len(ids) if isinstance(ids, (list, dict, str)) else 1}.")
    return ids
