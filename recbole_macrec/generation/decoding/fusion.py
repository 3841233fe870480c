"""One ranking out of the rankings of several modalities, and the score matrix that RecBole's evaluator reads.

Legend: B users, R ranked items.
"""
import math
from collections.abc import Sequence

import torch

from recbole_macrec.generation.decoding.search import Ranking, best_of

BELOW_ALL_RANKED = -1e6
STEP = 2e-6  # the least difference between neighbours of a ranking that float32 keeps at scores above -16


def fuse_official(rankings: Sequence[Ranking], n_items: int) -> Ranking:
    """Fusion as in MQL4GRec and MACRec.

    An item in all lists scores the mean of its length-normalised log-probabilities plus 1, an item in some of them
    the mean over those without the bonus; so agreement of the modalities comes first.

    Args:
        rankings: one ranking a modality, over the same B users.
        n_items: items of the catalogue, padding included.

    Returns:
        Every item of any list, best first; equal scores are ordered by item number.
    """
    if len(rankings) == 1:
        return rankings[0]
    items = torch.cat([r.items for r in rankings], dim=1)  # [B, sum of R]
    found = torch.cat([r.scores for r in rankings], dim=1).isfinite()
    scores = torch.cat([r.scores for r in rankings], dim=1).masked_fill(~found, 0)
    items = torch.where(found, items, n_items)  # sorts behind every item
    items, order = items.sort(dim=1, stable=True)
    scores, found = scores.gather(1, order), found.gather(1, order)
    fresh = torch.ones_like(found)
    fresh[:, 1:] = items[:, 1:] != items[:, :-1]
    group = fresh.cumsum(1) - 1  # which distinct item
    total = torch.zeros_like(scores).scatter_add_(1, group, scores)
    lists = torch.zeros_like(scores).scatter_add_(1, group, found.float())
    first = torch.zeros_like(items).scatter_(1, group, items)
    real = lists > 0
    fused = total / lists.clamp(min=1) + (lists == len(rankings)).float()
    return best_of(first.masked_fill(~real, 0), fused.masked_fill(~real, -torch.inf), items.shape[1])


def fuse_scores(rule: str, scores: Sequence[torch.Tensor], levels: Sequence[int]) -> torch.Tensor:
    """One score out of the modalities' exact ones.

    ``lse`` is log of the mean of the modalities' probabilities, over the mean of their ``levels``: an item that one modality
    finds probable scores high (OR). Every other rule is the mean of the length-normalised log-probabilities.

    Args:
        scores: a modality's length-normalised log-probabilities; tensors of one shape.
        levels: codes of each modality's IDs.
    """
    if len(scores) == 1:
        return scores[0]
    if rule != "lse":
        return torch.stack(list(scores)).mean(0)
    total = torch.stack([score * length for score, length in zip(scores, levels)]).logsumexp(0)
    return (total - math.log(len(scores))) * (len(levels) / sum(levels))


def fuse_rescored(rule: str, candidates: torch.Tensor, scores: Sequence[torch.Tensor], levels: Sequence[int]) -> Ranking:
    """Fusion by exact scores: the candidates of all lists, ordered by :func:`fuse_scores`.

    Args:
        candidates: int64 [B, R], distinct items of a user, 0 where there is none.
        scores: a modality's exact length-normalised log-probabilities of them, [B, R].
    """
    fused = fuse_scores(rule, scores, levels).masked_fill(candidates == 0, -torch.inf)
    candidates, order = candidates.sort(dim=1, stable=True)  # equal scores in item order
    return best_of(candidates, fused.gather(1, order), candidates.shape[1])


def score_matrix(ranking: Ranking, n_items: int) -> torch.Tensor:
    """Scores of the whole catalogue that sort into the ranking.

    Ranked items get their score less a rank's worth of ``STEP``, so that equal probabilities never make the order a
    matter of luck; the others follow far below in item order. Every entry is finite, so no item becomes a hit by
    filling up a top-k.

    Returns:
        float32 [B, n_items], fresh and contiguous; column 0 is padding and scores below everything.
    """
    users, ranks = ranking.items.shape
    device = ranking.items.device
    below = BELOW_ALL_RANKED - torch.arange(n_items, device=device, dtype=torch.float32)
    below[0] = 2 * BELOW_ALL_RANKED - n_items
    scores = below.repeat(users, 1)
    strict = ranking.scores.double() - STEP * torch.arange(ranks, device=device)
    exists = ranking.scores.isfinite()
    row = torch.arange(users, device=device).unsqueeze(1).expand(-1, ranks)
    scores[row[exists], ranking.items[exists]] = strict[exists].float()
    return scores
