"""Hierarchical k-means: the items of a cluster are clustered again, level by level.

Shapes: N items, F feature width, L levels, K codes of a level.
"""
from collections.abc import Mapping

import numpy as np

from recbole_macrec.semantic_ids.codes import LearntCodes, LearntModality
from recbole_macrec.semantic_ids.quantizers.base import Execution, Quantizer
from recbole_macrec.semantic_ids.quantizers.kmeans import Clusters, kmeans
from recbole_macrec.semantic_ids.rows import ComputedRows, Features, Scale, select_rows
from recbole_macrec.semantic_ids.settings import SemanticIDSettings
from recbole_macrec.utils.blocks import blocks


class HierarchicalKMeans(Quantizer):
    """k-means of the features, then of each cluster: the baseline of MMGRec's Table 4 (Tay et al., NeurIPS 2022).

    A code has a meaning only after its prefix, so there are no codebooks that all items share, and new items cannot be
    quantized. The items of a cluster with at most K items get different codes, except that equal rows share one.
    """

    def learn(
        self, features: Mapping[str, Features], settings: SemanticIDSettings, execution: Execution = Execution()
    ) -> LearntCodes:
        return LearntCodes({m: _one_modality(x, settings) for m, x in features.items()}, history=[])


def _one_modality(x: Features, settings: SemanticIDSettings) -> LearntModality:
    scale = Scale.fit(x, settings.standardize)
    rows = ComputedRows((x,), lambda block: scale.apply(block).numpy(), x.shape[1])  # [N, F]
    codes = np.zeros((len(x), settings.codebook_levels), dtype=np.int64)
    clusters = [np.arange(len(x))]
    for level in range(settings.codebook_levels):
        centres, below = [], []
        for members in clusters:
            clustered = _clustered(select_rows(rows, members), settings.codebook_size, settings.semantic_id_seed + level)
            codes[members, level] = clustered.labels
            for code in np.unique(clustered.labels):
                inside = members[clustered.labels == code]
                below.append(inside)
                centres.append(clustered.centres[code])
        clusters = below
    error = sum(
        float(np.square(block - centre).sum())
        for members, centre in zip(clusters, centres)
        for block in blocks(select_rows(rows, members))
    )
    return LearntModality(codes, None, error / (x.shape[0] * x.shape[1]), {"mean": scale.mean, "scale": scale.scale})


def _clustered(rows: Features, size: int, seed: int) -> Clusters:
    """Cluster ``rows`` into at most ``size`` clusters; equal rows share one."""
    first = rows[: size + 1]
    distinct, labels = np.unique(first, axis=0, return_inverse=True)
    if len(distinct) <= size and len(rows) > len(first):  # otherwise all rows are known, or too many differ
        for block in blocks(rows):
            distinct = np.unique(np.concatenate([distinct, block]), axis=0)
            if len(distinct) > size:
                break
        else:
            numbered = [np.unique(np.concatenate([distinct, block]), axis=0, return_inverse=True)[1] for block in blocks(rows)]
            labels = np.concatenate([of_block.reshape(-1)[len(distinct) :] for of_block in numbered])
    return Clusters(distinct, labels.reshape(-1)) if len(distinct) <= size else kmeans(rows, size, seed)
