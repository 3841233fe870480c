"""InfoNCE, and positives drawn by label without a loop.

Axes: B anchors, C candidates, D code width.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_NORM = 1e-3  # an item that sits on its codeword has residual 0; unclamped, its gradient is 1 / 0


def info_nce(anchors: Tensor, candidates: Tensor, target: Tensor, temperature: float,
             excluded: Tensor | None = None) -> Tensor:
    """Mean over anchors of -log softmax(cos(anchor, candidates) / temperature)[target].

    Args:
        anchors: [B, D]; candidates: [C, D]; both are L2-normalised here.
        target: [B] int64, the candidate that is each anchor's positive.
        excluded: [B] int64, one candidate per anchor that is no negative either (the anchor itself); -1 for none.

    Returns:
        A scalar; 0 when there are no anchors.
    """
    if len(anchors) == 0:
        return anchors.new_zeros(())
    logits = unit(anchors) @ unit(candidates).T / temperature  # [B, C]
    if excluded is not None:
        columns = torch.arange(logits.shape[1], device=logits.device)
        logits = logits.masked_fill(columns == excluded[:, None], float("-inf"))
    return F.cross_entropy(logits, target)


def unit(x: Tensor) -> Tensor:
    """Rows of ``x`` over their length, the length clamped from below."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(SMALLEST_NORM)


def sample_positives(labels: Tensor, generator: torch.Generator) -> Tensor:
    """For every row another random row with the same label, or the row itself where there is none.

    Rows are shuffled, then sorted by label; the positive of a row is the next of its run, the first for the last.

    Args:
        labels: [B] int64, on any device. generator: a CPU generator.

    Returns:
        [B] int64 row numbers.
    """
    place = torch.arange(len(labels), device=labels.device)  # [B]
    shuffled = torch.randperm(len(labels), generator=generator).to(labels.device)
    order = shuffled[torch.argsort(labels[shuffled], stable=True)]  # [B] rows, equal labels side by side
    in_order = labels[order]
    new_run = torch.ones_like(in_order, dtype=torch.bool)
    new_run[1:] = in_order[1:] != in_order[:-1]
    run_start = torch.where(new_run, place, 0).cummax(0).values  # [B]
    ends_run = torch.cat([new_run[1:], new_run.new_ones(1)])
    following = torch.where(ends_run, run_start, place + 1)
    positives = torch.empty_like(order)
    positives[order] = order[following]
    return positives
