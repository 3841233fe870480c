"""Read item texts released as word numbers: an array [2, n] whose columns are (item number, word number)."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from recbole_macrec.data.features import format_items, read_npy
from recbole_macrec.data.importers.sources import Source
from recbole_macrec.errors import UserError

WORDS_COLUMN = "title"


def read_words(path: Path, source: Source) -> list[str]:
    """Return the text of every item of ``source``: its word numbers, such as "17 4 17", or "" if it has none.

    Raises:
        UserError: unless the file is an array [2, n] of integers whose items are all in ``source``.
    """
    words = read_npy(path, f"--words={path}")
    if words.ndim != 2 or len(words) != 2 or words.dtype.kind not in "iu":
        raise UserError(f"--words={path} contains {words.dtype} {list(words.shape)}; expected integers [2, n]: item numbers "
                        "and word numbers")
    unknown = [str(number) for number in np.unique(words[0]).tolist() if str(number) not in source.numbers]
    if unknown:
        raise UserError(
            f"--words={path} has words of {format_items(unknown, 'item number')} that {source.path} lacks; use files of "
            "one release"
        )
    texts: dict[str, list[str]] = {token: [] for token in source.catalogue}
    for number, word in zip(*words.tolist()):
        texts[source.numbers[str(number)]].append(str(word))
    return [" ".join(text) for text in texts.values()]
