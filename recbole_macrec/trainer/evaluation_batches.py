"""Masked items of the batches that RecBole evaluates.

Shapes: B users of a batch, S masked items of a user.
"""
import torch
from recbole.data.interaction import Interaction

from recbole_macrec.model.windowed import EXCLUDED_ITEMS_FIELD


def excluded_items(batch: tuple) -> torch.Tensor | None:
    """The items that the evaluator masks for the B users of an evaluation batch, int64 [B, S], padded with 0; None without."""
    interaction, masked, *_ = batch
    if masked is None:
        return None
    rows, items = masked
    return padded_rows(rows, items, len(interaction))


def add_excluded_items(batch: tuple) -> Interaction:
    """Add the :func:`excluded_items` of an evaluation batch to its interaction, for models that leave them out; returns it."""
    interaction = batch[0]
    if (excluded := excluded_items(batch)) is not None:
        interaction.update(Interaction({EXCLUDED_ITEMS_FIELD: excluded}))
    return interaction


def padded_rows(rows: torch.Tensor, values: torch.Tensor, count: int) -> torch.Tensor:
    """Arrange ``values`` [E] by row, padded with 0 on the right.

    Args:
        rows: [E], the row of each value, ascending.
        count: number of rows.

    Returns:
        [count, W], W the number of values of the longest row, at least 1.
    """
    lengths = torch.bincount(rows, minlength=count)
    first = lengths.cumsum(0) - lengths
    padded = values.new_zeros(count, max(1, int(lengths.max())))
    padded[rows, torch.arange(len(rows), device=rows.device) - first[rows]] = values
    return padded
