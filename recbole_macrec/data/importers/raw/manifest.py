"""``manifest.json``: the sources and options of an imported dataset, so that the same import is not repeated."""
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from recbole_macrec.data.importers.raw.catalogue import URLS, Catalogue, FilterOptions
from recbole_macrec.data.importers.raw.find import RawFiles
from recbole_macrec.data.importers.raw.lines import progress
from recbole_macrec.errors import UserError
from recbole_macrec.utils.files import atomic_write, sha256_of

FILE = "manifest.json"
# by kind; increase when the same sources and options give other files
FORMATS = {"amazon2018": 1, "amazon2023": 1, "folder": 5}


def origin(files: RawFiles, options: FilterOptions, sources: Mapping[str, Path], table_options: Mapping[str, str]) -> dict:
    """Return everything that the written files depend on.

    Args:
        sources: all files read, by their names in the manifest.
        table_options: options for columns and separators of the CSV files; raw Amazon files have none.
    """
    columns = {"reads": dict(sorted(table_options.items()))} if files.kind == "folder" else {}
    return {"format": FORMATS[files.kind], "kind": files.kind, "category": files.category, "options": options._asdict(),
            **columns, "sources": {name: _fingerprint(path) for name, path in sorted(sources.items())}}


def unchanged(target: Path, expected: dict) -> dict | None:
    """Return the manifest in ``target`` if its origin is ``expected``, else None.

    Raises:
        UserError: if the origin is ``expected``, but the files were changed after the import.
    """
    found = read(target)
    if found is None or {key: found.get(key) for key in expected} != expected:
        return None
    for name, written in found["files"].items():
        if not (target / name).is_file() or _fingerprint(target / name) != written:
            raise UserError(
                f"{target / name} is missing or was changed since the import; add --overwrite to import the dataset "
                "again, or choose another --dataset"
            )
    return found


def write(folder: Path, origin: dict, catalogue: Catalogue, names: Iterable[str], added: dict) -> None:
    """Write the manifest of the files ``names`` in ``folder``; ``added`` are further entries."""
    source = catalogue.source
    counts = {"users": len(set(source.users)), "items": len(source.catalogue), "interactions": len(source.items)}
    manifest = {**origin, "lines": {name: asdict(lines) for name, lines in catalogue.line_counts.items()},
                "steps": [step._asdict() for step in catalogue.steps], "counts": counts, **added,
                "files": fingerprints(folder, (*names, URLS))}
    save(folder, manifest)


def read(folder: Path) -> dict | None:
    """Return the manifest in ``folder``, or None if it is missing or unreadable."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def require(folder: Path) -> dict:
    """Return the manifest in ``folder``; UserError if it is missing or unreadable."""
    found = read(folder)
    if found is None:
        raise UserError(f"{folder / FILE} is missing or unreadable; remove {folder} to import the dataset again")
    return found


def fingerprints(folder: Path, names: Iterable[str]) -> dict:
    """Return the size and SHA-256 of each file in ``names`` that exists, by which later changes are detected."""
    return {name: _fingerprint(folder / name) for name in names if (folder / name).is_file()}


def save(folder: Path, manifest: dict) -> None:
    """Write ``manifest``, under a temporary name first."""
    with atomic_write(folder / FILE) as path:
        path.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _fingerprint(path: Path) -> dict:
    try:
        with progress(path, "checking") as bar:
            return {"bytes": path.stat().st_size, "sha256": sha256_of(path, bar.update)}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
