"""RMSNorm with its own gradient, which reads and writes the activations once per part.

Shapes: M rows (tokens), D model width.
"""
import torch
from torch.autograd.function import once_differentiable

from recbole_macrec.generation.network.cpu.parts import row_parts


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, eps: float):
        y, scale = torch.empty_like(x), x.new_empty(len(x), 1)
        for part in row_parts(*x.shape):
            torch.linalg.vector_norm(x[part], dim=-1, keepdim=True, out=scale[part])
            r = scale[part].square_().div_(x.shape[-1]).add_(eps).rsqrt_()
            torch.mul(x[part], r, out=y[part]).mul_(weight)
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        (x, weight, scale), gradient = ctx.saved_tensors, gradient.contiguous()
        d_x, d_weight = torch.empty_like(x), torch.zeros_like(weight)
        for part in row_parts(*x.shape):
            g, r = gradient[part], scale[part]
            x_hat = x[part] * r
            product = g * x_hat
            d_weight += product.sum(0)
            inner = (product @ weight).div_(-x.shape[-1]).unsqueeze(-1)  # -mean(g w x_hat)
            torch.mul(g, weight, out=d_x[part]).addcmul_(x_hat, inner).mul_(r)
        return d_x, d_weight, None


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` of rows [M, D]."""
    return _RMSNorm.apply(x, weight, eps)
