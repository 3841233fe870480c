"""Hierarchical k-means: the items of a cluster are clustered again, level by level.

Axes: N items, F feature width, L levels, K codes of a level.
"""
import numpy as np
import torch

from recbole_macrec.data.blocks import blocks
from recbole_macrec.semantic_ids.kmeans import kmeans
from recbole_macrec.semantic_ids.learnt import Learnt, LearntModality
from recbole_macrec.semantic_ids.rows import Features, Scale
from recbole_macrec.semantic_ids.settings import SemanticIDSettings


def hierarchical_kmeans(features: dict[str, Features], settings: SemanticIDSettings) -> Learnt:
    """Codes of every modality ([N, F_m], N >= K) on its own: the baseline of MMGRec's Table 4 (Tay et al., NeurIPS 2022).

    Codes of a level mean something under their prefix alone, so there are no codebooks that all items share. A cluster of
    at most K items gives each of them a code of its own.
    """
    return Learnt({m: _one_modality(x, settings) for m, x in features.items()}, history=[])


def _one_modality(x: Features, settings: SemanticIDSettings) -> LearntModality:
    scale = Scale.of(x, settings.standardize)
    rows = np.concatenate([scale.apply(block).numpy() for block in blocks(x)])  # [N, F]
    codes = np.zeros((len(rows), settings.codebook_levels), dtype=np.int64)
    weights = {"mean": scale.mean, "scale": scale.scale}
    clusters = [np.arange(len(rows))]
    for level in range(settings.codebook_levels):
        paths, centres, below = [], [], []
        for members in clusters:
            labels, means = _clustered(rows[members], settings.codebook_size, settings.semantic_id_seed + level)
            codes[members, level] = labels
            for code in np.unique(labels):
                inside = members[labels == code]
                below.append(inside)
                paths.append(codes[inside[0], : level + 1])
                centres.append(means[code])
        clusters = below
        weights[f"paths_{level}"] = torch.from_numpy(np.stack(paths))  # [nodes, level + 1]
        weights[f"centres_{level}"] = torch.from_numpy(np.stack(centres))  # [nodes, F]
    error = sum(float(np.square(rows[members] - centre).sum()) for members, centre in zip(clusters, centres))
    return LearntModality(codes, None, error / rows.size, weights)


def _clustered(rows: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and centres of at most ``size`` clusters; equal rows share one."""
    distinct, labels = np.unique(rows, axis=0, return_inverse=True)
    if len(distinct) <= size:
        return labels.reshape(-1), distinct
    found = kmeans(rows, size, seed)
    return found.labels, found.centres
