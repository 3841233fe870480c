"""``pixels``: colour and shape statistics of small images, reduced by PCA.

Shapes: n items, d feature dimensions.
"""
from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from recbole_macrec.data.encoders.base import Kind, RawItem, require_usable, without_image
from recbole_macrec.data.encoders.images import read_rgba, unusable_images

SIDE = 48  # images are resized to SIDE x SIDE
CELLS = 4  # statistics are computed in CELLS x CELLS cells
ORIENTATIONS = 8


class Pixels:
    """Up to ``dimensions`` image features, fewer for a small catalogue; no download, deterministic."""

    name = "pixels"
    kind: Kind = "image"

    def __init__(self, dimensions: int = 64) -> None:
        self.settings = {"dimensions": dimensions, "version": 3}
        self.details = {"versions": {"pillow": version("pillow"), "scikit-learn": version("scikit-learn")}}

    def unusable(self, items: Sequence[RawItem]) -> dict[str, str]:
        return unusable_images(items)

    def encode(self, items: Sequence[RawItem]) -> np.ndarray:
        """Return float32 [n, d] for the images of ``items``; raise UserError for a missing or unreadable image."""
        require_usable(self.kind, without_image(items))
        # One image in memory at a time: its statistics take a sixteenth of its memory.
        statistics = [tuple(describe(image) for describe in STATISTICS) for image in map(read_small, items)]
        blocks = [np.stack(rows) for rows in zip(*statistics)]
        # Scale each block to the same total variance, so that no block dominates.
        scaled = [centred / max(np.sqrt(centred.var(axis=0).sum()), 1e-12)
                  for centred in (block - block.mean(axis=0) for block in blocks)]
        features = np.concatenate(scaled, axis=1)  # [n, dimensions of all blocks]
        dimensions = min(self.settings["dimensions"], len(items) - 1, features.shape[1])
        if dimensions < 1:
            return features.astype(np.float32)
        with threadpool_limits(1):  # the last bits depend on the number of threads
            return PCA(dimensions, svd_solver="full").fit_transform(features).astype(np.float32)


def read_small(item: RawItem) -> np.ndarray:
    """Return the image as float [SIDE, SIDE, 3] in 0..1, transparent parts white; raise UserError if unreadable."""
    small = read_rgba(item).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(small, dtype=np.float64) / 255
    alpha = pixels[..., 3:]
    return pixels[..., :3] * alpha + 1 - alpha


def color_histogram(image: np.ndarray) -> np.ndarray:
    """Return the square roots of the relative frequencies of 4 x 4 x 4 colours, [64]."""
    levels = np.minimum((image * 4).astype(int), 3)
    bins = levels[..., 0] * 16 + levels[..., 1] * 4 + levels[..., 2]
    return np.sqrt(np.bincount(bins.ravel(), minlength=64) / bins.size)


def cell_colors(image: np.ndarray) -> np.ndarray:
    """Return mean and standard deviation of each channel in each cell, [CELLS * CELLS * 6]."""
    cells = _cells(image)  # [CELLS * CELLS, pixels, 3]
    return np.concatenate([cells.mean(axis=1).ravel(), cells.std(axis=1).ravel()])


def gradient_orientations(image: np.ndarray) -> np.ndarray:
    """Return the strength of the edges of each orientation in each cell, [CELLS * CELLS * ORIENTATIONS]."""
    down, right = np.gradient(image.mean(axis=2))
    strength = np.hypot(down, right)
    direction = ((np.arctan2(down, right) % np.pi) / np.pi * ORIENTATIONS).astype(int) % ORIENTATIONS
    by_direction = np.stack([strength * (direction == i) for i in range(ORIENTATIONS)], axis=2)
    histogram = _cells(by_direction).sum(axis=1).ravel()
    return np.sqrt(histogram / max(histogram.sum(), 1e-12))


def silhouette(image: np.ndarray) -> np.ndarray:
    """Return, for 12 x 12 cells, the mean distance of the colour from the median colour of the border, [144]."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    distance = np.linalg.norm(image - np.median(border, axis=0), axis=2)
    return distance.reshape(12, SIDE // 12, 12, SIDE // 12).mean(axis=(1, 3)).ravel()


STATISTICS = (color_histogram, cell_colors, gradient_orientations, silhouette)


def _cells(image: np.ndarray) -> np.ndarray:
    """Split [SIDE, SIDE, channels] into [CELLS * CELLS, pixels, channels]."""
    step = SIDE // CELLS
    cells = image.reshape(CELLS, step, CELLS, step, -1).swapaxes(1, 2)
    return cells.reshape(CELLS * CELLS, step * step, -1)
