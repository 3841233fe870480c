"""Read item texts and image URLs from raw Amazon metadata files."""
from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from recbole_macrec.data.atomic import readable_token
from recbole_macrec.data.attributes import CATEGORY_COLUMN, category_tokens
from recbole_macrec.data.importers.raw.lines import LineCounts, parse_lines
from recbole_macrec.data.importers.raw.text import plain_text

COLUMNS = ("title", "description", "brand", "categories", CATEGORY_COLUMN)
_SCRIPT_IN_TITLE = "getTime"  # some titles of the 2018 crawl are a script instead of the title
LITERAL = 2**20  # bytes of the longest Python literal to parse; parsing takes a hundred times its memory
_BY = re.compile(r"^\s*by\s*\n")


class Listing(NamedTuple):
    """One item of a metadata file, its texts unchanged."""

    item: str
    images: list[str]  # URLs of the high-resolution images
    fields: dict


def read_listings(path: Path, kind: str, counts: LineCounts) -> Iterator[Listing]:
    """Yield the items of a metadata file of ``kind``, a key of PARSERS, one in memory at a time."""
    return parse_lines(path, PARSERS[kind], counts)


def texts(listing: Listing, kind: str) -> list[str]:
    """Return the cleaned texts of an item, one per column in COLUMNS, "" if it has none."""
    fields = listing.fields
    title, brand, categories = ((fields.get("title"), fields.get("brand"), fields.get("category")) if kind == "amazon2018"
                                else (fields.get("title"), fields.get("store"), fields.get("categories")))
    if isinstance(title, str) and _SCRIPT_IN_TITLE in title:
        title = ""
    if isinstance(brand, str):
        brand = _BY.sub("", brand)
    return [plain_text(title), plain_text(fields.get("description")), plain_text(brand), *_categories(categories)]


def parse_2018(line: bytes) -> Listing:
    """Parse a JSON object, or a Python literal, as in early copies of the files; ValueError if broken."""
    fields = _mapping(line)
    return Listing(_item(fields.get("asin")), _urls(fields.get("imageURLHighRes")), fields)


def parse_2023(line: bytes) -> Listing:
    """Parse a JSON object, with the largest available size of each image; ValueError if broken."""
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
        raise ValueError("not an object")
    return fields


def _item(token: object) -> str:
    if not readable_token(token):
        raise ValueError("no item id")
    return token


def _urls(value: object) -> list[str]:
    return [url.strip() for url in value if isinstance(url, str) and url.strip()] if isinstance(value, list) else []


def _categories(value: object) -> tuple[str, str]:
    """Return the categories as one string, and as tokens.

    Categories from the first with HTML on are left out, as in the released preprocessing.
    """
    names = []
    for name in value if isinstance(value, list) else []:
        if "</span>" in str(name):
            break
        names.append(plain_text(name))
    return ", ".join(filter(None, names)), category_tokens(names)
