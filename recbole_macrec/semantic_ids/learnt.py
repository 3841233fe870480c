"""What every quantizer hands back."""
from typing import NamedTuple

import numpy as np
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
