"""What a raw catalogue becomes, and how its items are written."""
from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from recbole_macrec.data import atomic
from recbole_macrec.data.atomic import DEFAULT_FORMAT, AtomicFormat
from recbole_macrec.data.encoders.base import NAMED
from recbole_macrec.data.features import listing
from recbole_macrec.data.importers.raw.filtering import Step
from recbole_macrec.data.importers.raw.lines import Tally
from recbole_macrec.data.importers.raw.records import Record, Records
from recbole_macrec.data.importers.sources import Source

IMAGES = "images"
_WORD = re.compile(r"\w")
URLS = "image_urls.json"


class Options(NamedTuple):
    """How a catalogue is filtered; ``core`` None leaves repeated interactions and rare users and items in."""

    core: int | None
    require_image: bool


@dataclass
class Catalogue:
    """Filtered interactions, and the records of their items."""

    source: Source
    columns: tuple[str, ...]  # names of the texts of a record
    records: Records
    has_images: bool
    steps: list[Step]
    tallies: dict[str, Tally] = field(default_factory=dict)  # file name -> lines that could be read and that could not
    root: Path | None = None  # where images that are no URLs lie

    def kept(self) -> Iterator[Record]:
        """Yield the records of the catalogue's items, in its order."""
        return self.records.read(self.source.catalogue)

    def notes(self) -> list[str]:
        """Say what a user should know of the files and of the items that are left."""
        found = [f"{tally.broken:,} broken lines of {tally.lines:,} in {name} are left out (the first is line "
                 f"{tally.first_broken:,})" for name, tally in self.tallies.items() if tally.broken]
        textless = [record.item for record in self.kept() if not any(map(_WORD.search, record.texts))] if self.columns else []
        pictureless = [record.item for record in self.kept() if not record.images] if self.has_images else []
        return found + [f"{listing(items, 'item', shown=NAMED)} have no {what}"
                        for items, what in ((textless, "word in any text"), (pictureless, "image")) if items]


def write_items(folder: Path, name: str, catalogue: Catalogue, form: AtomicFormat = DEFAULT_FORMAT) -> None:
    """Write ``NAME.item``; copy local images to ``images/``, and list in ``image_urls.json`` those still to be fetched.

    The column ``image`` holds where the image of an item is or has to be put, relative to ``folder``.
    """
    header = [f"{form.item}:token", *(f"{column}:token_seq" for column in catalogue.columns)]
    rows = ([record.item, *record.texts] for record in catalogue.kept())
    if catalogue.has_images:
        (folder / IMAGES).mkdir()
        header.append("image:token")
        rows = ([record.item, *record.texts, _place(folder, record, catalogue.root)] for record in catalogue.kept())
        write_urls(folder / URLS, ((record.item, [image for image in record.images if catalogue.root is None or is_url(image)])
                                   for record in catalogue.kept()))
    atomic.write_rows(folder / f"{name}.item", header, rows, form)


def write_urls(path: Path, urls_of: Iterable[tuple[str, list[str]]]) -> None:
    """Write {item: [URL, ...]}, one item a line, of the items that have any."""
    with path.open("w", encoding="utf-8") as file:
        start = "{\n"
        for item, urls in urls_of:
            if urls:
                file.write(f"{start}{json.dumps(item)}: {json.dumps(urls)}")
                start = ",\n"
        file.write("{}\n" if start == "{\n" else "\n}\n")


def is_url(image: str) -> bool:
    """Say whether an image has to be fetched."""
    return image.lower().startswith(("http://", "https://"))


def _place(folder: Path, record: Record, root: Path | None) -> str:
    """Return the path for the image of an item, any id made a safe file name, and copy the image if it is a file."""
    if not record.images:
        return ""
    image, stem = record.images[0], quote(record.item, safe="")
    if root is None or is_url(image):
        return f"{IMAGES}/{stem}.jpg"
    place = f"{IMAGES}/{stem}{Path(image).suffix.lower()}"
    shutil.copyfile((root / image).resolve(), folder / place)
    return place
