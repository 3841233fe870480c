"""Fast dropout masks for CPUs.

``F.dropout`` draws one Bernoulli number per element, which on a CPU costs more than the matrix products around it. Here
one random byte per element is drawn: elements are dropped with probability round(256 p) / 256, and the others divided by
the actual probability to keep, so the expectation is exact.
"""
import numpy as np
import torch

from recbole_macrec.utils.cpu_threads import random_bits


def random_mask(shape: torch.Size, dropped: int) -> torch.Tensor:
    """Draw a float mask on the CPU: 0 with probability ``dropped`` / 256, else 1.

    The bytes come from a NumPy generator, as torch is several times slower.
    """
    count = shape.numel()
    draws = random_bits().random_raw((count + 7) // 8)  # uint64
    random_bytes = torch.from_numpy(draws.view(np.uint8))[:count].view(shape)
    return torch.ge(random_bytes, dropped, out=torch.empty(shape))


def dropout_mask(shape: torch.Size, dropped: int) -> torch.Tensor:
    """A :func:`random_mask` divided by the probability to keep, so that the expectation does not change."""
    return random_mask(shape, dropped).mul_(256 / (256 - dropped))


def dropped_per_256(p: float) -> int:
    """Number of elements dropped out of 256."""
    return round(256 * p)
