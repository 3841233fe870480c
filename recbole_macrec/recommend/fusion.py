"""Fusion of several models.

Shapes: M models, B users, C candidates of a user, W items of all lists of a user.
"""
import numpy as np
import torch

TOP = 100  # candidates of each model


def fused_scores(scores: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sum of the models' log-probabilities, sum_m w_m log p_m(item | history).

    A weight is the inverse of the temperature of a model's softmax, so one number per model sets both.

    Args:
        scores: [M, B, C], -inf where a user has no further candidate.
        weights: [M].

    Returns:
        [B, C].
    """
    absent = scores[0] == -torch.inf
    return torch.einsum("mbc,m->bc", scores.masked_fill(absent, 0.0), weights).masked_fill(absent, -torch.inf)


def distinct(lists: np.ndarray) -> np.ndarray:
    """The distinct items of each row of ``lists`` [B, W] in ascending order, padded with 0 at the end; int64 [B, C]."""
    ordered = np.sort(lists, axis=1)
    ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = 0
    last = np.iinfo(ordered.dtype).max
    ordered = np.sort(np.where(ordered == 0, last, ordered), axis=1)
    width = int((ordered < last).sum(1).max(initial=0))
    return np.where(ordered == last, 0, ordered)[:, :width]
