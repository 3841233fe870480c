"""Recognise the raw files of a catalogue in a folder."""
from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from recbole_macrec.errors import UserError, nearest

SHORT_NAMES = {"Instruments": "Musical_Instruments", "Arts": "Arts_Crafts_and_Sewing", "Games": "Video_Games"}
_METADATA = re.compile(r"meta_(?P<category>.+?)\.(?P<form>json|jsonl)(\.gz)?")
_KINDS = {"json": "amazon2018", "jsonl": "amazon2023"}
_REVIEWS = {"amazon2018": ".csv", "amazon2023": ".jsonl"}


class RawFiles(NamedTuple):
    """The files of one catalogue; ``category`` is None for a plain folder."""

    kind: str  # amazon2018, amazon2023 or folder
    category: str | None
    reviews: Path
    metadata: Path


def find_raw(src: Path, name: str, category: str | None = None) -> RawFiles | None:
    """Return the raw files in ``src``, or None where it is something else: a released folder, a CSV file, no folder.

    Of several categories the one that ``category``, or else the dataset's name, means is taken, by its own name or by one
    of SHORT_NAMES. UserError if that is none of them, or if it has metadata but no reviews.
    """
    if not src.is_dir() or any(src.glob("*.inter.json")):
        return _other(src, category, None)
    found = {}
    for path in sorted(src.iterdir()):  # an archive comes after its unpacked copy and replaces it
        match = _METADATA.fullmatch(path.name)
        if match:
            found[match["category"], _KINDS[match["form"]]] = path
    if not found:
        lonely = sorted(path.name for path in src.glob("*.jsonl*"))
        if lonely:
            raise UserError(f"SRC {src} holds {lonely[0]} but no metadata; put meta_{lonely[0]} beside it")
        interactions, items = src / "interactions.csv", src / "items.csv"
        is_plain = interactions.is_file() and items.is_file()
        return _other(src, category, RawFiles("folder", None, interactions, items) if is_plain else None)
    chosen = _choose(src, sorted({category for category, _ in found}), name, category)
    kinds = [kind for category, kind in found if category == chosen]
    if len(kinds) > 1:
        raise UserError(f"SRC {src} holds {chosen} of 2018 and of 2023; give each release a folder of its own")
    plain = src / f"{chosen}{_REVIEWS[kinds[0]]}"
    archive = plain.with_name(f"{plain.name}.gz")
    if not (plain.exists() or archive.exists()):
        raise UserError(f"SRC {src} holds {found[chosen, kinds[0]].name} but neither {plain.name} nor {archive.name}; put the "
                        "reviews beside it")
    return RawFiles(kinds[0], chosen, archive if archive.exists() else plain, found[chosen, kinds[0]])


def _other(src: Path, category: str | None, files: RawFiles | None) -> RawFiles | None:
    """Return ``files``, which are not Amazon's; UserError if a category was asked for."""
    if category is not None:
        raise UserError(f"--category={category} chooses among raw Amazon files (meta_CATEGORY.json.gz), but SRC {src} holds "
                        "none; leave the option out")
    return files


def _choose(src: Path, categories: list[str], name: str, spec: str | None) -> str:
    wanted = SHORT_NAMES.get(spec or name, spec or name)
    if wanted in categories:
        return wanted
    if spec is None and len(categories) == 1:
        return categories[0]
    option = "" if spec is None else f"--category={spec}: "
    raise UserError(f"{option}SRC {src} holds {', '.join(categories)}; name one with --category.{nearest(wanted, categories)}")
