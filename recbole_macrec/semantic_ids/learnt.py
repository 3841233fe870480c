"""What every quantizer hands back, and the scale that features are brought to before it."""
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recbole_macrec.semantic_ids.resolve import Geometry


class LearntModality(NamedTuple):
    codes: np.ndarray  # [N, L] int64, before collision resolution
    geometry: Geometry
    reconstruction_error: float  # mean squared error of the scaled features
    weights: dict[str, Tensor]  # everything needed to quantize another item


class Learnt(NamedTuple):
    modalities: dict[str, LearntModality]
    history: list[dict]  # one entry per epoch: losses, and health per modality


class Scale(NamedTuple):
    mean: Tensor  # [F]
    scale: Tensor  # [F]

    @classmethod
    def of(cls, features: np.ndarray, standardize: bool) -> "Scale":
        """Mean and standard deviation per column of [N, F] features; 0 and 1 when they stay as they are."""
        if not standardize:
            return cls(torch.zeros(features.shape[1]), torch.ones(features.shape[1]))
        deviation = features.std(0, dtype=np.float64)
        deviation[deviation < 1e-8] = 1.0  # a constant column stays constant
        return cls(torch.from_numpy(features.mean(0, dtype=np.float64)).float(), torch.from_numpy(deviation).float())

    def apply(self, features: np.ndarray) -> Tensor:
        return (torch.from_numpy(features) - self.mean) / self.scale
