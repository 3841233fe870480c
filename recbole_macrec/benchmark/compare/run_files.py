"""Read and write the JSON and NumPy files of a comparison."""
import json
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_macrec.errors import UserError
from recbole_macrec.utils.files import atomic_write


def read_json(path: Path, kind: type = dict) -> Any:
    """Read a JSON file of a comparison.

    Raises:
        UserError: if it is damaged or missing, or does not contain a ``kind``.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read ({error}); delete it and run the comparison again.") from None
    if not isinstance(content, kind):
        raise UserError(
            f"{path} contains a {type(content).__name__}; expected a {kind.__name__}; delete it and run the comparison again."
        )
    return content


def read_record(path: Path, keys: Sequence[str]) -> dict:
    """Read a JSON file of a comparison that must contain ``keys``; raises as :func:`read_json`, also if one is missing."""
    content = read_json(path)
    if missing := [key for key in keys if key not in content]:
        raise UserError(f"{path} lacks {', '.join(missing)}; delete it and run the comparison again.")
    return content


def load_arrays(path: Path, advice: str | None = None) -> dict[str, np.ndarray]:
    """Read an .npz file without object arrays, which could run any code.

    Args:
        advice: what to do if the file is damaged; by default, to delete its folder and run the comparison again.

    Raises:
        UserError: if the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        advice = advice or f"delete {path.parent} and run the comparison again"
        raise UserError(f"{path} can't be read ({error}); {advice}.") from None


def write_json(content, path: str | Path) -> Path:
    """Write ``content`` to ``path`` as a whole or not at all; creates its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as fresh:
        fresh.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write ``arrays`` as a compressed ``.npz`` file, whole or not at all."""
    with atomic_write(path) as fresh, open(fresh, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy's stub matches the arrays with allow_pickle
