"""Features that need not fit into memory: they are read, or computed, some rows at a time.

Shapes: N items, F feature width. Functions take an array [N, F], FeatureRows or ComputedRows alike.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recbole_macrec.errors import UserError
from recbole_macrec.utils.blocks import blocks, release
from recbole_macrec.utils.hardware import free_memory

SCATTERED = 2**10  # rows read at once from a memory map; a row brings up to 2 MiB of the file around it into memory
SAMPLE = 2**18  # rows that stand for all where an algorithm has to hold its rows in memory


@dataclass(frozen=True)
class FeatureRows:
    """Row i is row ``rows[i]`` of ``matrix`` [n, F], usually a memory map; what is indexed is read."""

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
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        order = np.argsort(rows)
        for begin in range(0, len(rows), SCATTERED):
            some = order[begin : begin + SCATTERED]
            found[some] = self.matrix[rows[some]]
            release(self.matrix)
        return found


@dataclass(frozen=True)
class ComputedRows:
    """Row i is computed from row i of every source when it is read.

    Attributes:
        sources: feature matrices with N rows each.
        function: takes some rows of every source and returns as many rows, float32 [n, width].
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
LARGEST = 1e15  # the squares of larger features, added up, leave float32


def rows_of(x: Features, rows: np.ndarray) -> FeatureRows:
    """The ``rows`` [n] of ``x``, of which nothing is read yet."""
    return FeatureRows(x.matrix, x.rows[rows]) if isinstance(x, FeatureRows) else FeatureRows(x, rows)


def sample(x: Features, seed: int) -> np.ndarray:
    """All rows, or ``SAMPLE`` of them drawn without replacement where there are more."""
    if len(x) <= SAMPLE:
        return x[:]
    return x[np.sort(np.random.default_rng(seed).choice(len(x), SAMPLE, replace=False))]


class Scale(NamedTuple):
    """What features are brought to before they are quantized."""

    mean: Tensor  # [F]
    scale: Tensor  # [F]

    @classmethod
    def of(cls, x: Features, standardize: bool) -> Scale:
        """Mean and standard deviation per column; 0 and 1 when they stay as they are.

        Raises:
            UserError: when they stay as they are and are too large to be squared in float32.
        """
        width = x.shape[1]
        if not standardize:
            largest = max(float(np.abs(block).max(initial=0)) for block in blocks(x))
            if not largest < LARGEST:
                raise UserError(f"There are features as large as {largest:.3g}, and standardize is False; expected values below "
                                f"{LARGEST:.0e}: set standardize to True, or scale the features down.")
            return cls(torch.zeros(width), torch.ones(width))
        mean = sum(block.sum(0, dtype=np.float64) for block in blocks(x)) / len(x)
        deviation = np.sqrt(sum(np.square(block - mean).sum(0) for block in blocks(x)) / len(x))
        deviation[deviation < 1e-8] = 1.0  # a constant column stays constant
        return cls(torch.from_numpy(mean).float(), torch.from_numpy(deviation).float())

    def apply(self, features: np.ndarray) -> Tensor:
        return torch.from_numpy(features).sub(self.mean).div_(self.scale)  # divides in place: a block is large


class Streamed:
    """Scaled features that stay where they are; what is asked for is read, scaled and moved to the device.

    Has what the quantizers use of a tensor [N, F].
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


def scaled(x: Features, scale: Scale, device: str | torch.device) -> Tensor | Streamed:
    """Scaled features [N, F] on the device, or streamed to it when they would take more than half of its free memory."""
    if 4 * x.shape[0] * x.shape[1] > free_memory(torch.device(device)) // 2:
        return Streamed(x, scale, device)
    whole = torch.empty(x.shape, device=device)
    begin = 0
    for block in blocks(x):
        whole[begin : begin + len(block)] = scale.apply(block)
        begin += len(block)
    return whole
