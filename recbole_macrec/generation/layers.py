"""The layers of T5 over users laid out one after the other (packing.py).

Legend: B users, n users of a group, G groups of queries, T target positions, S source positions, M rows (the positions
of all users), H heads, E width of a head, D model width, F width of the hidden layer.

On CPU in fp32 the layers run through cpu.py; what stands here is the reference and serves everything else.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from recbole_macrec.generation import cpu
from recbole_macrec.generation.dropout import dropout
from recbole_macrec.generation.memory import Memory, SourceHeads


@dataclass(frozen=True)
class TransformerSettings:
    """Sizes of the network; the defaults are those of TIGER, MQL4GRec and MACRec."""

    d_model: int = 128
    d_ff: int = 1024
    num_heads: int = 6
    d_kv: int = 64
    encoder_layers: int = 4
    decoder_layers: int = 4
    relative_buckets: int = 32
    relative_max_distance: int = 128
    dropout: float = 0.1


def on_cpu(x: torch.Tensor) -> bool:
    """Whether the functions of cpu.py serve ``x``: fp32 on CPU, outside autocast and torch.compile."""
    if torch.compiler.is_compiling():
        return False
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


class RMSNorm(nn.Module):
    """T5's layer norm: no mean, no bias."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if on_cpu(x):
            return cpu.rms_norm(x, self.weight, 1e-6)
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-6)


class RelativeBias(nn.Module):
    """A learnt bias per head for each bucket of the distance between query and key."""

    def __init__(self, settings: TransformerSettings, bidirectional: bool):
        super().__init__()
        self.bidirectional = bidirectional
        self.buckets, self.max_distance = settings.relative_buckets, settings.relative_max_distance
        self.weight = nn.Parameter(torch.randn(self.buckets, settings.num_heads) * settings.d_model**-0.5)

    def bucket(self, distance: torch.Tensor) -> torch.Tensor:
        """Bucket of key position minus query position: exact when near, logarithmic when far."""
        buckets, offset = self.buckets, torch.zeros_like(distance)
        if self.bidirectional:
            buckets //= 2
            offset = (distance > 0).long() * buckets
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = buckets // 2
        far = exact + (
            torch.log(distance.clamp(min=1).float() / exact) / math.log(self.max_distance / exact) * (buckets - exact)
        ).long()
        return offset + torch.where(distance < exact, distance, far.clamp(max=buckets - 1))

    def forward(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Bias [H, len(queries), len(keys)] for the given positions."""
        return self.weight[self.bucket(keys[None, :] - queries[:, None])].permute(2, 0, 1)


class Attention(nn.Module):
    """An attention layer with T5's initial weights: the queries are scaled down once here, not at every score."""

    def __init__(self, s: TransformerSettings):
        super().__init__()
        self.heads, self.dropout = s.num_heads, s.dropout
        inner = s.num_heads * s.d_kv
        self.norm = RMSNorm(s.d_model)
        self.query, self.key, self.value = (nn.Linear(s.d_model, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, s.d_model, bias=False)
        nn.init.normal_(self.query.weight, std=(s.d_model * s.d_kv) ** -0.5)
        nn.init.normal_(self.key.weight, std=s.d_model**-0.5)
        nn.init.normal_(self.value.weight, std=s.d_model**-0.5)
        nn.init.normal_(self.out.weight, std=inner**-0.5)

    def attend(
        self,
        x: torch.Tensor,
        source: torch.Tensor,
        groups: list[tuple[int, int, int]],
        bias: torch.Tensor | None = None,
        keep: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Unscaled attention, as in T5.

        Args:
            x: [M, D], what asks.
            source: [M', D], what is read; ``x`` itself in self-attention.
            groups: (users, queries, keys) in the order of the rows.
            bias: added to the scores, at least [H, Q, S] for the longest Q and S; -inf where attention is not allowed.
            keep: bool [M'], False at padding.

        Returns:
            [M, D].
        """
        p = self.dropout if self.training else 0.0
        if on_cpu(x):
            weights = (self.query.weight, self.key.weight, self.value.weight, self.out.weight)
            return cpu.attention(x, source, weights, bias, keep, groups, self.heads, p)
        columns = [self.query(x), self.key(source), self.value(source)]
        rows = [[n * queries for n, queries, _ in groups]] + 2 * [[n * keys for n, _, keys in groups]]
        masks = [None] * len(groups) if keep is None else keep.split(rows[1])
        parts = []
        for (n, queries, keys), mask, *heads in zip(groups, masks, *(c.split(r) for c, r in zip(columns, rows))):
            q, k, v = (split_heads(h, n, self.heads) for h in heads)
            mask = None if mask is None else padding_bias(mask.view(n, keys))
            if bias is not None:
                mask = bias[:, :queries, :keys] + (0 if mask is None else mask)
            if x.device.type == "cpu":  # the fused CPU kernel is slow for short users and has no gradient for the bias
                scores = q @ k.transpose(-1, -2)
                y = dropout((scores if mask is None else scores + mask).softmax(dim=-1), p, self.training) @ v
            else:
                y = F.scaled_dot_product_attention(
                    q, k, v, attn_mask=None if mask is None else mask.to(q.dtype), dropout_p=p, scale=1.0
                )
            parts.append(y.transpose(1, 2).flatten(-2).flatten(0, 1))
        return self.out(torch.cat(parts))

    def merge(self, y: torch.Tensor) -> torch.Tensor:
        """The output [M, D] of heads [H, M, E]."""
        if on_cpu(y):
            weight = self.out.weight.t().contiguous().unflatten(0, (self.heads, -1))  # [H, E, D]
            return torch.addbmm(y.new_empty(y.shape[1], weight.shape[-1]), y, weight, beta=0)
        return self.out(y.transpose(0, 1).flatten(1))


def project(x: torch.Tensor, weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows [M, D] by a weight [H*E, D], head by head; [H, M, E]."""
    weight = weight.unflatten(0, (heads, -1)).transpose(1, 2).contiguous()  # [H, D, E]
    return torch.bmm(x.expand(heads, -1, -1), weight)


def split_heads(x: torch.Tensor, users: int, heads: int) -> torch.Tensor:
    """[n*S, H*E] -> [n, H, S, E]"""
    return x.view(users, -1, heads, x.shape[-1] // heads).transpose(1, 2)


def padding_bias(keep: torch.Tensor) -> torch.Tensor:
    """0 where ``keep`` [n, S] is true, -inf elsewhere; [n, 1, 1, S]."""
    return torch.zeros(keep.shape, device=keep.device).masked_fill(~keep, -torch.inf)[:, None, None, :]


class SelfAttention(Attention):
    def forward(
        self, x: torch.Tensor, groups: list[tuple[int, int]], bias: torch.Tensor | None, keep: torch.Tensor | None = None
    ) -> torch.Tensor:
        """x [M, D] of users laid out as ``groups`` (users, positions each)."""
        x_norm = self.norm(x)
        y = self.attend(x_norm, x_norm, [(n, length, length) for n, length in groups], bias, keep)
        return x + dropout(y, self.dropout, self.training)

    def step(
        self, x: torch.Tensor, own_bias: torch.Tensor, past: list[tuple], seen: list[torch.Tensor]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """One position of every group.

        The groups meet all prefixes of a position in one product, and ``seen`` leaves each its own ancestor, so that
        keys and values are never copied from prefix to continuation.

        Args:
            x: [B, G, D].
            own_bias: [H], of a position to itself.
            past: keys [B, H, E, G'] and values [B, H, G', E] of every position before.
            seen: position -> [B or 1, H, G, G'], the position's bias at a group's ancestor, -inf elsewhere.

        Returns:
            The layer's output [B, G, D], and its keys [B, H, E, G] and values [B, H, G, E].
        """
        users, groups, _ = x.shape
        x_norm = self.norm(x.flatten(0, 1))
        q, k, v = (project(x_norm, f.weight, self.heads).unflatten(1, (users, groups)) for f in (self.query, self.key, self.value))
        scores = [(q * k).sum(-1, keepdim=True) + own_bias[:, None, None, None]]  # [H, B, G, 1]
        if past:
            keys, values = (torch.cat(parts, dim) for parts, dim in zip(zip(*past), (-1, -2)))
            scores.append((q @ keys).add_(seen))
        p = torch.cat(scores, dim=-1).softmax(dim=-1)
        y = p[..., :1] * v
        if past:
            y += p[..., 1:] @ values
        return x + self.merge(y.flatten(1, 2)).view_as(x), (k.transpose(2, 3).contiguous(), v)


class CrossAttention(Attention):
    def forward(self, x: torch.Tensor, memory: Memory, queries: int) -> torch.Tensor:
        """x [B * queries, D], every user's queries one after the other."""
        groups = [(n, queries, length) for n, length in memory.groups]
        y = self.attend(self.norm(x), memory.hidden, groups, keep=memory.keep)
        return x + dropout(y, self.dropout, self.training)

    def heads_of(self, memory: Memory) -> list[SourceHeads]:
        """Keys and values of each group of users."""
        rows = [n * length for n, length in memory.groups]
        keeps = [None] * len(rows) if memory.keep is None else memory.keep.split(rows)
        heads = []
        for (n, length), hidden, keep in zip(memory.groups, memory.hidden.split(rows), keeps):
            k, v = (project(hidden, f.weight, self.heads).unflatten(1, (n, length)) for f in (self.key, self.value))
            mask = None if keep is None else padding_bias(keep.view(n, length)).squeeze(1)
            heads.append(SourceHeads(k.transpose(2, 3).contiguous(), v, mask))
        return heads

    def step(self, x: torch.Tensor, source: list[SourceHeads]) -> torch.Tensor:
        """One position of every group; x [B, G, D]."""
        groups, parts = x.shape[1], []
        for rows, (keys, values, mask) in zip(x.split([s.keys.shape[1] for s in source]), source):
            q = project(self.norm(rows.flatten(0, 1)), self.query.weight, self.heads).unflatten(1, (-1, groups))  # [H, n, G, E]
            scores = q @ keys  # [H, n, G, S]
            p = (scores if mask is None else scores + mask).softmax(dim=-1)
            parts.append(self.merge((p.to(values.dtype) @ values).flatten(1, 2)))
        return x + torch.cat(parts).view_as(x)


class FeedForward(nn.Module):
    def __init__(self, s: TransformerSettings):
        super().__init__()
        self.dropout = s.dropout
        self.norm = RMSNorm(s.d_model)
        self.up = nn.Linear(s.d_model, s.d_ff, bias=False)
        self.down = nn.Linear(s.d_ff, s.d_model, bias=False)
        nn.init.normal_(self.up.weight, std=s.d_model**-0.5)
        nn.init.normal_(self.down.weight, std=s.d_ff**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [M, D]."""
        x_norm = self.norm(x)
        if on_cpu(x):
            y = cpu.feed_forward(x_norm, self.up.weight, self.down.weight, self.dropout if self.training else 0.0)
        else:
            y = self.down(dropout(F.relu(self.up(x_norm)), self.dropout, self.training))
        return x + dropout(y, self.dropout, self.training)
