"""Import a folder with ``interactions.csv`` and ``items.csv``, the catalogue with texts and images."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from recbole_macrec.data.atomic import DEFAULT_FORMAT, check_tokens
from recbole_macrec.data.attributes import CATEGORY_COLUMN, KNOWN, SEPARATORS, category_tokens
from recbole_macrec.data.encoders.base import NAMED, RawItem
from recbole_macrec.data.encoders.images import SUFFIXES, unusable_images
from recbole_macrec.data.features import duplicates, format_items, has
from recbole_macrec.data.importers.raw.catalogue import IMAGES, Catalogue, FilterOptions, is_url
from recbole_macrec.data.importers.raw.filter_source import filter_source
from recbole_macrec.data.importers.raw.find import RawFiles
from recbole_macrec.data.importers.raw.records import Record, Records
from recbole_macrec.data.importers.raw.text import plain_text
from recbole_macrec.data.importers.sources import (
    PUBLISHED_ITEM_NAMES,
    USUAL_ITEM_NAMES,
    header_of,
    missing_column,
    read_csv,
    read_rows,
    separator_of,
    usual_names,
)
from recbole_macrec.errors import UserError

_ITEM = (*USUAL_ITEM_NAMES, "id")
IMAGE_COLUMNS = ("image", "image_url", "image_path")


def read_folder(
    files: RawFiles, options: FilterOptions, records: Records, table_options: Mapping[str, str]
) -> Catalogue:
    """Read the folder; without filtering ``options``, the catalogue is all rows of ``items.csv``.

    Raises:
        UserError: if a file is unusable, or ``items.csv`` lacks an item of the interactions.
    """
    items, with_image = [], set()
    table = ItemTable(files.metadata, table_options)
    for record in table:
        items.append(record.item)
        records.put(record)
        if record.images:
            with_image.add(record.item)
    _check_items(items, files.metadata)
    source = read_csv(files.reviews, table_options)
    source.notes += table.notes
    known = set(items)
    unknown = [item for item in source.catalogue if item not in known]
    if unknown:
        raise UserError(
            f"{files.metadata} lacks {format_items(unknown, 'item')} of {files.reviews.name}; give every item a row"
        )
    if unmatched := table.unmatched_images(known):
        source.notes.append(f"{IMAGES}/ has {format_items(unmatched, 'image')} named after no item")
    if table.skipped:
        source.notes.append(
            f"{IMAGES}/ has {format_items(table.skipped, 'entry', 'entries')} skipped; expected files named after an "
            f"item's id that end in {', '.join(SUFFIXES)}"
        )
    steps = filter_source(source, options.core, with_image if options.require_image else None)
    if options.core is not None:
        kept = set(source.items)
    elif options.require_image:
        kept = with_image
    else:
        kept = known
    numbers = [str(i) for i in range(len(items))]
    if known == set(numbers):  # ids that are row numbers, as in a CSV without items.csv
        items, source.numbers = numbers, dict(zip(numbers, numbers))
    else:
        source.numbers = {}
    source.catalogue = [item for item in items if item in kept]
    source.fixed = True
    source.notes += _unreadable_images(files.metadata.parent, records.read(source.catalogue))
    return Catalogue(source, table.columns, records, not with_image.isdisjoint(kept), steps, root=files.metadata.parent)


class ItemTable:
    """Iterate over the rows of ``items.csv`` as Records, one in memory at a time.

    Images are URLs or paths inside the folder. Without an image column, they are the files in ``images/`` that are named after
    an item's id, such as ``images/B0042.jpg``.
    """

    def __init__(self, path: Path, table_options: Mapping[str, str]) -> None:
        self.path, self._delimiter = path, separator_of(path, table_options)
        self._header = [name.strip() for name in header_of(path, self._delimiter)]
        self._item = _item_position(self._header, path, table_options)
        self._image = _position(self._header, IMAGE_COLUMNS, path)
        self.notes: list[str] = []
        name = self._header[self._item]
        if "ITEM_ID_FIELD" not in table_options and name.lower() in PUBLISHED_ITEM_NAMES:
            self.notes.append(f"{path.name}: column {name} is read as the item; --ITEM_ID_FIELD sets another column")
        folder = path.parent / IMAGES
        entries = sorted(folder.iterdir()) if self._image is None and folder.is_dir() else []
        images = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.is_file()]
        self._image_of = _by_stem(folder, images)
        others = set(entries).difference(images)
        self.skipped = [entry.name for entry in entries if entry in others and not entry.name.startswith(".")]
        self._texts = [i for i in range(len(self._header)) if i not in (self._item, self._image)]
        names = _checked_names(usual_names([self._header[i] for i in self._texts], path, self.notes), path)
        if DEFAULT_FORMAT.item in names:
            raise UserError(f"{path} has a column {DEFAULT_FORMAT.item} in addition to the item column "
                            f"{name}, whose name in the dataset is {DEFAULT_FORMAT.item}; rename or remove one")
        self._class = names.index(CATEGORY_COLUMN) if CATEGORY_COLUMN in names else None
        known = next((names.index(name) for name in KNOWN if name in names), None)
        self._categories = known if self._class is None else None
        self.columns = names if self._categories is None else (*names, CATEGORY_COLUMN)

    def __iter__(self) -> Iterator[Record]:
        for _, values in read_rows(self.path, self._delimiter, self._header):
            row = [value.strip() for value in values]
            item = row[self._item]
            image = self._image_of.get(item, "") if self._image is None else row[self._image]
            texts = [plain_text(row[i]) for i in self._texts]
            if self._class is not None and SEPARATORS.search(texts[self._class]):
                texts[self._class] = category_tokens(texts[self._class])
            if self._categories is not None:
                texts.append(category_tokens(texts[self._categories]))
            yield Record(item, texts, [_checked_image(self.path, item, image)] if image else [])

    def unmatched_images(self, items: set[str]) -> list[str]:
        """Return the names in ``images/`` that are not in ``items``; [] if a column names the images."""
        return [name for name in self._image_of if name not in items]

    def local_images(self) -> list[str]:
        """Return the image paths, without URLs; UserError if some do not exist."""
        images = [(record.item, image) for record in self for image in record.images if not is_url(image)]
        missing = [f"{image} of item '{item}'" for item, image in images if not (self.path.parent / image).is_file()]
        if missing:
            more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
            raise UserError(f"{self.path} names images that do not exist: {', '.join(missing[:NAMED])}{more}; check the paths")
        return [image for _, image in images]


def _checked_image(path: Path, item: str, image: str) -> str:
    """Return ``image``, a URL or file path; UserError if ``..`` or a link leads out of the folder, or it is not an image
    file."""
    if is_url(image):
        return image
    if Path(image).suffix.lower() not in SUFFIXES or "\0" in image:
        raise UserError(
            f"{path} names the image {image!r} of item '{item}'; expected a URL, or a file that ends in {', '.join(SUFFIXES)}"
        )
    root, file = path.parent.resolve(), (path.parent / image).resolve()
    if not file.is_relative_to(root):
        raise UserError(f"{path} names the image {image} of item '{item}', which is outside {path.parent}; copy it into the "
                        "folder")
    return image


def _unreadable_images(folder: Path, records: Iterable[Record]) -> list[str]:
    """Return one note that names the unreadable images of ``records`` in ``folder`` and the reasons, or [] without any."""
    broken = unusable_images([RawItem(record.item, image=folder / image)
                              for record in records for image in record.images[:1] if not is_url(image)])
    if not broken:
        return []
    more = f"; and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
    return [
        f"{format_items(list(broken), 'item', shown=NAMED)} {has(broken)} an unreadable image, which is an error in a run "
        f"unless missing_images is mean: {'; '.join(list(broken.values())[:NAMED])}{more}"
    ]


def _by_stem(folder: Path, images: list[Path]) -> dict[str, str]:
    """Return {name without suffix: path relative to the parent of ``folder``}; UserError if two images have the same name."""
    repeated = duplicates(path.stem for path in images)
    if repeated:
        raise UserError(f"{folder} has {format_items(repeated, 'image')} with more than one suffix; keep one image per item")
    return {path.stem: f"{folder.name}/{path.name}" for path in images}


def _check_items(items: list[str], path: Path) -> None:
    if not items:
        raise UserError(f"{path} has no items; expected one row per item")
    check_tokens(items, "item", path)
    repeated = duplicates(items)
    if repeated:
        raise UserError(f"{path} has {format_items(repeated, 'item')} more than once; keep one row per item")


def _item_position(header: list[str], path: Path, table_options: Mapping[str, str]) -> int:
    """Return the position of the item column: the one that ``ITEM_ID_FIELD`` names, else one with an accepted name.

    The usual names have precedence over those of published files, as in tables of interactions.

    Raises:
        UserError: if there is no such column.
    """
    named = table_options.get("ITEM_ID_FIELD")
    for names in (_ITEM, PUBLISHED_ITEM_NAMES) if named is None else ((named.lower(),),):
        position = _position(header, names, path)
        if position is not None:
            return position
    first_line = f"in its first line ({', '.join(header)})"
    if named is not None:
        raise UserError(f"{path} has no column '{named}', which --ITEM_ID_FIELD names, {first_line}; give the item column the "
                        f"same name as in the interactions.{missing_column(named, header)}")
    raise UserError(f"{path} has no column 'item' {first_line}; expected item, any text columns, and image for a path or URL, "
                    f"or the name of the item column in --ITEM_ID_FIELD.{missing_column('item', header)}")


def _position(header: list[str], names: tuple[str, ...], path: Path) -> int | None:
    """Return the position of the column with one of ``names``, None if there is none; UserError if there are several."""
    positions = [i for i, column in enumerate(header) if column.lower() in names]
    if len(positions) > 1:
        raise UserError(f"{path} has {len(positions)} columns for {names[0]} ({', '.join(header)}); keep one")
    return positions[0] if positions else None


def _checked_names(names: list[str], path: Path) -> tuple[str, ...]:
    bad = [name for name in names if not name or ":" in name or name.split() != [name]] + duplicates(names)
    if bad:
        raise UserError(
            f"{path} has {format_items(bad, 'column')} that RecBole cannot use as names (empty, repeated, or with spaces or "
            "':'); rename them"
        )
    return tuple(names)
