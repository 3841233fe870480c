"""Collaborative indexing: IDs from spectral clustering of the graph of items with common users.

Shapes: U users, N items, L levels.
"""
import warnings
from collections.abc import Mapping

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.cluster import SpectralClustering

from recbole_macrec.data.id_files import MAX_LEVELS
from recbole_macrec.semantic_ids.codes import LearntCodes, LearntModality
from recbole_macrec.semantic_ids.quantizers.base import Execution, Quantizer
from recbole_macrec.semantic_ids.settings import SemanticIDSettings

DEEPEST = MAX_LEVELS - 1  # maximum number of splits above an item; the last level is the number of the item


class CID(Quantizer):
    """Spectral clustering of the items by common users in the training part; reads no features (P5-CID).

    Hua et al., "How to Index Item IDs for Recommendation Foundation Models", SIGIR-AP 2023, arXiv 2305.06569. The weight of an
    edge is the number of users of both items. A set of more than ``cid_leaf_size`` items is split into ``cid_clusters`` parts,
    and these are split in turn, until a split changes nothing (the official code stops after 8 levels). The ID of an item
    contains the number of its part in every split, then its number within the last part. Shorter IDs end with an end code, so
    all have L codes, and no two items share an ID. Items of a set that have no user in common with another of its items form a
    part of their own.
    """

    reads_interactions = True

    def learn(
        self, features: Mapping[str, csr_matrix], settings: SemanticIDSettings, execution: Execution = Execution()
    ) -> LearntCodes:
        """Cluster the items; ``features`` maps the name of each ID to the same training interactions [U, N]."""
        interactions = next(iter(features.values()))  # of all IDs
        weights = common_users(interactions)
        paths = cluster_paths(weights, settings.cid_clusters, settings.cid_leaf_size, settings.semantic_id_seed)
        return LearntCodes(dict.fromkeys(features, LearntModality(rectangular_codes(paths), None, None, {})), history=[])

    def sizes(self, codes: np.ndarray, settings: SemanticIDSettings) -> tuple[int, ...]:
        return tuple((codes.max(0) + 1).tolist())


def common_users(interactions: csr_matrix) -> csr_matrix:
    """Number of common users of every two different items, [N, N], from interactions [U, N]."""
    binary = csr_matrix((np.ones(interactions.nnz), interactions.indices, interactions.indptr), shape=interactions.shape)
    weights = (binary.T @ binary).tocsr()
    weights.setdiag(0)
    weights.eliminate_zeros()
    return weights


def cluster_paths(weights: csr_matrix, clusters: int, leaf_size: int, seed: int) -> list[tuple[int, ...]]:
    """Return the path of every item in the tree of clusters; its last entry is the item's number in the leaf.

    Args:
        weights: number of common users of each pair of items [N, N].
        clusters: number of clusters into which a cluster is split.
        leaf_size: maximum number of items of a cluster that is not split.
    """
    paths: list[tuple[int, ...]] = [()] * weights.shape[0]

    def split(items: np.ndarray, path: tuple[int, ...]) -> None:
        part = _parts(weights[items][:, items], clusters, seed) if len(items) > leaf_size and len(path) < DEEPEST else None
        if part is None or len(np.unique(part)) == 1:
            for number, item in enumerate(items.tolist()):
                paths[item] = (*path, number)
            return
        for number, members in enumerate(np.unique(part)):
            split(items[part == members], (*path, number))

    split(np.arange(weights.shape[0]), ())
    return paths


def _parts(weights: csr_matrix, clusters: int, seed: int) -> np.ndarray:
    """Part of each of n items, int64 [n]; items without an edge form the last part."""
    connected = np.asarray(weights.sum(1)).reshape(-1) > 0
    parts = np.full(len(connected), clusters)
    count = min(clusters, int(connected.sum()) - 1)
    if count >= 2:
        with warnings.catch_warnings():
            # "Graph is not fully connected": expected, and no problem for the parts
            warnings.simplefilter("ignore", UserWarning)
            model = SpectralClustering(count, affinity="precomputed", assign_labels="cluster_qr", random_state=seed)
            parts[connected] = model.fit_predict(weights[connected][:, connected])
    elif connected.any():
        parts[connected] = 0
    return parts


def rectangular_codes(paths: list[tuple[int, ...]]) -> np.ndarray:
    """Pad paths of different lengths with the end code 0; codes of the path are counted from 1 unless all paths are equally
    long.

    Returns:
        int64 [N, L].
    """
    levels = max(map(len, paths))
    shift = int(any(len(path) < levels for path in paths))
    codes = np.zeros((len(paths), levels), dtype=np.int64)
    for row, path in enumerate(paths):
        codes[row, : len(path)] = np.array(path) + shift
    return codes
