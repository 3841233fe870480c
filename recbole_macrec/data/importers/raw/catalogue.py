"""A filtered raw catalogue, and functions that write its items."""
from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from recbole_macrec.data import atomic
from recbole_macrec.data.atomic import AtomicFormat
from recbole_macrec.data.encoders.base import NAMED
from recbole_macrec.data.encoders.content import TEXT_FIELDS
from recbole_macrec.data.features import format_items, has
from recbole_macrec.data.importers.raw.filtering import Step
from recbole_macrec.data.importers.raw.lines import LineCounts
from recbole_macrec.data.importers.raw.records import Record, Records
from recbole_macrec.data.importers.sources import Source

IMAGES = "images"
_WORD = re.compile(r"\w")
URLS = "image_urls.json"
LONGEST_STEM = 200  # characters; file systems allow 255 bytes for a name, with suffixes, also of temporary files


class FilterOptions(NamedTuple):
    """Filtering options; ``core`` None keeps repeated interactions and users and items with few interactions."""

    core: int | None
    require_image: bool


@dataclass
class Catalogue:
    """Filtered interactions and the records of their items."""

    source: Source
    columns: tuple[str, ...]  # names of the text columns of a record
    records: Records
    has_images: bool
    steps: list[Step]
    line_counts: dict[str, LineCounts] = field(default_factory=dict)  # file name -> counts of its lines
    root: Path | None = None  # folder of the images that are local files

    def kept(self) -> Iterator[Record]:
        """Yield the records of the items in catalogue order."""
        return self.records.read(self.source.catalogue)

    def notes(self) -> list[str]:
        """Return notes for the user about broken lines, and about items without text or image."""
        broken = [f"{counts.broken:,} broken lines of {counts.lines:,} in {name} are skipped (the first is line "
                 f"{counts.first_broken:,})" for name, counts in self.line_counts.items() if counts.broken]
        read = [i for i, name in enumerate(self.columns) if name in TEXT_FIELDS] or range(len(self.columns))
        without_text = (
            [record.item for record in self.kept() if not any(_WORD.search(record.texts[i]) for i in read)] if read else []
        )
        no_word = f"word in {' or '.join(self.columns[i] for i in read)}"
        without_image = [record.item for record in self.kept() if not record.images] if self.has_images else []
        return broken + [f"{format_items(items, 'item', shown=NAMED)} {has(items)} no {missing}"
                         for items, missing in ((without_text, no_word), (without_image, "image")) if items]


def write_items(folder: Path, name: str, catalogue: Catalogue, form: AtomicFormat) -> None:
    """Write ``NAME.item``, copy local images to ``images/``, and list images to download in ``image_urls.json``.

    The column ``image`` contains the path of an item's image, relative to ``folder``, even before it is downloaded.
    """
    header = [f"{form.item}:token", *(f"{column}:token_seq" for column in catalogue.columns)]
    rows = ([record.item, *record.texts] for record in catalogue.kept())
    if catalogue.has_images:
        (folder / IMAGES).mkdir()
        header.append("image:token")
        rows = ([record.item, *record.texts, _image_path(folder, record, catalogue.root)] for record in catalogue.kept())
        write_urls(folder / URLS, ((record.item, [image for image in record.images if catalogue.root is None or is_url(image)])
                                   for record in catalogue.kept()))
    atomic.write_rows(folder / f"{name}.item", header, rows, form)


def write_urls(path: Path, urls_of: Iterable[tuple[str, list[str]]]) -> None:
    """Write {item: [URL, ...]} as JSON, one line per item, for the items with URLs."""
    with path.open("w", encoding="utf-8") as file:
        start = "{\n"
        for item, urls in urls_of:
            if urls:
                file.write(f"{start}{json.dumps(item)}: {json.dumps(urls)}")
                start = ",\n"
        file.write("{}\n" if start == "{\n" else "\n}\n")


def count_urls(folder: Path) -> int:
    """Return the number of items of the dataset ``folder`` whose image has to be downloaded, see :func:`write_urls`."""
    path = folder / URLS
    if not path.is_file():
        return 0
    with path.open(encoding="utf-8") as file:
        return sum(line.startswith('"') for line in file)  # line by line, as the file can be large


def is_url(image: str) -> bool:
    """Return whether an image has to be downloaded."""
    return image.lower().startswith(("http://", "https://"))


def _image_path(folder: Path, record: Record, root: Path | None) -> str:
    """Return the image path of an item, and copy the image there if it is a local file.

    The file name is the item's id, quoted, or its hash if that is too long.
    """
    if not record.images:
        return ""
    image, stem = record.images[0], quote(record.item, safe="")
    if len(stem) > LONGEST_STEM:
        stem = hashlib.sha256(record.item.encode()).hexdigest()
    if root is None or is_url(image):
        return f"{IMAGES}/{stem}.jpg"
    path = f"{IMAGES}/{stem}{Path(image).suffix.lower()}"
    shutil.copyfile((root / image).resolve(), folder / path)
    return path
