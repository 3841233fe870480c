"""Pseudo-labels: which items are alike in one modality, before anything is learnt."""
import numpy as np

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.kmeans import kmeans


def pseudo_labels(features: np.ndarray, count: int, seed: int) -> np.ndarray:
    """k-means labels [N] int64 of the raw features [N, F] (Zhang et al., arXiv 2511.15122: K = 512).

    Raises:
        UserError: when there are fewer items than labels.
    """
    if count > len(features):
        raise UserError(f"pseudo_labels = {count}, but there are only {len(features)} items: lower pseudo_labels, "
                        "to about a tenth of the items, or set con_positives to self or lambda_con to 0.")
    return kmeans(features, count, seed).labels
