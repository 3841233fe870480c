"""Dropout with fast masks on a CPU.

``F.dropout`` draws one Bernoulli number per element, which on a CPU costs more than the matrix products around it. Here
one random byte per element is drawn: elements are dropped with probability round(256 p) / 256, and the others divided by
the actual probability to keep, so the expectation is exact.
"""
import numpy as np
import torch
import torch.nn.functional as F

from recbole_macrec.utils.cpu_threads import random_bits


def dropout(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """Drop elements of ``x`` with probability ``p`` while training."""
    if not training or p == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p)
    return x * dropout_mask(x.shape, p).to(x.dtype)


class Dropout(torch.nn.Dropout):
    """:func:`dropout` as a module."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return dropout(x, self.p, self.training)


def dropout_mask(shape: torch.Size, p: float) -> torch.Tensor:
    """Draw a float32 mask on the CPU: 0 with probability round(256 ``p``) / 256, else the inverse of the probability to keep.

    The bytes come from a NumPy generator, as torch is several times slower.
    """
    dropped = round(256 * p)
    count = shape.numel()
    draws = random_bits().random_raw((count + 7) // 8)  # uint64
    random_bytes = torch.from_numpy(draws.view(np.uint8))[:count].view(shape)
    return torch.ge(random_bytes, dropped, out=torch.empty(shape)).mul_(256 / (256 - dropped))
