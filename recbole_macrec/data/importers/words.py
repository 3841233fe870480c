"""Read item texts released as word numbers: an array [2, n] whose columns are (item number, word number)."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from recbole_macrec.data.features import format_items
from recbole_macrec.data.importers.sources import Source
from recbole_macrec.errors import UserError, one_line

COLUMN = "title"


def read_words(path: Path, source: Source) -> list[str]:
    """Return the text of every item of ``source``: its word numbers, such as "17 4 17", or "" if it has none.

    Raises:
        UserError: unless the file is an array [2, n] of integers whose items are all in ``source``.
    """
    try:
        words = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"--words={path} does not exist; check the path") from None
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"--words={path} is not a readable .npy file ({one_line(error)}); write it again with "
                        "numpy.save") from error
    if not isinstance(words, np.ndarray) or words.ndim != 2 or len(words) != 2 or words.dtype.kind not in "iu":
        seen = f"{words.dtype} {list(words.shape)}" if isinstance(words, np.ndarray) else "an .npz archive"
        raise UserError(f"--words={path} contains {seen}; expected integers [2, n]: item numbers and word numbers")
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
