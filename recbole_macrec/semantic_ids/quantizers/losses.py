"""InfoNCE, and vectorised sampling of positives by label.

Shapes: B anchors, C candidates, D code width.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_NORM = 1e-3  # the residual of an item equal to its codeword is 0; without the clamp its gradient is 1 / 0


def info_nce(anchors: Tensor, candidates: Tensor, target: Tensor, temperature: float,
             excluded: Tensor | None = None) -> Tensor:
    """Mean over anchors of -log softmax(cos(anchor, candidates) / temperature)[target].

    Args:
        anchors: [B, D], normalised to unit length here.
        candidates: [C, D], also normalised.
        target: [B] int64, the positive candidate of each anchor.
        excluded: [B] int64, one candidate per anchor that is not a negative (the anchor itself); -1 for none.

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
    """Divide the rows of ``x`` by their norm, clamped from below."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(SMALLEST_NORM)


def sample_positives(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Sample for every row another row with the same label, or the row itself if there is none.

    Rows are shuffled, then sorted by label. The positive of a row is the next row of its label, and the first row for the last.

    Args:
        labels: [B] int64, on any device.
        generator: a CPU generator.

    Returns:
        [B] int64 row numbers.
    """
    position = torch.arange(len(labels), device=labels.device)  # [B]
    shuffled = torch.randperm(len(labels), generator=generator).to(labels.device)
    order = shuffled[torch.argsort(labels[shuffled], stable=True)]  # [B] rows sorted by label
    sorted_labels = labels[order]
    is_run_start = torch.ones_like(sorted_labels, dtype=torch.bool)
    is_run_start[1:] = sorted_labels[1:] != sorted_labels[:-1]
    run_start = torch.where(is_run_start, position, 0).cummax(0).values  # [B]
    is_run_end = torch.cat([is_run_start[1:], is_run_start.new_ones(1)])
    next_position = torch.where(is_run_end, run_start, position + 1)
    positives = torch.empty_like(order)
    positives[order] = order[next_position]
    return positives
