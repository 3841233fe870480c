"""Uniform assignment by entropic optimal transport (Cuturi, NeurIPS 2013).

Shapes: n items, K codewords.
"""
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

REGULARISATION = 0.05  # relative to the mean cost
ITERATIONS = 100


def transport_plan(cost: np.ndarray) -> np.ndarray:
    """Entropic transport plan [n, K] for ``cost`` [n, K], with marginals 1 / n of items and 1 / K of codewords."""
    items, words = cost.shape
    mean = cost.mean()
    kernel = -cost / (REGULARISATION * mean) if mean > 0 else np.zeros_like(cost)
    item_scale, word_scale = np.zeros((items, 1)), np.zeros((1, words))
    for _ in range(ITERATIONS):
        word_scale = -np.log(words) - logsumexp(kernel + item_scale, axis=0, keepdims=True)
        item_scale = -np.log(items) - logsumexp(kernel + word_scale, axis=1, keepdims=True)
    return np.exp(kernel + item_scale + word_scale)


def uniform_assignment(cost: np.ndarray) -> np.ndarray:
    """Assign a different codeword to every item, [n], n <= K, with the largest total mass of the transport plan."""
    return linear_sum_assignment(-transport_plan(cost.astype(np.float64)))[1]
