"""Equal values in the rows of a matrix.

Shapes: B rows, R entries of a row, C distinct ones.
"""
import torch


def starts_run(rows: torch.Tensor) -> torch.Tensor:
    """Whether each entry of ``rows`` [B, R] differs from the one before it in its row; the first one does. bool [B, R].

    In sorted rows, this is the first entry with each value.
    """
    starts = torch.ones_like(rows, dtype=torch.bool)
    starts[:, 1:] = rows[:, 1:] != rows[:, :-1]
    return starts


def first_of_runs(rows: torch.Tensor, filler: int) -> torch.Tensor:
    """Distinct values of each row of ``rows`` [B, R], whose equal values are adjacent; sorted, and padded with ``filler``,
    which is larger than all of them."""
    return rows.masked_fill(~starts_run(rows), filler).sort(dim=1).values


def distinct(rows: torch.Tensor) -> torch.Tensor:
    """Distinct items of each row of ``rows`` [B, R] in ascending order, padded with 0 at the end; int64 [B, C]."""
    ordered = rows.sort(dim=1).values
    is_new = (ordered > 0) & starts_run(ordered)
    none = torch.iinfo(ordered.dtype).max
    ordered = ordered.masked_fill(~is_new, none).sort(dim=1).values
    width = max(1, int(is_new.sum(1).max())) if len(rows) else 1
    return ordered[:, :width].masked_fill(ordered[:, :width] == none, 0)
