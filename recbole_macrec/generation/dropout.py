"""Dropout that does not dominate a CPU step.

``F.dropout`` draws one Bernoulli number per element, which on CPU costs more than the matrix products around it. One
random byte per element is enough: elements are dropped with probability round(256 p) / 256 and the others divided by
the probability actually used, so the expectation is exact. On other devices this is ``F.dropout``.
"""
import torch
import torch.nn.functional as F


def keep_mask(shape: torch.Size, dropped: int) -> torch.Tensor:
    """A bool mask on CPU whose elements are False with probability ``dropped`` / 256."""
    count = shape.numel()
    draws = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    return (draws.view(torch.uint8)[:count] >= dropped).view(shape)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, dropped: int, rectify: bool) -> torch.Tensor:
        keep = keep_mask(x.shape, dropped)
        if rectify:
            keep &= x > 0
        ctx.save_for_backward(keep)
        ctx.scale = 256 / (256 - dropped)
        return torch.where(keep, x, x.new_zeros(())).mul_(ctx.scale)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        (keep,) = ctx.saved_tensors
        return torch.where(keep, gradient, gradient.new_zeros(())).mul_(ctx.scale), None, None


def dropout(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """Drop elements of ``x`` with probability ``p`` while training."""
    if not training or p == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    return _Dropout.apply(x, round(256 * p), False)


def relu_dropout(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """``dropout(relu(x))`` in one pass that remembers one byte per element."""
    if not training or p == 0 or x.device.type != "cpu":
        return dropout(F.relu(x), p, training)
    return _Dropout.apply(x, round(256 * p), True)
