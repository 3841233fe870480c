"""Dropout that does not dominate a CPU step.

``F.dropout`` draws one Bernoulli number per element, which on CPU costs more than the matrix products around it. One
random byte per element is enough: elements are dropped with probability round(256 p) / 256 and the others divided by
the probability actually used, so the expectation is exact. On other devices this is ``F.dropout``.
"""
import numpy as np
import torch
import torch.nn.functional as F


def keep_mask(shape: torch.Size, dropped: int) -> torch.Tensor:
    """A float mask on CPU: 0 with probability ``dropped`` / 256, else what keeps the expectation.

    The bytes come from numpy's generator, seeded by torch's, because torch draws them several times slower.
    """
    count = shape.numel()
    seed = int(torch.randint(2**62, ()))
    draws = np.random.SFC64(seed).random_raw((count + 7) // 8)  # uint64
    drawn = torch.from_numpy(draws.view(np.uint8))[:count].view(shape)
    mask = torch.empty(shape)
    return torch.ge(drawn, dropped, out=mask).mul_(256 / (256 - dropped))


class _ReluDropout(torch.autograd.Function):
    """Remembers its output and the mask, from which the gradient follows: it is 0 where the output is."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, dropped: int) -> torch.Tensor:
        mask = keep_mask(x.shape, dropped)
        y = F.relu(x).mul_(mask)
        ctx.save_for_backward(y, mask)
        return y

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        y, mask = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient * mask, y, 0), None


def dropout(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """Drop elements of ``x`` with probability ``p`` while training."""
    if not training or p == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    return x * keep_mask(x.shape, round(256 * p)).to(x.dtype)


def relu_dropout(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """``dropout(relu(x))`` in fewer passes over memory."""
    if not training or p == 0 or x.device.type != "cpu" or x.dtype != torch.float32:
        return dropout(F.relu(x), p, training)
    return _ReluDropout.apply(x, round(256 * p))
