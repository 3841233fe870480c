"""Rebuild item features from several published tokenizations of the real features.

    python examples/rebuild_features.py tokenizations_text.npy text.npy

reads codes [K, N, L], K semantic IDs of L codes for each of N items, and writes features [N, 256]. Items with similar features
share codes in many of the K tokenizations. Every code of every level is a column that is 1 for the items that have it. Coarse
levels and rare codes weigh more, and a truncated SVD makes the columns dense.
"""
import argparse

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD

LEVEL_WEIGHTS = np.array([1.0, 0.7, 0.5, 0.35])


def rebuilt(codes: np.ndarray, width: int = 256) -> np.ndarray:
    """Features [N, width], float32.

    Args:
        codes: whole numbers [K, N, L], with L of at most 4.
    """
    tokenizations, items, levels = codes.shape
    size = int(codes.max()) + 1
    place = np.arange(tokenizations * levels).reshape(tokenizations, 1, levels)
    columns = (place * size + codes).transpose(1, 0, 2)  # [N, K, L], the column of each code
    count = np.bincount(columns.ravel(), minlength=tokenizations * levels * size)
    weights = LEVEL_WEIGHTS[:levels] * np.sqrt(items / size / count[columns])
    starts = np.arange(items + 1) * tokenizations * levels
    matrix = csr_matrix((weights.ravel(), columns.ravel(), starts), shape=(items, len(count)))
    return TruncatedSVD(width, random_state=0).fit_transform(matrix).astype(np.float32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codes", help="input, .npy")
    parser.add_argument("features", help="output, .npy")
    args = parser.parse_args()
    np.save(args.features, rebuilt(np.load(args.codes).astype(np.int64)))
