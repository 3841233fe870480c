"""Uniform assignment by entropic optimal transport (Cuturi, NeurIPS 2013).

Axes: n items, K codewords.
"""
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

REGULARISATION = 0.05  # of the mean cost
ITERATIONS = 100


def transport_plan(cost: np.ndarray) -> np.ndarray:
    """Plan [n, K] that gives every item the mass 1 / n and every codeword 1 / K at little ``cost`` [n, K]."""
    items, words = cost.shape
    mean = cost.mean()
    kernel = -cost / (REGULARISATION * mean) if mean > 0 else np.zeros_like(cost)
    of_item, of_word = np.zeros((items, 1)), np.zeros((1, words))
    for _ in range(ITERATIONS):
        of_word = -np.log(words) - logsumexp(kernel + of_item, axis=0, keepdims=True)
        of_item = -np.log(items) - logsumexp(kernel + of_word, axis=1, keepdims=True)
    return np.exp(kernel + of_item + of_word)


def uniform_assignment(cost: np.ndarray) -> np.ndarray:
    """A codeword of its own for every item, [n], n <= K: the assignment that moves most mass of the plan."""
    return linear_sum_assignment(-transport_plan(cost.astype(np.float64)))[1]
