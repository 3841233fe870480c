"""Titles and thumbnails of items."""
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
LETTERS = 160  # longest title


def short_titles(settings: dict, tokens: Sequence[str]) -> dict[str, str]:
    """Return item token -> title, shortened to LETTERS; empty if the dataset has no titles or no longer exists."""
    titles = item_titles(settings, tokens)
    return {token: title if len(title) <= LETTERS else f"{title[: LETTERS - 1]}…" for token, title in titles.items()}


def thumbnails(settings: dict, tokens: Sequence[str], limit: int) -> dict[str, str]:
    """Return item token -> thumbnail as a ``data:`` URI, for the first tokens whose URIs fit into ``limit`` characters.

    Items are skipped if they have no image file, or one that is unreadable or outside the folder of the dataset.
    """
    folder, name = Path(settings["data_path"]), settings["dataset"]
    if not (folder / f"{name}.item").is_file():
        return {}
    items, column = read_items(folder, name, AtomicFormat.from_config(settings)), settings.get("image_field") or "image"
    if column not in items:
        return {}
    files = dict(zip(items["item_id"], items[column]))
    images: dict[str, str] = {}
    for token in tokens:
        file = files.get(token)
        path = folder / file if file else None
        if path is None or not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            continue
        try:
            image = data_uri(read_rgb(RawItem(token, image=path)))
        except UserError:  # an unreadable image must not prevent the report
            continue
        limit -= len(image)
        if limit < 0:
            break
        images[token] = image
    return images


def data_uri(image: Image.Image) -> str:
    """Return ``image`` as a URI, shrunk to at most SIDE x SIDE pixels."""
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, format="WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
