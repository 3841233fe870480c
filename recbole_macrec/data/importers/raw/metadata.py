"""Read what items are from raw metadata files: texts and where their images lie."""
from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from recbole_macrec.data.atomic import readable_token
from recbole_macrec.data.attributes import COLUMN as CLASS, category_tokens
from recbole_macrec.data.importers.raw.lines import Tally, parse_lines
from recbole_macrec.data.importers.raw.text import plain_text

COLUMNS = ("title", "description", "brand", "categories", CLASS)
_SCRIPT_IN_TITLE = "getTime"  # pages of the 2018 crawl that were saved with a script where the title should be
LITERAL = 2**20  # bytes of the longest Python literal that is read, which takes a hundred times its memory
_BY = re.compile(r"^\s*by\s*\n")


class Listing(NamedTuple):
    """One item of a metadata file, its texts as the file has them."""

    item: str
    images: list[str]  # URLs of the high-resolution images
    fields: dict


def read_listings(path: Path, kind: str, tally: Tally) -> Iterator[Listing]:
    """Yield the items of a metadata file of ``kind``, a key of PARSERS, one in memory at a time."""
    return parse_lines(path, PARSERS[kind], tally)


def texts(listing: Listing, kind: str) -> list[str]:
    """Return the cleaned texts of an item, one for each of COLUMNS, empty where it has none."""
    fields = listing.fields
    title, brand, categories = ((fields.get("title"), fields.get("brand"), fields.get("category")) if kind == "amazon2018"
                                else (fields.get("title"), fields.get("store"), fields.get("categories")))
    if isinstance(title, str) and _SCRIPT_IN_TITLE in title:
        title = ""
    if isinstance(brand, str):
        brand = _BY.sub("", brand)
    return [plain_text(title), plain_text(fields.get("description")), plain_text(brand), *_categories(categories)]


def parse_2018(line: bytes) -> Listing:
    """Parse a JSON object, or a Python literal as early copies have; raises if broken."""
    fields = _mapping(line)
    return Listing(_item(fields.get("asin")), _urls(fields.get("imageURLHighRes")), fields)


def parse_2023(line: bytes) -> Listing:
    """Parse a JSON object; of each image the largest size there is. Raises if broken."""
    fields = _mapping(line)
    images = fields.get("images")
    sizes = [image for image in images if isinstance(image, dict)] if isinstance(images, list) else []
    return Listing(_item(fields.get("parent_asin")), _urls([image.get("hi_res") or image.get("large") for image in sizes]),
                   fields)


PARSERS: dict[str, Callable[[bytes], Listing]] = {"amazon2018": parse_2018, "amazon2023": parse_2023}


def _mapping(line: bytes) -> dict:
    try:
        fields = json.loads(line)
    except ValueError:
        if len(line) > LITERAL or not line.lstrip().startswith((b"{'", b'{"')):
            raise
        try:
            fields = ast.literal_eval(line.decode().strip())
        except (SyntaxError, MemoryError) as error:
            raise ValueError("neither JSON nor a Python literal") from error
    if not isinstance(fields, dict):
        raise ValueError("no object")
    return fields


def _item(token: object) -> str:
    if not readable_token(token):
        raise ValueError("no item id")
    return token


def _urls(value: object) -> list[str]:
    return [url.strip() for url in value if isinstance(url, str) and url.strip()] if isinstance(value, list) else []


def _categories(value: object) -> tuple[str, str]:
    """Return the categories up to the first that holds a piece of a web page, as the released preprocessing does: as a text,
    and as tokens."""
    names = []
    for name in value if isinstance(value, list) else []:
        if "</span>" in str(name):
            break
        names.append(plain_text(name))
    return ", ".join(filter(None, names)), category_tokens(names)
