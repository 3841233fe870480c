"""T5 layers (Raffel et al., 2020, arXiv 1910.10683) over packed sequences (packing.py).

Shapes: B users, n users of a group, G groups of queries, T target positions, S source positions, M rows (the positions
of all users), H heads, E width of a head, D model width, F width of the hidden layer.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from recbole_macrec.generation.network.dropout import dropout
from recbole_macrec.generation.network.memory import Memory
from recbole_macrec.generation.network.rotary import Rotation


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


class RMSNorm(nn.Module):
    """T5's layer norm, without mean and bias."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-6)


class RelativeBias(nn.Module):
    """Learnt bias per head and bucket of the distance between query and key."""

    def __init__(self, settings: TransformerSettings, bidirectional: bool):
        super().__init__()
        self.bidirectional = bidirectional
        self.buckets, self.max_distance = settings.relative_buckets, settings.relative_max_distance
        self.weight = nn.Parameter(torch.randn(self.buckets, settings.num_heads) * settings.d_model**-0.5)

    def bucket(self, distance: torch.Tensor) -> torch.Tensor:
        """Bucket of key position minus query position: exact for small distances, logarithmic for large ones."""
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
    """Attention layer with T5's initial weights, in which the weights of the queries include the scale of the scores."""

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
        rotation: Rotation | None = None,
    ) -> torch.Tensor:
        """Unscaled attention, as in T5; with a ``rotation``, scaled attention with rotary positions.

        Args:
            x: [M, D], input of the queries.
            source: [M', D], input of keys and values; ``x`` itself in self-attention.
            groups: (users, queries, keys) in the order of the rows.
            bias: added to the scores, at least [H, Q, S] (or [1, Q, S]) for the longest Q and S; -inf where masked.
            keep: bool [M'], False at padding.
            rotation: of the positions of the longest user.

        Returns:
            [M, D].
        """
        p = self.dropout if self.training else 0.0
        columns = [self.query(x), self.key(source), self.value(source)]
        rows = [[n * queries for n, queries, _ in groups]] + 2 * [[n * keys for n, _, keys in groups]]
        masks = [None] * len(groups) if keep is None else keep.split(rows[1])
        parts = []
        for (n, queries, keys), mask, *heads in zip(groups, masks, *(c.split(r) for c, r in zip(columns, rows))):
            q, k, v = (split_heads(h, n, self.heads) for h in heads)
            if rotation is not None:
                q, k = rotation.rotate_queries(q), rotation.rotate_keys(k)
            mask = None if mask is None else padding_bias(mask.view(n, keys))
            if bias is not None:
                mask = bias[:, :queries, :keys] + (0 if mask is None else mask)
            if x.device.type == "cpu":  # the fused CPU kernel is slow for short sequences and gives no gradient of the bias
                scores = q @ k.transpose(-1, -2)
                y = dropout((scores if mask is None else scores + mask).softmax(dim=-1), p, self.training) @ v
            else:
                y = F.scaled_dot_product_attention(
                    q, k, v, attn_mask=None if mask is None else mask.to(q.dtype), dropout_p=p, scale=1.0
                )
            parts.append(y.transpose(1, 2).flatten(-2).flatten(0, 1))
        return self.out(torch.cat(parts))


def split_heads(x: torch.Tensor, users: int, heads: int) -> torch.Tensor:
    """[n*S, H*E] -> [n, H, S, E]"""
    return x.view(users, -1, heads, x.shape[-1] // heads).transpose(1, 2)


def padding_bias(keep: torch.Tensor) -> torch.Tensor:
    """0 where ``keep`` [n, S] is true, -inf elsewhere; [n, 1, 1, S]."""
    return torch.zeros(keep.shape, device=keep.device).masked_fill(~keep, -torch.inf)[:, None, None, :]


class SelfAttention(Attention):
    def forward(
        self,
        x: torch.Tensor,
        groups: list[tuple[int, int]],
        bias: torch.Tensor | None,
        keep: torch.Tensor | None = None,
        rotation: Rotation | None = None,
    ) -> torch.Tensor:
        """x [M, D], packed as ``groups`` of (users, positions each)."""
        x_norm = self.norm(x)
        y = self.attend(x_norm, x_norm, [(n, length, length) for n, length in groups], bias, keep, rotation)
        return x + dropout(y, self.dropout, self.training)


class CrossAttention(Attention):
    def forward(
        self, x: torch.Tensor, memory: Memory, queries: list[int], bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """x [M, D], packed by user; ``queries``: number of queries of each user, for each group."""
        groups = [(n, count, length) for count, (n, length) in zip(queries, memory.groups)]
        y = self.attend(self.norm(x), memory.hidden, groups, bias, memory.keep)
        return x + dropout(y, self.dropout, self.training)


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
        y = self.down(dropout(F.relu(self.up(x_norm)), self.dropout, self.training))
        return x + dropout(y, self.dropout, self.training)
