"""Probabilities that do not depend on the history: of items with the same ID, and of items added after training.

Items with the same ID divide its probability in proportion to their numbers n of training interactions plus one:

    log P(item | history) = log P(ID | history) + log P(item | ID)
    P(item | ID) = (n_item + 1) / sum over the items j of the ID of (n_j + 1)

The network has learnt that a code which no trained item has after a prefix does not occur. So the codes in which a new item
differs from all trained items cannot be scored by the network. The new item gets the mean probability of the trained items
below the longest prefix that it shares with any of them:

    log P(item | history) = log P(prefix | history) - log(number of trained items below the prefix)

TIGER (Rajput et al., NeurIPS 2023, section 4.3) ranks unseen items together with the items that share all codes but the last.

Shapes: N items, L levels.
"""
import numpy as np
import torch


def log_shares_of_ids(codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """log P(item | ID) of each item, float32 [N].

    Example: of the IDs (0, 1), (0, 1), (2, 2) with counts 5, 1, 0, the shares are 6/8, 2/8 and 1.

    Args:
        codes: int [N, L].
        counts: int [N], number of training interactions of each item.
    """
    group = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)
    weights = counts + 1.0
    return np.log(weights / np.bincount(group, weights)[group]).astype(np.float32)


def prior_log_probs(codes: np.ndarray, n_new: int) -> np.ndarray:
    """log P(code | prefix) of the codes that no trained item has after the same prefix, NaN for all others.

    Example: of (0, 1), (0, 2), (0, 3), (4, 4) the last two are new. (0, 3) shares (0) with two trained items, so its
    second code has -log 2; (4, 4) shares nothing, so its first code has -log 2 and its second 0.

    Args:
        codes: int [N, L].
        n_new: the last ``n_new`` rows are items added after training.

    Returns:
        float32 [N, L].
    """
    trained = len(codes) - n_new
    prior = np.full(codes.shape, np.nan, dtype=np.float32)
    above = np.full(n_new, trained)  # number of trained items below the prefix so far
    for level in range(codes.shape[1]):
        prefix = np.unique(codes[:, : level + 1], axis=0, return_inverse=True)[1].reshape(-1)  # [N]
        below = np.bincount(prefix[:trained], minlength=len(codes))[prefix[trained:]]
        unknown = below == 0
        prior[trained:][unknown, level] = -np.log(np.maximum(above, 1))[unknown]
        above = below
    return prior


def with_prior(log_probs: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """``prior`` where it is not NaN, else the network's ``log_probs``; the shapes broadcast."""
    return torch.where(prior.isnan(), log_probs, prior)
