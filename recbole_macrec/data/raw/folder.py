"""A plain folder: ``interactions.csv`` and, in ``items.csv``, the catalogue with texts and images."""
from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from recbole_macrec.data.atomic import check_tokens, clean_text
from recbole_macrec.data.features import duplicates, listing
from recbole_macrec.data.raw.catalogue import Catalogue, Options, is_url
from recbole_macrec.data.raw.find import RawFiles
from recbole_macrec.data.raw.narrow import narrow
from recbole_macrec.data.raw.records import Record, Records
from recbole_macrec.data.sources import read_csv
from recbole_macrec.errors import UserError, nearest

_ITEM = ("item", "item_id", "id")
_IMAGE = ("image", "image_url", "image_path")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


def read_folder(files: RawFiles, options: Options, records: Records) -> Catalogue:
    """Read the folder; every row of ``items.csv`` is in the catalogue unless ``options`` filter. UserError if it is bad."""
    items, pictured = [], set()
    rows = read_items(files.metadata)
    columns = next(rows)
    for record in rows:
        items.append(record.item)
        records.put(record)
        if record.images:
            pictured.add(record.item)
    _check_items(items, files.metadata)
    source = read_csv(files.reviews)
    known = set(items)
    unknown = [item for item in source.catalogue if item not in known]
    if unknown:
        raise UserError(f"{files.metadata} lacks {listing(unknown, 'item')} of {files.reviews.name}; give every item a row")
    steps = narrow(source, options.core, pictured if options.require_image else None)
    if options.core is not None:
        known = set(source.items)
    elif options.require_image:
        known = pictured
    source.catalogue = [item for item in items if item in known]
    source.fixed = True
    numbered = sorted(source.catalogue, key=lambda item: (len(item), item))
    if numbered == [str(i) for i in range(len(numbered))]:  # as in a CSV without items.csv, these ids are row numbers
        source.catalogue, source.numbers = numbered, {item: item for item in numbered}
    else:
        source.numbers = {}
    return Catalogue(source, columns, records, not pictured.isdisjoint(known), steps, root=files.metadata.parent)


def read_items(path: Path) -> Iterator:
    """Yield the names of the text columns, then a Record of each row; images are URLs or paths inside the folder."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, strict=True)
            header = [column.strip() for column in next(rows, [])]
            item, image = _place(header, _ITEM, path), _place(header, _IMAGE, path)
            if item is None:
                raise UserError(f"{path} has no column 'item' in its first line ({', '.join(header)}); expected item, any text "
                                f"columns, and image for a path or URL.{nearest('item', header)}")
            texts = [i for i in range(len(header)) if i not in (item, image)]
            yield _checked_names([header[i] for i in texts], path)
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise UserError(f"{path} line {rows.line_num} has {len(row)} values; expected {len(header)} "
                                    f"({', '.join(header)})")
                picture = "" if image is None else row[image].strip()
                token = row[item].strip()
                yield Record(token, [clean_text(row[i]) for i in texts], [_image(path, token, picture)] if picture else [])
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path} is not a readable CSV file ({error}); check its quotes") from error


def local_images(path: Path) -> list[str]:
    """Return the image paths that ``items.csv`` names, without URLs."""
    rows = read_items(path)
    next(rows)
    return [image for record in rows for image in record.images if not is_url(image)]


def _image(path: Path, item: str, image: str) -> str:
    """Return a URL, or the path of a file below the folder: neither ``..`` nor a link may lead out of it."""
    if is_url(image):
        return image
    if Path(image).suffix.lower() not in SUFFIXES or "\0" in image:
        raise UserError(f"{path} names the image {image!r} of item '{item}'; expected a file that ends in {', '.join(SUFFIXES)}")
    root, file = path.parent.resolve(), (path.parent / image).resolve()
    if not file.is_relative_to(root):
        raise UserError(f"{path} names the image {image} of item '{item}', which lies outside {path.parent}; copy it into the "
                        "folder")
    if not file.is_file():
        raise UserError(f"{path} names the image {image} of item '{item}', which does not exist; check the path")
    return image


def _check_items(items: list[str], path: Path) -> None:
    if not items:
        raise UserError(f"{path} has no items; expected a row for every item")
    check_tokens(items, "item", path)
    twice = duplicates(items)
    if twice:
        raise UserError(f"{path} has {listing(twice, 'item')} more than once; keep one row an item")


def _place(header: list[str], names: tuple[str, ...], path: Path) -> int | None:
    places = [i for i, column in enumerate(header) if column.lower() in names]
    if len(places) > 1:
        raise UserError(f"{path} has {len(places)} columns for {names[0]} ({', '.join(header)}); keep one")
    return places[0] if places else None


def _checked_names(names: list[str], path: Path) -> tuple[str, ...]:
    bad = [name for name in names if not name or ":" in name or name.split() != [name]] + duplicates(names)
    if bad:
        raise UserError(f"{path} has {listing(bad, 'column')} that RecBole cannot name (empty, twice, or with spaces or ':'); "
                        "rename them")
    return tuple(names)
