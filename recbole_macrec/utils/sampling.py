"""Random choice of a share of a batch."""
import math

import torch


def random_count(share: float, total: int) -> int:
    """A whole number with mean ``share * total``: the product, rounded up or down at random.

    Rounding to the nearest number would leave out a small share of a small batch in every batch.
    """
    expected = round(share * total, 9)  # without rounding errors, so that a whole number draws nothing
    lower = math.floor(expected)
    return lower if expected == lower else lower + (torch.rand(()).item() < expected - lower)
