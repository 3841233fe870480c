"""Pseudo-labels: which items are alike in one modality, before anything is learnt."""
import numpy as np

from recbole_macrec.data.blocks import blocks
from recbole_macrec.semantic_ids.kmeans import kmeans
from recbole_macrec.semantic_ids.rows import LARGEST, ComputedRows, Features


def pseudo_labels(features: Features, count: int, seed: int) -> np.ndarray:
    """k-means labels [N] int64 of the raw features [N, F], N >= ``count`` (arXiv 2511.15122: 512 labels)."""
    largest = max(float(np.abs(block).max(initial=0)) for block in blocks(features))
    if largest > LARGEST:  # k-means squares them; a common factor changes no label
        features = ComputedRows((features,), lambda block: block / np.float32(largest), features.shape[1])
    return kmeans(features, count, seed).labels
