"""T5-style encoder-decoder (Raffel et al., 2020) whose decoder works on groups of queries.

Legend: B users, G groups (target sequences in training, beams in search), T target positions, S source positions,
H heads, E width of a head, D model width, F width of the feed-forward layer.

A group is one target sequence of a user. The groups of a user share the encoder's output and its keys and values, so
neither several training targets nor many beams copy anything of the source.
"""
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recbole_macrec.generation.dropout import dropout, relu_dropout


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


class Memory(NamedTuple):
    """What the decoder needs of the source, made once a user."""

    hidden: torch.Tensor  # [B, S, D]
    keep: torch.Tensor  # bool [B, S], False at padding
    keys: list[torch.Tensor]  # a decoder layer's [B, H, S, E]
    values: list[torch.Tensor]


class RMSNorm(nn.Module):
    """T5's layer norm: no mean, no bias."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
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


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, S, H*E] -> [B, H, S, E]"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class Attention(nn.Module):
    """The projections of an attention layer, with T5's initial weights: the queries are scaled down once here."""

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


class SelfAttention(Attention):
    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """x [B, S, D], bias broadcastable to [B, H, S, S] with -inf where attention is not allowed."""
        x_norm = self.norm(x)
        q, k, v = (split_heads(f(x_norm), self.heads) for f in (self.query, self.key, self.value))
        y = attend(q, k, v, bias, self.dropout if self.training else 0.0)
        return x + dropout(self.out(y), self.dropout, self.training)

    def step(self, x: torch.Tensor, bias: torch.Tensor, past: tuple | None) -> tuple[torch.Tensor, tuple]:
        """One position of every group.

        Args:
            x: [B, G, D].
            bias: [H, T] of this position to the T positions so far, itself included.
            past: keys and values of the positions before, each [B, G, T - 1, H, E], or None.

        Returns:
            The layer's output [B, G, D] and the keys and values [B, G, T, H, E].
        """
        x_norm = self.norm(x)
        q, k, v = (f(x_norm).unflatten(-1, (1, self.heads, -1)) for f in (self.query, self.key, self.value))
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        scores = (q * k).sum(-1) + bias.t()  # [B, G, T, H]
        y = (scores.softmax(dim=2).unsqueeze(-1) * v).sum(2)  # [B, G, H, E]
        return x + self.out(y.flatten(-2)), (k, v)


class CrossAttention(Attention):
    def memory(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [B, H, S, E] of the encoder's output [B, S, D]."""
        return split_heads(self.key(hidden), self.heads), split_heads(self.value(hidden), self.heads)

    def forward(self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """x [B, Q, D] for the Q queries of all groups of a user; mask [B, 1, 1, S] with -inf at padding."""
        q = split_heads(self.query(self.norm(x)), self.heads)
        y = attend(q, keys, values, mask, self.dropout if self.training else 0.0)
        return x + dropout(self.out(y), self.dropout, self.training)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, p: float) -> torch.Tensor:
    """Unscaled attention with an additive bias, as in T5; [B, H, Q, E] and [B, H, S, E] -> [B, Q, H*E]."""
    if torch.is_grad_enabled() and q.device.type == "cpu":  # the fused CPU kernel has no gradient for the bias
        scores = q @ k.transpose(-1, -2) + bias  # [B, H, Q, S]
        y = dropout(scores.softmax(dim=-1), p, training=True) @ v
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), dropout_p=p, scale=1.0)
    return y.transpose(1, 2).flatten(-2)


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
        y = relu_dropout(self.up(self.norm(x)), self.dropout, self.training)
        return x + dropout(self.down(y), self.dropout, self.training)


class DecoderLayer(nn.Module):
    def __init__(self, s: TransformerSettings):
        super().__init__()
        self.self_attention, self.cross_attention, self.feed_forward = SelfAttention(s), CrossAttention(s), FeedForward(s)


class EncoderLayer(nn.Module):
    def __init__(self, s: TransformerSettings):
        super().__init__()
        self.self_attention, self.feed_forward = SelfAttention(s), FeedForward(s)


class Transformer(nn.Module):
    """Encoder-decoder with a tied token table, pre-norm layers and relative position bias.

    With the same weights it computes the logits of ``transformers.T5ForConditionalGeneration`` (ReLU, tied table).

    Args:
        vocabulary_size: V.
        settings: the sizes.
    """

    def __init__(self, vocabulary_size: int, settings: TransformerSettings = TransformerSettings()):
        super().__init__()
        self.settings = s = settings
        self.table = nn.Embedding(vocabulary_size, s.d_model)
        self.encoder_bias, self.decoder_bias = RelativeBias(s, bidirectional=True), RelativeBias(s, bidirectional=False)
        self.encoder = nn.ModuleList(EncoderLayer(s) for _ in range(s.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(s) for _ in range(s.decoder_layers))
        self.encoder_norm, self.decoder_norm = RMSNorm(s.d_model), RMSNorm(s.d_model)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return dropout(self.table(tokens), self.settings.dropout, self.training)

    def encode(self, tokens: torch.Tensor, keep: torch.Tensor) -> Memory:
        """Read the source.

        Args:
            tokens: int64 [B, S].
            keep: bool [B, S], False at padding; every row keeps at least one position.
        """
        position = torch.arange(tokens.shape[1], device=tokens.device)
        bias = self.encoder_bias(position, position)[None] + padding_bias(keep)  # [B, H, S, S]
        x = self.embed(tokens)
        for layer in self.encoder:
            x = layer.feed_forward(layer.self_attention(x, bias))
        hidden = dropout(self.encoder_norm(x), self.settings.dropout, self.training)
        keys, values = zip(*(layer.cross_attention.memory(hidden) for layer in self.decoder))
        return Memory(hidden, keep, list(keys), list(values))

    def decode(self, tokens: torch.Tensor, memory: Memory) -> torch.Tensor:
        """Teacher forcing.

        Args:
            tokens: int64 [B, G, T], each group beginning with its start token.

        Returns:
            Hidden states [B, G, T, D]; position t has seen the tokens up to t.
        """
        groups, length = tokens.shape[1:]
        position = torch.arange(length, device=tokens.device)
        future = position[None, :] > position[:, None]
        bias = self.decoder_bias(position, position).masked_fill(future, -torch.inf)[None]
        mask = padding_bias(memory.keep)
        x = self.embed(tokens).flatten(0, 1)  # [B*G, T, D]
        for layer, keys, values in zip(self.decoder, memory.keys, memory.values):
            x = layer.self_attention(x, bias)
            x = x.unflatten(0, (-1, groups)).flatten(1, 2)  # [B, G*T, D]
            x = layer.feed_forward(layer.cross_attention(x, keys, values, mask))
            x = x.unflatten(1, (groups, length)).flatten(0, 1)
        x = dropout(self.decoder_norm(x), self.settings.dropout, self.training)
        return x.unflatten(0, (-1, groups))

    def step(self, tokens: torch.Tensor, memory: Memory, past: list[tuple] | None) -> tuple[torch.Tensor, list[tuple]]:
        """Decode one more position of every group; for search, without dropout.

        Args:
            tokens: int64 [B, G].
            past: what the step before returned, its groups gathered by parent; None at the first step.

        Returns:
            Hidden states [B, G, D] and each layer's keys and values [B, G, T, H, E].
        """
        length = 1 if past is None else past[0][0].shape[2] + 1
        position = torch.arange(length, device=tokens.device)
        bias = self.decoder_bias(position[-1:], position)[:, 0]  # [H, T]
        mask = padding_bias(memory.keep)
        x, present = self.table(tokens), []
        for i, layer in enumerate(self.decoder):
            x, kept = layer.self_attention.step(x, bias, past and past[i])
            present.append(kept)
            x = layer.feed_forward(layer.cross_attention(x, memory.keys[i], memory.values[i], mask))
        return self.decoder_norm(x), present

    def logits(self, hidden: torch.Tensor, start: int = 0, size: int | None = None) -> torch.Tensor:
        """Scores [..., size] of the tokens ``start .. start + size - 1``; all of them by default."""
        weight = self.table.weight[start : None if size is None else start + size]
        return F.linear(hidden * self.settings.d_model**-0.5, weight)

    def block_logits(self, hidden: torch.Tensor, starts: torch.Tensor, size: int) -> torch.Tensor:
        """Scores of n blocks of tokens, each by a hidden state of its own.

        Args:
            hidden: [B, n, D].
            starts: int64 [n], the first token of each block.

        Returns:
            [B, n, size]; entry (b, i, k) is the score of token ``starts[i] + k``.
        """
        tokens = starts.unsqueeze(1) + torch.arange(size, device=starts.device)  # [n, K]
        weight = self.table(tokens) * self.settings.d_model**-0.5  # [n, K, D]
        return (hidden.transpose(0, 1) @ weight.transpose(1, 2)).transpose(0, 1)


def padding_bias(keep: torch.Tensor) -> torch.Tensor:
    """0 where ``keep`` [B, S] is true, -inf elsewhere; [B, 1, 1, S]."""
    return torch.zeros(keep.shape, device=keep.device).masked_fill(~keep, -torch.inf)[:, None, None, :]
