"""Quantizers: methods that turn features of items into codes.

To add one, write a module with a subclass of :class:`Quantizer` and add it to QUANTIZERS.
"""
from recbole_macrec.config.schema.base import REGISTRIES
from recbole_macrec.semantic_ids.quantizers.base import Quantizer
from recbole_macrec.semantic_ids.quantizers.cid import CID
from recbole_macrec.semantic_ids.quantizers.hierarchical_kmeans import HierarchicalKMeans
from recbole_macrec.semantic_ids.quantizers.letter import LETTER
from recbole_macrec.semantic_ids.quantizers.rq_kmeans import RQKMeans
from recbole_macrec.semantic_ids.quantizers.rqvae_training import CrossModalRQVAEQuantizer, RQVAEQuantizer

QUANTIZERS: dict[str, type[Quantizer]] = {  # by value of the option ``quantizer``
    "cross_modal_rqvae": CrossModalRQVAEQuantizer,
    "rqvae": RQVAEQuantizer,
    "rq_kmeans": RQKMeans,
    "hierarchical_kmeans": HierarchicalKMeans,
    "letter": LETTER,
    "cid": CID,
}
REGISTRIES["quantizer"] = QUANTIZERS  # also for settings.py, which the quantizers import
