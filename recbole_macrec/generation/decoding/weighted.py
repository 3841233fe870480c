"""Weighted fusion: the candidates of several models, their fused scores, and weights chosen on validation rows.

Shapes: M models, R rows (users), C candidates of a row, T targets.
"""

from collections.abc import Callable

import torch

from recbole_macrec.utils.hardware import autocast_to

TOP = 100  # candidates of each model
MULTIPLIERS = [0.0, *(2.0 ** (step / 2) for step in range(-6, 7))]  # of the starting weights, 1/8 to 8
FINE_MULTIPLIERS = [2.0 ** (step / 8) for step in range(-4, 5)]
ROUNDS = 4  # maximum number of passes over the models


def fused_scores(scores: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sum of the models' log-probabilities, sum_m w_m log p_m(item | history).

    A weight is the inverse of the temperature of a model's softmax, so one number per model sets both. The sum is computed in
    fp32, also under autocast: in bf16 many items would have equal sums.

    Args:
        scores: [M, R, C], -inf where a row has no further candidate, or where a model excludes a candidate; it is then
            excluded from the fusion too.
        weights: [M].

    Returns:
        [R, C].
    """
    absent = (scores == -torch.inf).any(0)
    with autocast_to("fp32", scores.device):
        fused = torch.einsum("mbc,m->bc", scores.masked_fill(absent, 0.0), weights)
    return fused.masked_fill(absent, -torch.inf)


def target_columns(items: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Column of each ``target`` [T] among its candidates ``items`` [T, C], -1 if it is none of them; int64 [T]."""
    found = items == target.unsqueeze(1)
    return torch.where(found.any(1), found.int().argmax(1), -1)


def target_ranks(fused: torch.Tensor, row: torch.Tensor, column: torch.Tensor, lowest: int) -> torch.Tensor:
    """Rank of each target among the candidates of its row, 1 for the best; equal scores rank in candidate order; int64 [T].

    Args:
        fused: [R, C].
        row, column: int64 [T], where a target stands in ``fused``; column -1 if it is no candidate.
        lowest: rank of targets that are no candidates or are excluded.
    """
    own = fused[row, column.clamp(min=0)].unsqueeze(1)
    others = fused[row]
    place = torch.arange(fused.shape[1])
    before = (others > own) | ((others == own) & (place < column.unsqueeze(1)))
    return torch.where((column >= 0) & ~own.squeeze(1).isneginf(), before.sum(1) + 1, lowest)


def choose_weights(scores: torch.Tensor, quality: Callable[[torch.Tensor], float]) -> tuple[torch.Tensor, float]:
    """Search the weights [M] whose fused scores have the highest ``quality``.

    Coordinate search: it starts with weights that give the scores of every model the same standard deviation within a row, and
    then changes one weight at a time, first in steps of sqrt(2) and with 0 among the values, then in steps of 2^(1/8). A weight
    of 0 is tried again from its first value, as it may help once the others have changed. The result depends on nothing but
    the arguments.

    Args:
        scores: [M, R, C], as in :func:`fused_scores`.
        quality: metric of the fused scores [R, C], higher is better.

    Returns:
        The weights, divided by their sum, and their quality.
    """
    present = scores.isfinite().all(0)
    counts = present.sum(1).clamp(min=1)
    filled = scores.masked_fill(~present, 0.0)
    means = filled.sum(2) / counts  # [M, R]
    variance = ((filled - means.unsqueeze(2)).square() * present).sum(2) / counts
    first = 1 / variance.sqrt().mean(1).clamp(min=1e-6)
    weights = first.clone()
    best = quality(fused_scores(scores, weights))
    for multipliers in (MULTIPLIERS, FINE_MULTIPLIERS):
        for _ in range(ROUNDS):
            start = best
            for model in range(len(weights)):
                tries = weights.repeat(len(multipliers), 1)
                tries[:, model] = (weights[model] or first[model]) * torch.tensor(multipliers)
                values = [quality(fused_scores(scores, tried)) if tried.any() else best for tried in tries]
                if max(values) > best:
                    best = max(values)
                    weights = tries[values.index(best)]
            if best == start:
                break
    return weights / weights.sum(), best
