"""Item features keyed by item token: a matrix ``features/<modality>.npy`` and its items ``features/<modality>.items.txt``.

Shapes: n items in the feature file, d feature dimensions.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_macrec.errors import UserError, one_line
from recbole_macrec.utils.blocks import non_finite_rows
from recbole_macrec.utils.files import atomic_write

FOLDER = "features"
_MODALITY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class FeatureTable:
    """Features of one modality: row i of ``matrix`` belongs to ``item_tokens[i]``."""

    item_tokens: tuple[str, ...]
    matrix: np.ndarray  # float32 [n, d]; a memory map if loaded from a file

    @classmethod
    def load(cls, dataset_folder: Path | str, modality: str) -> FeatureTable:
        """Read the features of ``modality``; raise UserError if a file is unusable or the two files do not match."""
        npy, txt = feature_paths(dataset_folder, modality)
        matrix = read_matrix(npy)
        tokens = read_tokens(txt)
        if len(tokens) != len(matrix):
            raise UserError(f"{npy} has {len(matrix)} rows but {txt} names {len(tokens)} items; import the dataset again")
        check_finite(matrix, tokens, npy)
        return cls(tuple(tokens), matrix)

    def save(self, dataset_folder: Path | str, modality: str) -> None:
        """Write the two files, each under a temporary name first, so that a reader never sees half a file."""
        check_modality(modality)
        npy, txt = feature_paths(dataset_folder, modality)
        npy.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(npy) as new_npy, atomic_write(txt) as new_txt:  # the matrix is renamed last
            with new_npy.open("wb") as file:
                np.save(file, np.ascontiguousarray(self.matrix, dtype=np.float32))
            new_txt.write_text("".join(f"{token}\n" for token in self.item_tokens), encoding="utf-8")

    def row_numbers(self, tokens: Sequence[str]) -> np.ndarray:
        """Return the row numbers of ``tokens`` in ``matrix``, int64 [len(tokens)].

        The table may have further items, because RecBole may filter items.

        Raises:
            UserError: if a token is not in the table.
        """
        row = {token: i for i, token in enumerate(self.item_tokens)}
        missing = [token for token in tokens if token not in row]
        if missing:
            raise UserError(f"{format_items(missing, 'item')} of the dataset {has(missing)} no features (the features cover "
                            f"{len(row)} items); import the dataset again with features for every item")
        return np.array([row[token] for token in tokens], dtype=np.int64)

    def select(self, tokens: Sequence[str]) -> np.ndarray:
        """Return the features [len(tokens), d] of ``tokens``; see :meth:`row_numbers`."""
        return self.matrix[self.row_numbers(tokens)]


def available_modalities(dataset_folder: Path | str) -> dict[str, Path]:
    """Return ``{modality: path of its .npy}`` for the features in the dataset folder, sorted by name."""
    return {path.stem: path for path in sorted((Path(dataset_folder) / FOLDER).glob("[!.]*.npy"))}


def feature_paths(dataset_folder: Path | str, modality: str) -> tuple[Path, Path]:
    """Return the paths of the matrix and of the item tokens of a modality."""
    folder = Path(dataset_folder) / FOLDER
    return folder / f"{modality}.npy", folder / f"{modality}.items.txt"


def read_npy(path: Path, name: str, memory_map: bool = False) -> np.ndarray:
    """Read the array in a .npy file.

    Args:
        path: the file.
        name: name of the file in messages, such as "feature file FILE.npy".
        memory_map: map the file into memory, read-only, instead of reading it.

    Raises:
        UserError: if the file is missing, truncated, an .npz archive or an array of objects.
    """
    try:
        array = np.load(path, mmap_mode="r" if memory_map else None, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{name} does not exist; check the path") from None
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{name} is not a readable .npy file ({one_line(error)}); write it again with numpy.save") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{name} contains an .npz archive; save one array with numpy.save")
    return array


def read_matrix(path: Path) -> np.ndarray:
    """Read a feature file as float32 [n, d]; raise UserError if it is missing, truncated, not numeric, not 2-D or empty."""
    matrix = read_npy(path, f"feature file {path}", memory_map=True)
    if matrix.dtype.kind not in "fiu":
        raise UserError(f"feature file {path} contains {matrix.dtype}; save one array of numbers")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise UserError(f"feature file {path} has shape {list(matrix.shape)}; expected [items, dimensions]")
    with np.errstate(over="ignore"):  # a value too large for float32 becomes inf, which check_finite reports
        return matrix.astype(np.float32, copy=False)


def read_tokens(path: Path) -> list[str]:
    """Read item tokens, one per line; raise UserError if the file is missing, not UTF-8, or has an empty or repeated line."""
    try:
        tokens = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; it must name the item of each feature row, one per line") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8, one item per line") from error
    empty = next((i for i, token in enumerate(tokens, 1) if not token.strip()), None)
    if empty:
        raise UserError(f"{path} line {empty} is empty; write one item token per line")
    repeated = duplicates(tokens)
    if repeated:
        raise UserError(f"{path} names {format_items(repeated, 'item')} more than once; keep one feature row per item")
    return tokens


def check_finite(matrix: np.ndarray, tokens: Sequence[str], path: Path) -> None:
    """Raise UserError, naming the first items, if features contain NaN or inf."""
    bad = non_finite_rows(matrix)
    if len(bad):
        raise UserError(f"feature file {path} has NaN or infinite values (as float32) for "
                        f"{format_items([tokens[i] for i in bad], 'item')}; compute their features again")


def check_modality(modality: str) -> None:
    """Raise UserError unless the modality can be used as a file name and an option value."""
    if not _MODALITY.fullmatch(modality):
        raise UserError(f"the name of a modality is '{modality}'; expected letters, digits, '_' and '-'")


def duplicates(tokens: Iterable[str]) -> list[str]:
    """Return the distinct tokens that occur more than once, in the order in which they are first repeated."""
    seen: set[str] = set()
    repeated: dict[str, None] = {}
    for token in tokens:
        repeated.update({token: None} if token in seen else {})
        seen.add(token)
    return list(repeated)


def format_items(tokens: Sequence[str], noun: str, plural: str | None = None, shown: int = 5) -> str:
    """Return a count and the first tokens for a message: ``"7 items ('a', 'b', 'c', 'd', 'e', ...)"``."""
    names = ", ".join(repr(str(token)) for token in tokens[:shown]) + (", ..." if len(tokens) > shown else "")
    return f"{len(tokens)} {noun if len(tokens) == 1 else plural or f'{noun}s'} ({names})"


def has(tokens: Sized) -> str:
    """Return the verb for the subject that :func:`format_items` names: "has" for one token, else "have"."""
    return "has" if len(tokens) == 1 else "have"
