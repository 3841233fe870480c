"""Choice of the weight of the dense head for ``decode: fused``.

Shapes: B rows of a batch, R rows of the dataset, C candidates of a row.
"""
import logging

import torch
import torch.nn.functional as F

from recbole_macrec.generation.decoding.search import Ranking
from recbole_macrec.generation.decoding.weighted import choose_weights, target_columns, target_ranks
from recbole_macrec.model.base import GenerativeRecommender
from recbole_macrec.trainer.evaluation_batches import add_excluded_items
from recbole_macrec.trainer.ranking_metrics import user_values
from recbole_macrec.utils.distributed import current_group
from recbole_macrec.utils.distributed_tensors import in_sample_order

logger = logging.getLogger(__name__)


@torch.no_grad()
def choose_dense_share(model: GenerativeRecommender, valid_data, metric: str) -> list[dict[str, Ranking]]:
    """Set the weight of the dense head to the best one on the validation data.

    Args:
        valid_data: RecBole's data loader.
        metric: such as ``NDCG@10``.

    Returns:
        The rankings of each batch, except for the fused one, which depends on the weight; on the CPU.
    """
    model.eval()
    searched: list[dict[str, Ranking]] = []
    batches: list[tuple[torch.Tensor, ...]] = []
    for batch in valid_data:
        rankings = model.rank(add_excluded_items(batch).to(model.device))
        searched.append({name: ranking.to("cpu") for name, ranking in rankings.items() if name != "fused"})
        candidates, scores = searched[-1]["generative"].by_item()
        batches.append((candidates, scores, searched[-1]["dense"].by_item().scores, batch[3]))
    items, generative, dense, target = gathered_rows(batches, valid_data.sample_size)
    column = target_columns(items, target)

    def quality(fused: torch.Tensor) -> float:
        ranks = target_ranks(fused, torch.arange(len(items)), column, model.n_items)
        return float(user_values(ranks.numpy(), metric.lower()).mean())

    weights, _ = choose_weights(torch.stack([generative, dense]), quality)
    model.ranker.dense_scores.share.fill_(weights[1])  # the buffer of the model's head
    logger.info(f"Weight of the dense head, chosen on the validation data: {weights[1]:.4f}")
    return searched


def gathered_rows(batches: list[tuple[torch.Tensor, ...]], samples: int) -> list[torch.Tensor]:
    """Join the batches of all processes in the order of the dataset.

    Args:
        batches: items [B, C], padded with 0, their scores under each of several models [B, C], and targets [B]; on the CPU.
        samples: R; repeated rows beyond it are dropped.

    Returns:
        The same columns of all R rows, C being that of the widest batch; scores of the padding are -inf.
    """
    processes = current_group().gather(batches)
    width = max(items.shape[1] for own in processes for items, *_ in own)

    def joined(column: int, padding: float) -> torch.Tensor:
        parts = [torch.cat([widened(batch[column], width, padding) for batch in own]) for own in processes]
        return in_sample_order(parts, samples)

    last = len(batches[0]) - 1
    return [joined(column, 0 if column in (0, last) else -torch.inf) for column in range(last + 1)]


def widened(rows: torch.Tensor, width: int, padding: float) -> torch.Tensor:
    """Pad the rows of [B, C] to ``width``; [B] stays as it is."""
    return rows if rows.ndim == 1 else F.pad(rows, (0, width - rows.shape[1]), value=padding)
