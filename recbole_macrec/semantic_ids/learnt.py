"""What every quantizer hands back."""
from typing import NamedTuple

import numpy as np
from torch import Tensor

from recbole_macrec.semantic_ids.codes import GraphRepresentations
from recbole_macrec.semantic_ids.collisions import Geometry


class LearntModality(NamedTuple):
    codes: np.ndarray  # [N, L] int64, before collision resolution
    geometry: Geometry | None  # None where the codewords are not shared by all items
    reconstruction_error: float  # mean squared error of the scaled features
    weights: dict[str, Tensor]  # everything needed to quantize another item


class Learnt(NamedTuple):
    modalities: dict[str, LearntModality]
    history: list[dict]  # one entry per epoch: losses, and health per modality
    graph: GraphRepresentations | None = None
