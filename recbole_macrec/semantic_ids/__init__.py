"""Semantic IDs from item features: quantizers, collision resolution, statistics, bundles on disk, published IDs."""
from recbole_macrec.data.id_files import read_published
from recbole_macrec.semantic_ids.build import build_semantic_ids, published_semantic_ids
from recbole_macrec.semantic_ids.codes import SemanticIDs
from recbole_macrec.semantic_ids.quantizers.base import Execution
from recbole_macrec.semantic_ids.quantizers.represent import represent_and_learn
from recbole_macrec.semantic_ids.rows import FeatureRows
from recbole_macrec.semantic_ids.settings import SemanticIDSettings

__all__ = ["Execution", "FeatureRows", "SemanticIDSettings", "SemanticIDs", "build_semantic_ids", "published_semantic_ids",
           "read_published", "represent_and_learn"]
