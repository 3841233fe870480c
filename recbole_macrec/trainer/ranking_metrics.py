"""Metrics by item and by ID of the ranking of each modality and of their fusion.

Shapes: B users, R ranked items of a user, T rows with a target.
"""
import numpy as np
import torch

from recbole_macrec.errors import UserError
from recbole_macrec.generation.decoding.search import Ranking, first_of_each
from recbole_macrec.utils.distributed_tensors import gather_in_order


def item_rank(ranking: Ranking, target: torch.Tensor) -> torch.Tensor:
    """Place of the target [B] in the ranking, from 1, 0 if absent; int64 [B]."""
    found = (ranking.items == target.unsqueeze(1)) & ranking.scores.isfinite()
    return torch.where(found.any(1), found.int().argmax(1) + 1, 0)


def id_rank(ranking: Ranking, target: torch.Tensor, raw_id: torch.Tensor) -> torch.Tensor:
    """Place of the target's ID among the distinct IDs of the ranking, from 1, 0 if absent; int64 [B].

    Papers that compare ID strings count hits in this way.

    Args:
        raw_id: [n_items], equal for items whose IDs collide before collision resolution.
    """
    ids = raw_id[ranking.items].masked_fill(~ranking.scores.isfinite(), -2)  # [B, R]
    place = first_of_each(ids).cumsum(1)
    found = ids == raw_id[target].unsqueeze(1)
    first = found.int().argmax(1, keepdim=True)
    return torch.where(found.any(1), place.gather(1, first).squeeze(1), 0)


def item_and_id_ranks(model, name: str, ranking: Ranking, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """``item`` -> :func:`item_rank`, and ``id`` -> :func:`id_rank`.

    Args:
        name: of the ranking. If it is no modality, the IDs are those of the first modality.
    """
    raw_id = model.tables[name if name in model.tables else model.modalities[0]].raw_id
    return {"item": item_rank(ranking, target), "id": id_rank(ranking, target, raw_id)}


def hits_and_ndcg(ranks: torch.Tensor, topk: list[int], decimals: int) -> dict[str, float]:
    """Hit@k and NDCG@k with one target per user, from its ranks [B] (0 if absent)."""
    names = [f"{metric}@{k}" for k in topk for metric in ("hit", "ndcg")]
    return {name: round(float(user_values(ranks.cpu().numpy(), name).mean()), decimals) for name in names}


def user_values(ranks: np.ndarray, metric: str) -> np.ndarray:
    """A metric, such as ``hit@10`` or ``ndcg@5``, of rows with one target each, from their ranks [T] (0 if absent); [T].

    With one target NDCG@k is 1 / log2(rank + 1) within the first k, else 0.
    """
    name, _, k = metric.partition("@")
    found = (ranks > 0) & (ranks <= int(k))
    if name in ("hit", "recall"):
        return found.astype(float)
    if name == "ndcg":
        return np.where(found, 1 / np.log2(np.maximum(ranks, 1) + 1.0), 0.0)
    if name == "mrr":
        return np.where(found, 1 / np.maximum(ranks, 1), 0.0)
    raise UserError(f"{metric} is not a metric of ranks; expected hit, recall, ndcg or mrr, such as ndcg@10.")


class RankingMetrics:
    """Collects the ranks of the targets during an evaluation."""

    def __init__(self):
        self.ranks: dict[tuple[str, str], list[torch.Tensor]] = {}

    def update(self, model, target: torch.Tensor) -> None:
        """Add the batch that ``model`` has ranked last, with the targets ``target`` [B]."""
        for name, ranking in model.last_rankings.items():
            for level, ranks in item_and_id_ranks(model, name, ranking, target).items():
                self.ranks.setdefault((name, level), []).append(ranks)

    def result(self, topk: list[int], decimals: int, samples: int) -> dict[str, dict]:
        """Ranking name -> {"item": metrics, "id": metrics}.

        Args:
            samples: number of users of the dataset, whose ranks are joined from all processes.
        """
        result: dict[str, dict] = {}
        for (name, level), batches in self.ranks.items():
            result.setdefault(name, {})[level] = hits_and_ndcg(gather_in_order(torch.cat(batches), samples), topk, decimals)
        return result
