"""Dropout that does not dominate a CPU step.

``F.dropout`` draws one Bernoulli number per element, which on CPU costs more than the matrix products around it. One
random byte per element is enough: elements are dropped with probability round(256 p) / 256 and the others divided by
the probability actually used, so the expectation is exact. On other devices this is ``F.dropout``.
"""
import numpy as np
import torch
import torch.nn.functional as F

from recbole_macrec.utils.cpu_threads import bits


def drawn_keep(shape: torch.Size, dropped: int) -> torch.Tensor:
    """A float mask on CPU, 0 with probability ``dropped`` / 256, else 1.

    The bytes come from a generator of numpy, because torch draws them several times slower.
    """
    count = shape.numel()
    draws = bits().random_raw((count + 7) // 8)  # uint64
    drawn = torch.from_numpy(draws.view(np.uint8))[:count].view(shape)
    return torch.ge(drawn, dropped, out=torch.empty(shape))


def keep_mask(shape: torch.Size, dropped: int) -> torch.Tensor:
    """As :func:`drawn_keep`, but what is kept is scaled so that the expectation stays."""
    return drawn_keep(shape, dropped).mul_(256 / (256 - dropped))


def dropped_share(p: float) -> int:
    """Of 256 elements, how many are dropped."""
    return round(256 * p)


def dropout(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """Drop elements of ``x`` with probability ``p`` while training."""
    if not training or p == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p)
    return x * keep_mask(x.shape, dropped_share(p)).to(x.dtype)
