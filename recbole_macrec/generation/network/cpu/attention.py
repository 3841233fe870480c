"""Multi-head attention with the heads as first dimension, and its own gradient.

Shapes: M rows (tokens), n users of a part, H heads, Q queries and S keys of a user, E width of a head, D model width.
"""
import torch
from torch.autograd.function import once_differentiable

from recbole_macrec.generation.network.cpu.dropout_mask import dropout_mask, dropped_per_256
from recbole_macrec.generation.network.cpu.parts import user_parts
from recbole_macrec.generation.network.rotary import Rotation


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
            z = torch.bmm(p if keep is None else p * keep, v).view(heads, -1, v.shape[-1])  # [H, n*Q, E]
            torch.addbmm(y[q_rows], z, w_o, beta=0, out=y[q_rows])
            if training:
                saved += [q, k, v, p, z] + ([] if keep is None else [keep])
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
            d_v = torch.bmm((p if keep is None else p * keep).transpose(1, 2), d_z).view(heads, -1, v.shape[-1])
            if keep is not None:
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
