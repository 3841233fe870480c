"""Feed-forward layer with a transposed hidden layer, and its own gradient.

Shapes: M rows (tokens), D model width, F width of the hidden layer.
"""
import torch
from torch.autograd.function import once_differentiable

from recbole_macrec.generation.network.cpu.dropout_mask import dropped_per_256, random_mask
from recbole_macrec.generation.network.cpu.parts import row_parts

ROWS = 512  # rows of a part without gradient, in row-major order


class _FeedForward(torch.autograd.Function):
    """Stores the hidden layer transposed, [F, rows], in parts of rows.

    Values zeroed by ReLU or dropout have no gradient, so the hidden layer itself is the mask of the gradient. It is stored
    without the factor 1 / (1 - p) of dropout, which is applied to the weights of the next product.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, up: torch.Tensor, down: torch.Tensor, dropped: int):
        width, y = up.shape[0], torch.empty_like(x)
        scaled = down.t() * (256 / (256 - dropped))  # [F, D]
        hidden = x.new_empty(width * len(x))
        for part in row_parts(len(x), width):
            h = hidden_part(hidden, part, width)
            torch.mm(up, x[part].t(), out=h).relu_()
            if dropped:
                h.mul_(random_mask(h.shape, dropped))
            torch.mm(h.t(), scaled, out=y[part])
        ctx.save_for_backward(x, up, scaled, hidden)
        ctx.dropped = dropped
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        (x, up, scaled, hidden), gradient = ctx.saved_tensors, gradient.contiguous()
        d_x, d_up, d_scaled = torch.empty_like(x), torch.zeros_like(up), torch.zeros_like(scaled)
        for part in row_parts(len(x), len(up)):
            h, g = hidden_part(hidden, part, len(up)), gradient[part]
            d_h = torch.ops.aten.threshold_backward(scaled @ g.t(), h, 0)
            d_scaled.addmm_(h, g)
            d_up.addmm_(d_h, x[part])
            torch.mm(d_h.t(), up, out=d_x[part])
        return d_x, d_up, d_scaled.t() * (256 / (256 - ctx.dropped)), None


def hidden_part(hidden: torch.Tensor, part: slice, width: int) -> torch.Tensor:
    """The hidden layer [F, rows] of a part, a view of the memory of all rows."""
    return hidden[width * part.start : width * part.stop].view(width, -1)


def feed_forward(x: torch.Tensor, up: torch.Tensor, down: torch.Tensor, p: float) -> torch.Tensor:
    """``down(dropout(relu(up(x))))`` of rows [M, D] with weights [F, D] and [D, F]."""
    if torch.is_grad_enabled() or p:
        return _FeedForward.apply(x, up, down, dropped_per_256(p))
    up, down, y = up.t().contiguous(), down.t().contiguous(), torch.empty_like(x)
    for rows, out in zip(x.split(ROWS), y.split(ROWS)):
        torch.mm((rows @ up).relu_(), down, out=out)
    return y
