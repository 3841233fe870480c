"""Fusion of the rankings of several modalities, and the score matrix for RecBole's evaluator.

Shapes: B users, R ranked items.
"""
import math
from collections.abc import Sequence

import torch

from recbole_macrec.generation.decoding.search import Ranking, best_of
from recbole_macrec.utils.sorted_rows import starts_run

BELOW_ALL_RANKED = -1e6  # score of items that are not ranked
STEP = 2e-6  # difference between neighbours of a ranking that float32 can represent at scores above -16


def fuse_official(rankings: Sequence[Ranking], n_items: int) -> Ranking:
    """Fuse rankings as in the released code of MQL4GRec and MACRec.

    The score of an item in all lists is the mean of its length-normalised log-probabilities plus 1. For an item in some of
    the lists it is the mean over these lists without the bonus. So items that all modalities agree on come first.

    Args:
        rankings: of two or more modalities, of the same B users.
        n_items: number of items, including the padding.

    Returns:
        All items of the lists, best first; equal scores in item order.
    """
    items = torch.cat([r.items for r in rankings], dim=1)  # [B, sum of R]
    found = torch.cat([r.scores for r in rankings], dim=1).isfinite()
    scores = torch.cat([r.scores for r in rankings], dim=1).masked_fill(~found, 0)
    items = torch.where(found, items, n_items)  # sorts after every item
    items, order = items.sort(dim=1, stable=True)
    scores, found = scores.gather(1, order), found.gather(1, order)
    group = starts_run(items).cumsum(1) - 1  # index of the distinct item
    total = torch.zeros_like(scores).scatter_add_(1, group, scores)
    lists = torch.zeros_like(scores).scatter_add_(1, group, found.float())
    first = torch.zeros_like(items).scatter_(1, group, items)
    is_item = lists > 0
    fused = total / lists.clamp(min=1) + (lists == len(rankings)).float()
    return best_of(first.masked_fill(~is_item, 0), fused.masked_fill(~is_item, -torch.inf), items.shape[1])


def fuse_scores(rule: str, scores: Sequence[torch.Tensor], levels: Sequence[int], tokenizations: int = 1) -> torch.Tensor:
    """Fuse the exact scores of the modalities. The score of a modality is the mean over its tokenizations.

    ``lse`` is the log of the mean probability over the modalities, divided by the mean of their ``levels``: an item that is
    probable in one modality scores high (OR). Every other rule is the mean of the length-normalised log-probabilities.

    Args:
        rule: the option ``fusion``.
        scores: length-normalised log-probabilities of each modality, of the same shape; the tokenizations of a modality one
            after the other.
        levels: length of each modality's IDs.
        tokenizations: number of tokenizations of each modality.
    """
    if tokenizations > 1:
        scores = [torch.stack(list(scores[i : i + tokenizations])).mean(0) for i in range(0, len(scores), tokenizations)]
        levels = levels[::tokenizations]
    if len(scores) == 1:
        return scores[0]
    if rule != "lse":
        return torch.stack(list(scores)).mean(0)
    total = torch.stack([score * length for score, length in zip(scores, levels)]).logsumexp(0)
    return (total - math.log(len(scores))) * (len(levels) / sum(levels))


def score_matrix(ranking: Ranking, n_items: int) -> torch.Tensor:
    """Scores of all items whose order is the ranking.

    ``STEP`` times the rank is subtracted from the score of a ranked item, so that the order is defined for equal
    probabilities. All other items score far lower, in item order. Every entry is finite, as the evaluator would otherwise
    fill a top-k with arbitrary items.

    Returns:
        float32 [B, n_items], new and contiguous; column 0 is the padding and has the lowest score.
    """
    users, ranks = ranking.items.shape
    device = ranking.items.device
    below = BELOW_ALL_RANKED - torch.arange(n_items, device=device, dtype=torch.float32)
    below[0] = 2 * BELOW_ALL_RANKED - n_items
    scores = below.repeat(users, 1)
    ranked_scores = ranking.scores.double() - STEP * torch.arange(ranks, device=device)
    exists = ranking.scores.isfinite()
    row = torch.arange(users, device=device).unsqueeze(1).expand(-1, ranks)
    scores[row[exists], ranking.items[exists]] = ranked_scores[exists].float()
    return scores
