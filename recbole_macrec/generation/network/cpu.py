"""Network layers for CPUs: computed in parts that fit into the cache, with memory layouts for which the BLAS is fast.

The plain formulas in layers.py are the reference. Measured in fp32 with MKL on AVX-512: the gradient of a weight from
row-major activations runs at half the rate of the same product from transposed ones, batched products with a transposed
right side (Q K', dY V') at a fifth, and the softmax of fewer than 16 numbers at a tenth; operations on the activations of a
whole batch are limited by memory bandwidth. So these functions process a batch in parts and implement their own gradients.

Shapes: M rows (tokens), n users of a part, H heads, Q queries and S keys of a user, E width of a head, D model width,
F width of the hidden layer.
"""
from collections.abc import Iterator

import torch
from torch.autograd.function import once_differentiable

from recbole_macrec.generation.network.dropout import (
    dropout_mask,
    dropped_per_256,
    random_mask,
)
from recbole_macrec.generation.network.rotary import Rotation

PART = 2**18  # maximum number of entries in a part's widest activation: 1 MB
HIDDEN_ROWS = 512  # rows of a part in the feed-forward layer without gradient, in row-major order


def row_parts(count: int, width: int) -> list[slice]:
    """Split rows into parts whose activation of ``width`` has at most ``PART`` numbers."""
    rows = max(1, PART // width)
    return [slice(begin, min(begin + rows, count)) for begin in range(0, count, rows)]


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
    for rows, out in zip(x.split(HIDDEN_ROWS), y.split(HIDDEN_ROWS)):
        torch.mm((rows @ up).relu_(), down, out=out)
    return y


def user_parts(groups: list[tuple[int, int, int]], width: int) -> Iterator[tuple[slice, slice, int, int, int]]:
    """Split users into parts with at most ``PART`` numbers in all heads of ``width``: rows of queries and keys, n, Q, S."""
    query = key = 0
    for users, queries, keys in groups:
        size = max(1, PART // (width * max(queries, keys)))
        for begin in range(0, users, size):
            n = min(size, users - begin)
            yield slice(query, query + n * queries), slice(key, key + n * keys), n, queries, keys
            query, key = query + n * queries, key + n * keys


def project(x: torch.Tensor, weight: torch.Tensor, users: int) -> torch.Tensor:
    """Multiply rows [n*S, D] by the heads' weights [H, D, E]; [H*n, S, E], ordered by head."""
    heads, _, width = weight.shape
    return torch.bmm(x.expand(heads, -1, -1), weight).view(heads * users, -1, width)


def transposed(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).contiguous()


class _Attention(torch.autograd.Function):
    """The whole layer with heads as first dimension, so that only K' and V' are copied."""

    @staticmethod
    def forward(ctx, x, source, query, key, value, out, bias, padding, groups, heads, dropped, rotation, training):
        y, saved = torch.empty_like(x), []
        w_q, w_k, w_v = (w.view(heads, -1, w.shape[1]).transpose(1, 2).contiguous() for w in (query, key, value))
        w_o = out.t().contiguous().view(heads, -1, out.shape[0])  # [H, E, D]
        for q_rows, k_rows, n, queries, keys in user_parts(groups, len(query)):
            q, k, v = project(x[q_rows], w_q, n), project(source[k_rows], w_k, n), project(source[k_rows], w_v, n)
            if rotation is not None:
                q, k = rotation.rotate_queries(q), rotation.rotate_keys(k)
            scores = torch.bmm(q, transposed(k)).view(heads, n, queries, keys)
            if bias is not None:
                scores += bias[:, None, :queries, :keys]
            if padding is not None:
                scores.masked_fill_(padding[k_rows].view(n, 1, keys), -torch.inf)
            p = softmax_(scores).flatten(0, 1)  # [H*n, Q, S]
            keep = dropout_mask(p.shape, dropped) if dropped else None
            z = torch.bmm(p * keep if dropped else p, v).view(heads, -1, v.shape[-1])  # [H, n*Q, E]
            torch.addbmm(y[q_rows], z, w_o, beta=0, out=y[q_rows])
            if training:
                saved += [q, k, v, p, z] + ([keep] if dropped else [])
        if training:
            ctx.save_for_backward(x, source, w_q, w_k, w_v, w_o, bias, *saved)
            ctx.groups, ctx.width, ctx.dropped, ctx.rotation = groups, len(query), dropped, rotation
            ctx.self_attention = source is x
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        x, source, w_q, w_k, w_v, w_o, bias, *saved = ctx.saved_tensors
        heads, gradient = len(w_q), gradient.contiguous()
        t_q, t_k, t_v, t_o = (transposed(w) for w in (w_q, w_k, w_v, w_o))  # [H, E, D], the last [H, D, E]
        d_x = torch.empty_like(x)
        d_source = d_x if ctx.self_attention else torch.empty_like(source)
        d_q_w, d_k_w, d_v_w, d_o_w = (torch.zeros_like(w) for w in (t_q, t_k, t_v, w_o))
        d_bias = torch.zeros_like(bias) if ctx.needs_input_grad[6] else None
        saved = iter(saved)
        for q_rows, k_rows, n, queries, keys in user_parts(ctx.groups, ctx.width):
            q, k, v, p, z = (next(saved) for _ in range(5))
            keep = next(saved) if ctx.dropped else None
            g = gradient[q_rows]
            d_o_w.baddbmm_(z.transpose(1, 2), g.expand(heads, -1, -1))
            d_z = project(g, t_o, n)  # [H*n, Q, E]
            d_p = torch.bmm(d_z, transposed(v))
            d_v = torch.bmm((p * keep if ctx.dropped else p).transpose(1, 2), d_z).view(heads, -1, v.shape[-1])
            if ctx.dropped:
                d_p.mul_(keep)
            d_p.mul_(p)
            d_s = d_p.addcmul_(p, d_p.sum(-1, keepdim=True), value=-1)
            if d_bias is not None:
                d_bias[:, :queries, :keys] += d_s.view(heads, n, queries, keys).sum(1)
            d_q, d_k = torch.bmm(d_s, k), torch.bmm(d_s.transpose(1, 2), q)
            if ctx.rotation is not None:
                d_q, d_k = ctx.rotation.rotate_queries(d_q, inverse=True), ctx.rotation.rotate_keys(d_k, inverse=True)
            d_q, d_k = d_q.view(heads, -1, k.shape[-1]), d_k.view(heads, -1, q.shape[-1])
            for d_w, d, rows in ((d_q_w, d_q, x[q_rows]), (d_k_w, d_k, source[k_rows]), (d_v_w, d_v, source[k_rows])):
                d_w.baddbmm_(d.transpose(1, 2), rows.expand(heads, -1, -1))
            torch.addbmm(d_x[q_rows], d_q, t_q, beta=0, out=d_x[q_rows])
            torch.addbmm(d_source[k_rows], d_k, t_k, beta=int(ctx.self_attention), out=d_source[k_rows])
            torch.addbmm(d_source[k_rows], d_v, t_v, out=d_source[k_rows])
        d_query, d_key, d_value = (d.flatten(0, 1) for d in (d_q_w, d_k_w, d_v_w))
        d_other = None if ctx.self_attention else d_source
        return d_x, d_other, d_query, d_key, d_value, d_o_w.flatten(0, 1).t(), d_bias, *6 * [None]


def softmax_(scores: torch.Tensor) -> torch.Tensor:
    """Softmax over the last dimension, in place."""
    if scores.shape[-1] >= 16:
        return torch.softmax(scores, dim=-1, out=scores)
    scores.sub_(scores.amax(-1, keepdim=True)).exp_()
    return scores.div_(scores.sum(-1, keepdim=True))


def attention(
    x: torch.Tensor,
    source: torch.Tensor,
    weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    bias: torch.Tensor | None,
    keep: torch.Tensor | None,
    groups: list[tuple[int, int, int]],
    heads: int,
    p: float,
    rotation: Rotation | None = None,
) -> torch.Tensor:
    """Multi-head attention over packed sequences.

    Args:
        x: [M, D], input of the queries.
        source: [M', D], input of keys and values; ``x`` itself in self-attention.
        weights: weights of query, key and value [H*E, D], and of the output [D, H*E].
        bias: added to the scores, at least [H, Q, S] (or [1, Q, S] without gradient) for the longest Q and S; None for none.
        keep: bool [M'], False at padding; None where there is none.
        groups: (users, Q, S) in the order of the rows.
        heads: H.
        p: dropout probability of the attention weights.
        rotation: rotation of queries and keys; None for none.

    Returns:
        [M, D].
    """
    padding = None if keep is None else ~keep
    options = (groups, heads, dropped_per_256(p), rotation, torch.is_grad_enabled())
    return _Attention.apply(x, source, *weights, bias, padding, *options)
