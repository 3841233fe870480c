"""k-means with the same result for the same seed on any number of CPU cores."""
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from recbole_macrec.semantic_ids.rows import LARGEST_FEATURE, ComputedRows, Features, sample_rows
from recbole_macrec.utils.blocks import blocks

MINI_BATCH_FROM = 20_000  # items; above this, full Lloyd iterations cost minutes
MINI_BATCH = 8_192  # items of an iteration of mini-batch k-means


class Clusters(NamedTuple):
    """Result of k-means on N rows of width F."""

    centres: np.ndarray  # [K, F] float32
    labels: np.ndarray  # [N] int64


def kmeans(x: Features, k: int, seed: int) -> Clusters:
    """Cluster the rows of ``x`` [N, F] into ``k`` <= N groups; with more than SAMPLE_SIZE rows, centres are fitted to a
    sample."""
    with _one_thread():
        model = _fit(x, k, seed)
        if len(x) > MINI_BATCH_FROM:
            labels = np.concatenate([model.predict(block) for block in blocks(x)])
        else:
            labels = model.labels_
    return Clusters(model.cluster_centers_.astype(np.float32), labels.astype(np.int64))


def kmeans_centres(x: Features, k: int, seed: int) -> np.ndarray:
    """Return only the centres [K, F] of :func:`kmeans`, without the pass over all rows for the labels."""
    with _one_thread():
        return _fit(x, k, seed).cluster_centers_.astype(np.float32)


@contextmanager
def _one_thread() -> Iterator[None]:
    # scikit-learn adds sums of threads in the order in which they finish, so more than two threads are not reproducible
    with threadpool_limits(1, user_api="openmp"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # with fewer distinct rows than k, some centres are duplicates
        yield


def _fit(x: Features, k: int, seed: int) -> KMeans | MiniBatchKMeans:
    seed %= 2**32  # callers add levels and epochs to a seed, which may be the largest that scikit-learn accepts
    if len(x) > MINI_BATCH_FROM:
        return MiniBatchKMeans(k, n_init=1, batch_size=MINI_BATCH, random_state=seed).fit(sample_rows(x, seed))
    return KMeans(k, n_init=1, max_iter=50, random_state=seed).fit(x[:])


def pseudo_labels(features: Features, count: int, seed: int) -> np.ndarray:
    """Return k-means labels [N] int64 of the raw features [N, F], N >= ``count`` (arXiv 2511.15122: 512 labels)."""
    largest = max(float(np.abs(block).max(initial=0)) for block in blocks(features))
    if largest > LARGEST_FEATURE or 0 < largest < 1 / LARGEST_FEATURE:  # squares would overflow or vanish; labels stay the same
        features = ComputedRows((features,), lambda block: block / np.float32(largest), features.shape[1])
    return kmeans(features, count, seed).labels
