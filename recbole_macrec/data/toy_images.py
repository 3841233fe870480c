"""Draw the synthetic product images of ``arts-toy``: craft gives the outline, step the filling, colour the colour.

Pixels are computed here, not by a drawing library, so that every version of Pillow writes the same picture.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 48
COLORS = {"red": (200, 45, 50), "blue": (45, 85, 190), "green": (50, 145, 70), "yellow": (230, 190, 40),
          "violet": (130, 60, 160), "black": (45, 45, 50)}
PAPER = (244, 242, 236)


def draw(craft: int, step: int, color: int, shift: tuple[int, int]) -> Image:
    """Return a 48 x 48 RGB picture; ``shift`` moves the shape by that many pixels down and right."""
    from PIL import Image

    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    y, x = (rows - SIDE // 2 + 0.5 - shift[0]) / 19, (columns - SIDE // 2 + 0.5 - shift[1]) / 19
    pixels = np.empty((SIDE, SIDE, 3), dtype=np.uint8)
    pixels[:] = PAPER
    pixels[_fill(craft, step, y, x)] = list(COLORS.values())[color]
    return Image.fromarray(pixels)


def _fill(craft: int, step: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return which pixels are painted: step 0 solid, 1 a thick outline, 2 stripes, 3 four small copies."""
    if step == 1:
        return _outline(craft, y, x) & ~_outline(craft, y / 0.6, x / 0.6)
    if step == 2:
        return _outline(craft, y, x) & (np.floor((y + 2) * 19 / 4) % 2 == 0)
    if step == 3:
        return _outline(craft, (np.abs(y) - 0.52) * np.sign(y) / 0.45, (np.abs(x) - 0.52) / 0.45)
    return _outline(craft, y, x)


def _outline(craft: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return which points of the square [-1, 1] lie in the outline of a craft."""
    across, down = np.abs(x), np.abs(y)
    return (
        x * x + y * y <= 0.9,  # disc
        (across <= 0.8) & (down <= 0.8),  # square
        (y <= 0.8) & (2 * across <= y + 1),  # triangle
        across + down <= 1,  # diamond
        (np.minimum(across, down) <= 0.3) & (np.maximum(across, down) <= 0.95),  # cross
        (across <= 1) & (down <= 0.45),  # bar
    )[craft]
