"""Recognise the format of SRC, the source to import, and read it."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from recbole_macrec.data.importers.recbole_files import PARTS, read_benchmark, read_inter
from recbole_macrec.data.importers.released import read_released
from recbole_macrec.data.importers.sources import Source, read_csv
from recbole_macrec.errors import UserError


def _read_released(path: Path, table_options: Mapping[str, str]) -> Source:
    if table_options:
        option = next(iter(table_options))
        raise UserError(f"--{option} is an option for tables, but SRC {path} is not a table; leave the option out")
    return read_released(path)


# File name suffix -> reader. If a folder has files of several formats, the first format here is read.
FORMS: dict[str, Callable[[Path, Mapping[str, str]], Source]] = {
    ".inter.json": _read_released, ".inter": read_inter, f".{PARTS[0]}.inter": read_benchmark, ".csv": read_csv,
}  # fmt: skip

TABLES = {".csv", ".tsv", ".xlsx", ".parquet"}  # suffixes of files that a user may mean as items.csv, also before .gz


def read_source(path: Path, name: str, table_options: Mapping[str, str]) -> Source:
    """Read the file ``path``, or the file of a known format in the folder ``path``.

    Args:
        path: a file or folder in one of FORMS.
        name: of several files in a folder, the one with this dataset name is read.
        table_options: RecBole's options for columns and separators; without them, usual names and separators are recognised.

    Raises:
        UserError: if there is no such file, several candidates, or the file is unusable.
    """
    if not path.exists():
        raise UserError(f"SRC {path} does not exist; name a released folder, a CSV file or a folder with a CSV file")
    if not path.is_dir():
        suffix = max((suffix for suffix in FORMS if path.name.endswith(suffix)), key=len, default=None)
        if suffix is None:
            raise UserError(f"SRC {path} is neither a .csv nor an .inter file; name one, or a folder")
        return FORMS[suffix](path, table_options)
    found = {suffix: sorted(path.glob(f"*{suffix}")) for suffix in FORMS}
    benchmark_files = {file.name.removesuffix(f"{PARTS[0]}.inter") + f"{part}.inter"
                       for file in found[f".{PARTS[0]}.inter"] for part in PARTS}
    found[".inter"] = [file for file in found[".inter"] if file.name not in benchmark_files]
    suffix = next((suffix for suffix in FORMS if found[suffix]), None)
    if suffix is None:
        raise UserError(
            f"SRC {path} contains neither NAME.inter.json, nor NAME.inter, nor a .csv file; name the folder that does, or "
            "unpack and rename tables to .csv (their columns may be separated by commas, semicolons, tabs or |)"
        )
    preferred = "interactions.csv" if suffix == ".csv" else f"{name}{suffix}"
    chosen = _choose(found[suffix], path, preferred)
    source = FORMS[suffix](chosen, table_options)
    if suffix != ".inter.json" and (others := [file.name for file in sorted(path.iterdir()) if _may_be_read(file, chosen)]):
        source.notes.append(
            f"not read: {', '.join(others)}; texts and images are read from items.csv beside interactions.csv"
        )
    return source


def _may_be_read(file: Path, chosen: Path) -> bool:
    """Whether a user may expect ``file`` to be read beside ``chosen``: a table, or a file with the name ``items``."""
    return file != chosen and (file.name.lower().startswith("items.") or not TABLES.isdisjoint(map(str.lower, file.suffixes)))


def _choose(files: list[Path], folder: Path, preferred: str) -> Path:
    if len(files) == 1:
        return files[0]
    chosen = [path for path in files if path.name == preferred]
    if not chosen:
        raise UserError(f"SRC {folder} contains several files ({', '.join(path.name for path in files)}) and none is "
                        f"{preferred}; name one file or a folder with one")
    return chosen[0]
