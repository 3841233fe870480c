"""Quality of codes: collisions, usage of the codebooks, and how well the codes predict the features.

Shapes: N items, L levels, K codes per level, F feature width. All results are plain JSON numbers.
"""
from collections.abc import Mapping

import numpy as np
from scipy.sparse import csr_matrix

from recbole_macrec.semantic_ids.rows import SAMPLE_SIZE, Features, select_rows
from recbole_macrec.utils.blocks import blocks

HELD_OUT = 0.2  # share of test items of the ridge regression
RIDGE = 1.0
MOST_CODES = 4096  # of all levels, for the ridge regression: its time grows with their third power


def collision_rate(codes: np.ndarray) -> float:
    """(N - number of distinct rows) / N of ``codes`` [N, L], as in Table 4 of arXiv 2511.15122.

    Example: rows (0, 1), (0, 1), (2, 3) are 3 items with 2 distinct codes: 1/3.
    """
    return (len(codes) - len(np.unique(codes, axis=0))) / len(codes)


def usage_and_perplexity(codes: np.ndarray, sizes: tuple[int, ...]) -> tuple[list[int], list[float]]:
    """For each level the number of used codes, and the perplexity exp(entropy) of their frequencies; both are at most K."""
    usage, perplexity = [], []
    for level, size in enumerate(sizes):
        share = np.bincount(codes[:, level], minlength=size) / len(codes)  # [K]
        share = share[share > 0]
        usage.append(len(share))
        perplexity.append(round(float(np.exp(-(share * np.log(share)).sum())), 3))
    return usage, perplexity


def predictability(codes: np.ndarray, sizes: tuple[int, ...], features: Features, seed: int) -> float | None:
    """R^2 of predicting the features of held-out items by ridge regression on their one-hot codes.

    At most ``SAMPLE_SIZE`` items are used. 0 is the prediction by the mean, 1 is perfect; random codes are at or below 0. None
    if the items have more than ``MOST_CODES`` different codes.

    Args:
        codes: [N, L].
        features: [N, F], of the same modality or another.
        seed: seed of the choice of held-out items.
    """
    order = np.random.default_rng(seed).permutation(len(codes))[:SAMPLE_SIZE]
    held_out = max(1, int(HELD_OUT * len(order)))
    test, train = order[:held_out], order[held_out:]
    if len(train) == 0:
        return 0.0
    train_features = select_rows(features, train)
    used = np.flatnonzero(one_hot(codes[train], sizes).sum(0))  # the weight of another code is 0
    if len(used) > MOST_CODES:
        return None
    mean = sum(block.sum(0, dtype=np.float64) for block in blocks(train_features)) / len(train)  # [F]
    gram, product = RIDGE * np.eye(len(used)), 0.0
    for block, block_codes in zip(blocks(train_features), blocks(codes[train])):
        x = one_hot(block_codes, sizes)[:, used]  # [n, codes]
        gram += x.T @ x
        product += x.T @ (block - mean)
    weights = np.linalg.solve(gram, product)  # [codes, F]
    total = unexplained = 0.0
    for block, block_codes in zip(blocks(select_rows(features, test)), blocks(codes[test])):
        rest = block - mean  # [n, F]
        total += float(np.square(rest).sum())
        unexplained += float(np.square(rest - one_hot(block_codes, sizes)[:, used] @ weights).sum())
    return round(1 - unexplained / total, 4) if total > 0 else 0.0


def one_hot(codes: np.ndarray, sizes: tuple[int, ...]) -> csr_matrix:
    """Codes [N, L] as a sparse matrix [N, sum of sizes] with L ones per row."""
    items, levels = codes.shape
    columns = codes + np.concatenate([[0], np.cumsum(sizes)[:-1]])
    row_ends = np.arange(0, items * levels + 1, levels)
    return csr_matrix((np.ones(items * levels), columns.ravel(), row_ends), shape=(items, sum(sizes)))


def code_statistics(raw: np.ndarray, sizes: tuple[int, ...], resolved: np.ndarray,
                    features: Mapping[str, Features] | None = None, seed: int = 0,
                    reconstruction_error: float | None = None) -> dict:
    """Statistics of one modality.

    Args:
        raw: codes [N, L] before collision resolution.
        sizes: codebook sizes of ``raw``.
        resolved: codes [N, L'] after collision resolution.
        features: modality -> [N, F_m], to compute how well the codes predict them.
        reconstruction_error: mean squared error; relative to the variance of a feature if ``standardize`` is on.
    """
    usage, perplexity = usage_and_perplexity(raw, sizes)
    statistics = {
        "items": len(raw),
        "distinct": len(np.unique(raw, axis=0)),
        "collision_rate": collision_rate(raw),
        "collision_rate_after": collision_rate(resolved),
        "usage": usage,
        "perplexity": perplexity,
    }
    if reconstruction_error is not None:
        statistics["reconstruction_error"] = round(float(reconstruction_error), 6)
    if features:
        statistics["predictability"] = {m: predictability(raw, sizes, f, seed) for m, f in features.items()}
    return statistics
