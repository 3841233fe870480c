"""Feature matrices that may not fit into memory. Rows are read or computed when they are indexed.

Shapes: N items, F feature width. Functions accept arrays [N, F], FeatureRows and ComputedRows.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recbole_macrec.errors import UserError
from recbole_macrec.utils.blocks import blocks, release_pages
from recbole_macrec.utils.hardware import free_memory

MEMORY_MAP_ROWS = 2**10  # rows read at once from a memory map; each row may load up to 2 MiB of the file
SAMPLE_SIZE = 2**18  # rows that represent all in algorithms that need their data in memory


@dataclass(frozen=True)
class FeatureRows:
    """Selected rows of a matrix, read when indexed.

    Attributes:
        matrix: [n, F], usually a memory map.
        rows: row i is row ``rows[i]`` of ``matrix``.
    """

    matrix: Features
    rows: np.ndarray  # int64 [N]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.matrix.shape[1]

    @property
    def dtype(self) -> np.dtype:
        return self.matrix.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index) -> np.ndarray:
        rows = self.rows[index]
        if not isinstance(self.matrix, np.memmap):
            return self.matrix[rows]
        result = np.empty((len(rows), self.shape[1]), self.dtype)
        order = np.argsort(rows)
        for begin in range(0, len(rows), MEMORY_MAP_ROWS):
            chunk = order[begin : begin + MEMORY_MAP_ROWS]
            result[chunk] = self.matrix[rows[chunk]]
            release_pages(self.matrix)
        return result


@dataclass(frozen=True)
class ComputedRows:
    """Rows that are computed when indexed: row i from row i of every source.

    Attributes:
        sources: feature matrices with N rows each.
        function: called with the same rows of every source; returns float32 [n, width].
        width: number of columns.
    """

    sources: tuple[Features, ...]
    function: Callable[..., np.ndarray]
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.width

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.sources[0])

    def __getitem__(self, index) -> np.ndarray:
        return self.function(*(source[index] for source in self.sources))


Features = np.ndarray | FeatureRows | ComputedRows
LARGEST_FEATURE = 1e15  # sums of squares of larger features overflow float32


def select_rows(x: Features, rows: np.ndarray) -> FeatureRows:
    """Return a view of the rows ``rows`` [n] of ``x``, without reading them."""
    return FeatureRows(x.matrix, x.rows[rows]) if isinstance(x, FeatureRows) else FeatureRows(x, rows)


def sample_rows(x: Features, seed: int) -> np.ndarray:
    """Return all rows, or ``SAMPLE_SIZE`` of them drawn without replacement if there are more."""
    if len(x) <= SAMPLE_SIZE:
        return x[:]
    return x[np.sort(np.random.default_rng(seed).choice(len(x), SAMPLE_SIZE, replace=False))]


class Scale(NamedTuple):
    """Standardization of features: (x - mean) / scale."""

    mean: Tensor  # [F]
    scale: Tensor  # [F]

    @classmethod
    def fit(cls, x: Features, standardize: bool) -> Scale:
        """Return mean and standard deviation per column, or 0 and 1 if ``standardize`` is false.

        Raises:
            UserError: if ``standardize`` is false and features are too large to be squared in float32, or if it is true and
                their differences are too large for float32.
        """
        width = x.shape[1]
        if not standardize:
            largest = max(float(np.abs(block).max(initial=0)) for block in blocks(x))
            if not largest < LARGEST_FEATURE:
                raise UserError(
                    f"The largest feature is {largest:.3g} and standardize is False; expected absolute values below "
                    f"{LARGEST_FEATURE:.0e}: set standardize to True, or scale the features down."
                )
            if 0 < largest < 1 / LARGEST_FEATURE:
                raise UserError(f"The largest feature is {largest:.3g} and standardize is False; expected one of at least "
                                f"{1 / LARGEST_FEATURE:.0e}: set standardize to True, or scale the features up.")
            return cls(torch.zeros(width), torch.ones(width))
        mean = sum(block.sum(0, dtype=np.float64) for block in blocks(x)) / len(x)
        squares, farthest = np.zeros(width), 0.0
        for block in blocks(x):
            centred = block - mean
            farthest = max(farthest, float(np.abs(centred).max(initial=0)))
            squares += np.square(centred).sum(0)
        if farthest > np.finfo(np.float32).max:
            raise UserError(f"A feature differs by {farthest:.3g} from the mean of its column; expected at most 3e+38: scale "
                            "the features down, or correct values that stand for missing ones.")
        deviation = np.sqrt(squares / len(x))
        constant = deviation <= min(1e-8, 1e-4 * deviation.max(initial=0))  # the second: features as small as 1e-30
        deviation[constant] = 1.0  # a constant column stays constant
        return cls(torch.from_numpy(mean).float(), torch.from_numpy(deviation).float())

    def apply(self, features: np.ndarray) -> Tensor:
        """Return the standardized features, float32."""
        return torch.from_numpy(features).sub(self.mean).div_(self.scale)  # divides in place: a block is large


def standardized(x: np.ndarray) -> np.ndarray:
    """Columns of ``x`` [N, F] with mean 0 and standard deviation 1, constant columns 0; float32."""
    return Scale.fit(x, standardize=True).apply(x.astype(np.float32)).numpy()


class StreamedFeatures:
    """Features that are read, scaled and moved to the device when indexed.

    Has those methods of a tensor [N, F] that quantizers use.
    """

    def __init__(self, x: Features, scale: Scale, device: str | torch.device):
        self.x, self.scale, self.device = x, scale, torch.device(device)
        self.shape = torch.Size(x.shape)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.scale.apply(self.x[rows.cpu().numpy()]).to(self.device)

    def split(self, rows: int) -> Iterator[Tensor]:
        return (self[part] for part in torch.arange(len(self)).split(rows))

    def numel(self) -> int:
        return self.shape.numel()


def scale_features(x: Features, scale: Scale, device: str | torch.device) -> Tensor | StreamedFeatures:
    """Return scaled features [N, F] on the device, or streamed to it if they would use more than half of its free memory."""
    if 4 * x.shape[0] * x.shape[1] > free_memory(torch.device(device)) // 2:
        return StreamedFeatures(x, scale, device)
    matrix = torch.empty(x.shape, device=device)
    begin = 0
    for block in blocks(x):
        matrix[begin : begin + len(block)] = scale.apply(block)
        begin += len(block)
    return matrix
