"""Pseudo-labels: which items are alike in one modality, before anything is learnt."""
import numpy as np

from recbole_macrec.semantic_ids.kmeans import kmeans
from recbole_macrec.semantic_ids.rows import Features


def pseudo_labels(features: Features, count: int, seed: int) -> np.ndarray:
    """k-means labels [N] int64 of the raw features [N, F], N >= ``count`` (arXiv 2511.15122: 512 labels)."""
    return kmeans(features, count, seed).labels
