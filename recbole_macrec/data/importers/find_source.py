"""Tell what a user names as SRC, and read it."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from recbole_macrec.data.importers.recbole_files import PARTS, read_benchmark, read_inter
from recbole_macrec.data.importers.released import read_released
from recbole_macrec.data.importers.sources import NO_OPTIONS, Source, read_csv
from recbole_macrec.errors import UserError

# By suffix; of several kinds in a folder the first is read.
FORMS = {".inter.json": read_released, ".inter": read_inter, f".{PARTS[0]}.inter": read_benchmark, ".csv": read_csv}


def read_source(path: Path, name: str, reads: Mapping[str, str] = NO_OPTIONS) -> Source:
    """Read one of FORMS, or the one of them that the folder ``path`` holds; raise UserError saying what is wrong.

    ``reads`` are RecBole's options for columns and separators; without them both are recognised where they are usual.
    """
    if not path.exists():
        raise UserError(f"SRC {path} does not exist; name a released folder, a CSV file or a folder with a CSV file")
    if path.is_file():
        form = max((suffix for suffix in FORMS if path.name.endswith(suffix)), key=len, default=None)
        if form is None:
            raise UserError(f"SRC {path} is neither a .csv nor an .inter file; name one, or a folder")
        return _read(form, path, reads)
    found = {suffix: sorted(path.glob(f"*{suffix}")) for suffix in FORMS}
    split = {file.name.removesuffix(f"{PARTS[0]}.inter") + f"{part}.inter" for file in found[f".{PARTS[0]}.inter"] for part in PARTS}
    found[".inter"] = [file for file in found[".inter"] if file.name not in split]
    form = next((suffix for suffix in FORMS if found[suffix]), None)
    if form is None:
        raise UserError(f"SRC {path} holds neither NAME.inter.json, nor NAME.inter, nor a .csv file; name the folder that does")
    preferred = "interactions.csv" if form == ".csv" else f"{name}{form}"
    return _read(form, _choose(found[form], path, preferred), reads)


def _read(form: str, path: Path, reads: Mapping[str, str]) -> Source:
    if form != ".inter.json":
        return FORMS[form](path, reads)
    if reads:
        raise UserError(f"--{next(iter(reads))} describes tables, but SRC {path} is none; leave it out")
    return FORMS[form](path)


def _choose(found: list[Path], folder: Path, preferred: str) -> Path:
    if len(found) == 1:
        return found[0]
    chosen = [path for path in found if path.name == preferred]
    if not chosen:
        raise UserError(f"SRC {folder} holds several files ({', '.join(path.name for path in found)}) and none is "
                        f"{preferred}; name one file or a folder with one")
    return chosen[0]
