"""Reading item images: upright, whole, not too large, and with transparent parts white."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps

from recbole_macrec.data.encoders.base import RawItem
from recbole_macrec.errors import UserError

MAX_PIXELS = 64 * 10**6  # a file of some kilobytes can unpack to gigabytes
BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises


@contextmanager
def open_image(source: Path | BinaryIO, formats: Sequence[str] | None = None) -> Iterator[Image.Image]:
    """Open an image, of which nothing is unpacked yet; one of BROKEN if it is none of ``formats`` or has too many pixels."""
    with Image.open(source, formats=formats) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"it has {width} x {height} pixels, more than the {MAX_PIXELS:,} allowed")
        yield image


def read_rgba(item: RawItem) -> Image.Image:
    """Return the image turned as its EXIF orientation says; raise UserError if it is unreadable or a decompression bomb."""
    try:
        with open_image(item.image) as file:
            return ImageOps.exif_transpose(file).convert("RGBA")
    except BROKEN as error:
        reason = " ".join(str(error).split())
        raise UserError(f"image {item.image} of item '{item.token}' is unreadable ({reason}); replace the file") from error


def read_rgb(item: RawItem) -> Image.Image:
    """Return the image of :func:`read_rgba` on white."""
    rgba = read_rgba(item)
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
