"""Read and check item images: EXIF orientation, size limit, 8-bit RGB on white."""
from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from recbole_macrec.data.encoders.base import RawItem, without_image
from recbole_macrec.errors import UserError, one_line

# Format of Pillow -> its file suffixes; other formats of Pillow, such as EPS, run external programs.
FORMATS = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "WEBP": (".webp",), "GIF": (".gif",), "BMP": (".bmp",),
           "TIFF": (".tif", ".tiff")}  # fmt: skip
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MAX_PIXELS = 64 * 10**6  # a file of a few kilobytes can decompress to gigabytes
ORIENTATION = 0x0112  # EXIF tag
# Value of the tag -> transposition. ImageOps.exif_transpose also writes the other tags, and fails if one of them is invalid.
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}  # fmt: skip
# errors of open_image and Pillow
BROKEN = (OSError, SyntaxError, TypeError, ValueError, Image.DecompressionBombError, ImageCms.PyCMSError)


@contextmanager
def open_image(source: Path | BinaryIO) -> Iterator[Image.Image]:
    """Open an image without decoding it; raise an error in BROKEN if its format is not in FORMATS or it has too many pixels."""
    try:
        opened = Image.open(source, formats=tuple(FORMATS))
    except UnidentifiedImageError:
        raise UnidentifiedImageError(f"it is not one of {', '.join(FORMATS)}") from None
    with opened as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"it has {width} x {height} pixels, more than the {MAX_PIXELS:,} allowed")
        yield image


def read_rgba(item: RawItem) -> Image.Image:
    """Return the image, rotated by its EXIF orientation; raise UserError if it is unreadable or a decompression bomb."""
    if item.image is None:
        raise UserError(f"item '{item.token}' has no image")
    try:
        return _read(item.image)
    except BROKEN as error:
        raise UserError(
            f"image {item.image} of item '{item.token}' is unreadable ({one_line(error)}); replace the file"
        ) from error


def unusable_images(items: Sequence[RawItem]) -> dict[str, str]:
    """Return item token -> reason for items whose image is missing or unreadable; every image is decoded, in threads."""
    missing = without_image(items)
    existing = [item for item in items if item.token not in missing]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        reasons = zip(existing, pool.map(why_unreadable, (item.image for item in existing)))
        return missing | {item.token: f"image {item.image} is unreadable ({reason})" for item, reason in reasons if reason}


def why_unreadable(image: Path) -> str | None:
    """Return the reason why an image file cannot be read, or None."""
    try:
        _read(image)
    except BROKEN as error:
        return one_line(error)
    return None


def _read(image: Path) -> Image.Image:
    with open_image(image) as file:
        file.load()  # turns a TIFF, and reads the EXIF data of a PNG, which may follow its pixels
        turn = TURNS.get(file.getexif().get(ORIENTATION, 1))
        return to_rgba(file if turn is None else file.transpose(turn), file.format)


def to_rgba(image: Image.Image, file_format: str | None) -> Image.Image:
    """Return ``image``, of any Pillow mode, as 8-bit RGBA; ``file_format`` is the format of its file.

    Pillow's ``convert`` clips grey values of more than 8 bits at 255, and reads CIELAB as if it were RGB.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _from_wide_grey(image, sixteen_bits=image.mode.startswith("I;16") or file_format == "PNG")
    if image.mode == "LAB":
        to_rgb = ImageCms.buildTransform(
            ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), inMode="LAB", outMode="RGB"
        )
        image = to_rgb.apply(image)
    return image.convert("RGBA")


def _from_wide_grey(image: Image.Image, sixteen_bits: bool) -> Image.Image:
    """Return an image of 16-bit, 32-bit or floating-point grey values as RGBA; the transparent value stays transparent.

    White is 65535 with ``sixteen_bits``. Otherwise it is the smallest of 1 (floating-point only), 255 and 65535 that no value
    exceeds, or else the largest value.
    """
    values = np.asarray(image, dtype=np.float64)  # [height, width]
    if not np.isfinite(values).all():
        raise ValueError("it has values that are not finite")
    largest = values.max()
    if sixteen_bits:
        white = 65535
    else:
        white = next((white for white in ([1] if image.mode == "F" else []) + [255, 65535] if largest <= white), largest)
    grey = Image.fromarray(np.rint(np.clip(values, 0, white) / white * 255).astype(np.uint8))
    rgba = grey.convert("RGBA")
    if "transparency" in image.info:
        rgba.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return rgba


def read_rgb(item: RawItem) -> Image.Image:
    """Return the image of :func:`read_rgba` on a white background."""
    rgba = read_rgba(item)
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
