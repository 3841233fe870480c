"""T5 layers (Raffel et al., 2020, arXiv 1910.10683) over packed sequences (packing.py).

Shapes: B users, n users of a group, G groups of queries, T target positions, S source positions, M rows (the positions
of all users), H heads, E width of a head, D model width, F width of the hidden layer.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from recbole_macrec.generation.network.dropout import dropout
from recbole_macrec.generation.network.memory import Memory
from recbole_macrec.generation.network.rotary import Rotation
from recbole_macrec.utils.lookup import rows_of


@dataclass(frozen=True)
class TransformerSettings:
    """Sizes and variants of the network; the defaults are those of TIGER, MQL4GRec and MACRec."""

    d_model: int = 128
    d_ff: int = 1024
    num_heads: int = 6
    d_kv: int = 64
    encoder_layers: int = 4
    decoder_layers: int = 4
    relative_buckets: int = 32
    relative_max_distance: int = 128
    dropout: float = 0.1
    norm: str = "pre_rms"  # see :class:`Residual`
    decoder_positions: str = "relative"  # relative (T5) or sinusoidal

    @classmethod
    def from_config(cls, config) -> "TransformerSettings":
        """Read the options of a model. Options that it does not have, or that an old checkpoint lacks, keep their defaults."""
        options = {"norm": config["norm"], "decoder_positions": config["decoder_positions"]}
        return cls(
            d_model=config["d_model"],
            d_ff=config["d_ff"],
            num_heads=config["num_heads"],
            d_kv=config["d_kv"],
            encoder_layers=config["encoder_layers"],
            decoder_layers=config["decoder_layers"],
            dropout=config["dropout_prob"],
            **{name: value for name, value in options.items() if value is not None},
        )


class RMSNorm(nn.Module):
    """T5's layer norm, without mean and bias."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-6)


class Residual(nn.Module):
    """Base class of the layers f with a residual connection, which share a norm and dropout.

    The output is x + f(RMSNorm(x)) with ``norm: pre_rms``, as in T5, and LayerNorm(x + f(x)) with ``norm: post_layer``, as in
    Vaswani et al., "Attention Is All You Need", NeurIPS 2017.
    """

    def __init__(self, s: TransformerSettings):
        super().__init__()
        self.dropout, self.post_norm = s.dropout, s.norm == "post_layer"
        self.norm: nn.LayerNorm | RMSNorm = nn.LayerNorm(s.d_model) if self.post_norm else RMSNorm(s.d_model)

    def input_of(self, x: torch.Tensor) -> torch.Tensor:
        """The input of f for ``x`` [M, D]."""
        return x if self.post_norm else self.norm(x)

    def output_of(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The output of the layer for ``x`` and ``y``, the output of f; all [M, D]."""
        total = x + dropout(y, self.dropout, self.training)
        return self.norm(total) if self.post_norm else total


def final_norm(s: TransformerSettings) -> nn.Module:
    """The norm after the last layer; none with ``norm: post_layer``, whose layers end with a norm."""
    return nn.Identity() if s.norm == "post_layer" else RMSNorm(s.d_model)


def sinusoidal_encodings(length: int, width: int) -> torch.Tensor:
    """Encodings [S, D] of positions 0 .. S - 1 (Vaswani et al., section 3.5).

        PE(pos, 2i) = sin(pos / 10000^(2i / D)),  PE(pos, 2i + 1) = cos(pos / 10000^(2i / D))
    """
    frequency = 10_000.0 ** -(torch.arange(0, width, 2) / width)
    angle = torch.arange(length).unsqueeze(1) * frequency  # [S, D / 2]
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :width]


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
        return rows_of(self.weight, self.bucket(keys[None, :] - queries[:, None])).permute(2, 0, 1)


class Attention(Residual):
    """Attention layer with T5's initial weights, in which the weights of the queries include the scale of the scores."""

    def __init__(self, s: TransformerSettings):
        super().__init__(s)
        self.heads = s.num_heads
        inner = s.num_heads * s.d_kv
        self.query, self.key, self.value = (nn.Linear(s.d_model, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, s.d_model, bias=False)
        nn.init.normal_(self.query.weight, std=(s.d_model * s.d_kv) ** -0.5)
        nn.init.normal_(self.key.weight, std=s.d_model**-0.5)
        nn.init.normal_(self.value.weight, std=s.d_model**-0.5)
        nn.init.normal_(self.out.weight, std=inner**-0.5)

    def by_head(self, rotate: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        """Apply ``rotate`` to the heads of ``rows`` [M, H*E]."""
        return rotate(rows.unflatten(1, (self.heads, -1))).flatten(1)

    def attend(
        self,
        x: torch.Tensor,
        source: torch.Tensor,
        groups: list[tuple[int, int, int]],
        masks: list[torch.Tensor | None],
        rotation: Rotation | None = None,
    ) -> torch.Tensor:
        """Unscaled attention, as in T5; with a ``rotation``, scaled attention with rotary positions.

        Args:
            x: [M, D], input of the queries.
            source: [M', D], input of keys and values; ``x`` itself in self-attention.
            groups: (users, queries, keys) in the order of the rows.
            masks: see :func:`attention_masks`.
            rotation: of all rows, [M, 1, E].

        Returns:
            [M, D].
        """
        p = self.dropout if self.training else 0.0
        columns = [self.query(x), self.key(source), self.value(source)]
        if rotation is not None:
            columns[0] = self.by_head(rotation.rotate_queries, columns[0])
            columns[1] = self.by_head(rotation.rotate_keys, columns[1])
        rows = [[n * queries for n, queries, _ in groups]] + 2 * [[n * keys for n, _, keys in groups]]
        parts = []
        for (n, _, _), mask, *heads in zip(groups, masks, *(c.split(r) for c, r in zip(columns, rows))):
            q, k, v = (split_heads(h, n, self.heads) for h in heads)
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


def own_groups(groups: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """The (users, queries, keys) of self-attention in groups of (users, positions each)."""
    return [(users, length, length) for users, length in groups]


def cross_groups(queries: list[int], memory: Memory) -> list[tuple[int, int, int]]:
    """The (users, queries, keys) of attention to ``memory``; ``queries``: of each user, for each group."""
    return [(users, count, length) for count, (users, length) in zip(queries, memory.groups)]


def attention_masks(
    groups: list[tuple[int, int, int]], bias: torch.Tensor | None = None, keep: torch.Tensor | None = None
) -> list[torch.Tensor | None]:
    """What attention adds to the scores of each group: -inf where a query must not attend to a key. All layers share it.

    Args:
        groups: (users, queries, keys) in the order of the rows.
        bias: at least [H, Q, S] (or [1, Q, S]) for the longest Q and S; -inf where masked.
        keep: bool [M], for the rows of the keys; False at padding.

    Returns:
        For each group a tensor that can be broadcast to [n, H, Q, S]; None where nothing is added.
    """
    paddings: list[torch.Tensor | None] = [None] * len(groups)
    if keep is not None:
        parts = keep.split([users * keys for users, _, keys in groups])
        paddings = [padding_bias(part.view(users, keys)) for part, (users, _, keys) in zip(parts, groups)]
    if bias is None:
        return paddings
    biases = [bias[:, :queries, :keys] for _, queries, keys in groups]
    masks = [of_group if padding is None else of_group + padding for of_group, padding in zip(biases, paddings)]
    return list(masks) if bias.device.type == "cpu" else [aligned(mask) for mask in masks]


def aligned(mask: torch.Tensor) -> torch.Tensor:
    """Copy a mask to rows that begin at multiples of 8 numbers. Fused attention on a GPU copies other masks in every layer."""
    return F.pad(mask, (0, -mask.shape[-1] % 8))[..., : mask.shape[-1]]


class SelfAttention(Attention):
    """Attention of the positions of each user to each other."""

    def forward(
        self,
        x: torch.Tensor,
        groups: list[tuple[int, int]],
        masks: list[torch.Tensor | None],
        rotation: Rotation | None = None,
    ) -> torch.Tensor:
        """x [M, D], packed as ``groups`` of (users, positions each)."""
        inputs = self.input_of(x)
        return self.output_of(x, self.attend(inputs, inputs, own_groups(groups), masks, rotation))


class CrossAttention(Attention):
    """Attention of the queries of each user to the user's memory."""

    def forward(
        self, x: torch.Tensor, memory: Memory, queries: list[int], masks: list[torch.Tensor | None]
    ) -> torch.Tensor:
        """x [M, D], packed by user; ``queries``: number of queries of each user, for each group."""
        return self.output_of(x, self.attend(self.input_of(x), memory.hidden, cross_groups(queries, memory), masks))


class FeedForward(Residual):
    """f(x) = max(0, x W_up) W_down, T5's layer with its initial weights."""

    def __init__(self, s: TransformerSettings):
        super().__init__(s)
        self.up = nn.Linear(s.d_model, s.d_ff, bias=False)
        self.down = nn.Linear(s.d_ff, s.d_model, bias=False)
        nn.init.normal_(self.up.weight, std=s.d_model**-0.5)
        nn.init.normal_(self.down.weight, std=s.d_ff**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [M, D]."""
        hidden = dropout(F.relu(self.up(self.input_of(x))), self.dropout, self.training)
        return self.output_of(x, self.down(hidden))
