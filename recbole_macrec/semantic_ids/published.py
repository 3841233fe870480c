"""Read published semantic IDs (data/id_files.py).

Shapes: N items, L levels.
"""
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recbole_macrec.data.id_files import decode_ids
from recbole_macrec.data.json_files import read_json_object
from recbole_macrec.errors import UserError


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
