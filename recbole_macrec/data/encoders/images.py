"""Reading item images: upright, whole, and with transparent parts white."""
from __future__ import annotations

from PIL import Image, ImageOps

from recbole_macrec.data.encoders.base import RawItem
from recbole_macrec.errors import UserError


def read_rgba(item: RawItem) -> Image.Image:
    """Return the image turned as its EXIF orientation says; raise UserError if it is unreadable or a decompression bomb."""
    try:
        with Image.open(item.image) as file:
            return ImageOps.exif_transpose(file).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"image {item.image} of item '{item.token}' is unreadable ({reason}); replace the file") from error


def read_rgb(item: RawItem) -> Image.Image:
    """Return the image of :func:`read_rgba` on white."""
    rgba = read_rgba(item)
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
