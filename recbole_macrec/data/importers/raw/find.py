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
    """The files of one raw catalogue; ``category`` is None for ``kind`` "folder"."""

    kind: str  # amazon2018, amazon2023 or folder
    category: str | None
    reviews: Path
    metadata: Path


def find_raw(src: Path, name: str, category: str | None = None) -> RawFiles | None:
    """Return the raw files in ``src``, or None if there are none: a released folder, a CSV file, a missing folder.

    If the folder has several categories, ``category`` chooses one, by its full name or one of SHORT_NAMES. Its default is the
    dataset's name.

    Raises:
        UserError: if that category is not in the folder, or metadata or reviews are missing.
    """
    if not src.is_dir() or any(src.glob("*.inter.json")):
        return _not_amazon(src, category, None)
    found = {}
    for path in sorted(src.iterdir()):  # an archive is sorted after its unpacked copy and replaces it
        match = _METADATA.fullmatch(path.name)
        if match:
            found[match["category"], _KINDS[match["form"]]] = path
    if not found:
        interactions, items = src / "interactions.csv", src / "items.csv"
        is_plain = interactions.is_file() and items.is_file()
        reviews_only = sorted(path.name for path in src.glob("*.jsonl*"))
        if reviews_only and not is_plain:
            raise UserError(
                f"SRC {src} contains {reviews_only[0]} but no metadata; put meta_{reviews_only[0]} beside it. Files .jsonl are "
                "read as Amazon Reviews; write other data as interactions.csv and items.csv"
            )
        return _not_amazon(src, category, RawFiles("folder", None, interactions, items) if is_plain else None)
    chosen = _choose(src, sorted({category for category, _ in found}), name, category)
    kinds = [kind for category, kind in found if category == chosen]
    if len(kinds) > 1:
        raise UserError(f"SRC {src} contains {chosen} of 2018 and of 2023; put each release into a separate folder")
    plain = src / f"{chosen}{_REVIEWS[kinds[0]]}"
    archive = plain.with_name(f"{plain.name}.gz")
    if not (plain.exists() or archive.exists()):
        raise UserError(
            f"SRC {src} contains {found[chosen, kinds[0]].name} but neither {plain.name} nor {archive.name}; put the "
            "reviews beside it"
        )
    return RawFiles(kinds[0], chosen, archive if archive.exists() else plain, found[chosen, kinds[0]])


def _not_amazon(src: Path, category: str | None, files: RawFiles | None) -> RawFiles | None:
    """Return ``files``, which are not Amazon's; UserError if a category is given."""
    if category is not None:
        raise UserError(f"--category={category} chooses among raw Amazon files (meta_CATEGORY.json.gz), but SRC {src} contains "
                        "none; leave the option out")
    return files


def _choose(src: Path, categories: list[str], name: str, category: str | None) -> str:
    requested = SHORT_NAMES.get(category or name, category or name)
    if requested in categories:
        return requested
    if category is None and len(categories) == 1 and name not in SHORT_NAMES:
        return categories[0]
    option = "" if category is None else f"--category={category}: "
    raise UserError(
        f"{option}SRC {src} contains {', '.join(categories)}; choose one with --category.{nearest(requested, categories)}"
    )
