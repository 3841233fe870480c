"""Titles and small images of items, for people."""
import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from recbole_macrec.data.atomic import AtomicFormat, read_items
from recbole_macrec.data.encoders.base import RawItem
from recbole_macrec.data.encoders.images import read_rgb
from recbole_macrec.errors import UserError
from recbole_macrec.recommend.input import item_titles

SIDE, QUALITY = 72, 60  # pixels, and WebP's quality
LETTERS = 160  # of a title


def titles_of(settings: dict, tokens: Sequence[str]) -> dict[str, str]:
    """Item token -> title, cut to what fits a card; none where the dataset has none, or is not there any more."""
    titles = item_titles(settings, tokens)
    return {token: title if len(title) <= LETTERS else f"{title[: LETTERS - 1]}…" for token, title in titles.items()}


def images_of(settings: dict, tokens: Sequence[str], limit: int) -> dict[str, str]:
    """Item token -> its image as a small ``data:`` URI, for as many of the first tokens as ``limit`` characters hold.

    Items without an image file, or with one that is unreadable or outside the dataset's folder, have none.
    """
    folder, name = Path(settings["data_path"]), settings["dataset"]
    if not (folder / f"{name}.item").is_file():
        return {}
    items, column = read_items(folder, name, AtomicFormat.of(settings)), settings.get("image_field") or "image"
    if column not in items:
        return {}
    places = dict(zip(items["item_id"], items[column]))
    found: dict[str, str] = {}
    for token in tokens:
        place = places.get(token)
        path = folder / place if place else None
        if path is None or not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            continue
        try:
            image = data_uri(read_rgb(RawItem(token, image=path)))
        except UserError:  # a page without one of its images is still worth reading
            continue
        limit -= len(image)
        if limit < 0:
            break
        found[token] = image
    return found


def data_uri(image: Image.Image) -> str:
    """``image`` shrunk to at most SIDE x SIDE pixels."""
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, format="WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
