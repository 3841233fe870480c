"""Quantizers: methods that turn features of items into codes.

To add one, write a module with a subclass of :class:`Quantizer` and add it to QUANTIZERS.

Shapes: N items, F_m feature width of modality m.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from recbole_macrec.semantic_ids.codes import LearntCodes
from recbole_macrec.semantic_ids.quantizers.base import Execution, Quantizer
from recbole_macrec.semantic_ids.quantizers.cid import CID
from recbole_macrec.semantic_ids.quantizers.hierarchical_kmeans import HierarchicalKMeans
from recbole_macrec.semantic_ids.quantizers.letter import LETTER
from recbole_macrec.semantic_ids.quantizers.rq_kmeans import RQKMeans
from recbole_macrec.semantic_ids.quantizers.rqvae_training import CrossModalRQVAEQuantizer, RQVAEQuantizer
from recbole_macrec.semantic_ids.rows import Features
from recbole_macrec.utils.distributed import ALONE, Group

if TYPE_CHECKING:
    from recbole_macrec.semantic_ids.settings import SemanticIDSettings

QUANTIZERS: dict[str, type[Quantizer]] = {  # by value of the option ``quantizer``
    "cross_modal_rqvae": CrossModalRQVAEQuantizer,
    "rqvae": RQVAEQuantizer,
    "rq_kmeans": RQKMeans,
    "hierarchical_kmeans": HierarchicalKMeans,
    "letter": LETTER,
    "cid": CID,
}


def learn_codes(
    features: Mapping[str, Features],
    settings: SemanticIDSettings,
    device: str = "cpu",
    show_progress: bool = True,
    group: Group = ALONE,
) -> LearntCodes:
    """Learn codes of all items from features [N, F_m] float32 with ``settings.quantizer``; see :meth:`Quantizer.learn`."""
    return QUANTIZERS[settings.quantizer]().learn(features, settings, Execution(device, show_progress, group))
