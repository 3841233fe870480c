"""Equal values in the rows of a matrix.

Shapes: B rows, R entries of a row.
"""
import torch


def starts_run(rows: torch.Tensor) -> torch.Tensor:
    """Whether each entry of ``rows`` [B, R] differs from the one before it in its row; the first one does. bool [B, R].

    In sorted rows, this is the first entry with each value.
    """
    starts = torch.ones_like(rows, dtype=torch.bool)
    starts[:, 1:] = rows[:, 1:] != rows[:, :-1]
    return starts
