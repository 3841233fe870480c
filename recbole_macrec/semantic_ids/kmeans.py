"""k-means that gives the same centres for the same seed on any number of cores."""
import warnings
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from recbole_macrec.data.blocks import blocks
from recbole_macrec.semantic_ids.rows import Features, sample

MINI_BATCH_FROM = 20_000  # items; above this, full Lloyd iterations cost minutes


class Clusters(NamedTuple):
    centres: np.ndarray  # [K, F] float32
    labels: np.ndarray  # [N] int64


def kmeans(x: Features, k: int, seed: int) -> Clusters:
    """Cluster the rows of ``x`` [N, F] into ``k`` <= N groups; the centres of very many rows are those of a sample."""
    # scikit-learn sums over its OpenMP threads in whatever order they finish, so more than two are not reproducible
    with threadpool_limits(1, user_api="openmp"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than k: spare centres are duplicates
        if len(x) > MINI_BATCH_FROM:
            model = MiniBatchKMeans(k, n_init=1, batch_size=8192, random_state=seed).fit(sample(x, seed))
            labels = np.concatenate([model.predict(block) for block in blocks(x)])
        else:
            model = KMeans(k, n_init=1, max_iter=50, random_state=seed).fit(x[:])
            labels = model.labels_
    return Clusters(model.cluster_centers_.astype(np.float32), labels.astype(np.int64))
