"""What is assumed of IDs that came after training, of which the network knows nothing.

The network has learnt that a code which no item had behind a prefix does not occur there. So a new item is not scored by
the codes in which it leaves the IDs that were trained on; it gets the mean probability of the trained items below the
longest prefix that it shares with any:

    log P(item | history) = log P(prefix | history) - log(number of trained items below the prefix)

TIGER (Rajput et al., NeurIPS 2023, section 4.3) ranks unseen items with those that share all codes but the last.

Legend: N items, L levels.
"""
import numpy as np
import torch


def prior_log_probs(codes: np.ndarray, newcomers: int) -> np.ndarray:
    """log P(code | prefix) of the codes that no trained item has behind that prefix, NaN for all others.

    Example: of (0, 1), (0, 2), (0, 3), (4, 4) the last two are new. (0, 3) shares (0) with two trained items, so its
    second code has -log 2; (4, 4) shares nothing: -log 2 at its first code, 0 behind it.

    Args:
        codes: int [N, L]; the last ``newcomers`` rows came after training.

    Returns:
        float32 [N, L].
    """
    trained = len(codes) - newcomers
    prior = np.full(codes.shape, np.nan, dtype=np.float32)
    above = np.full(newcomers, trained)  # trained items below the prefix so far
    for level in range(codes.shape[1]):
        prefix = np.unique(codes[:, : level + 1], axis=0, return_inverse=True)[1].reshape(-1)  # [N]
        below = np.bincount(prefix[:trained], minlength=len(codes))[prefix[trained:]]
        unknown = below == 0
        prior[trained:][unknown, level] = -np.log(np.maximum(above, 1))[unknown]
        above = below
    return prior


def with_prior(log_probs: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """``prior`` where it is no NaN, else the network's ``log_probs``; the shapes broadcast."""
    return torch.where(prior.isnan(), log_probs, prior)
