"""An encoder of a user's items as a set of vectors, with attention that depends on the user's representation.

Shapes: B users, n users of a group, S items of the longest user, M rows (the items of all users), H heads, E width of a
head, D model width, R width of a representation.
"""
import torch
import torch.nn.functional as F
from torch import nn

from recbole_macrec.generation.network.dropout import dropout
from recbole_macrec.generation.network.layers import (
    FeedForward,
    RelativeBias,
    Residual,
    TransformerSettings,
    attention_masks,
    final_norm,
    own_groups,
    padding_bias,
    sinusoidal_encodings,
    split_heads,
)
from recbole_macrec.generation.network.memory import Memory
from recbole_macrec.generation.network.packing import PackedSequences
from recbole_macrec.generation.network.transformer import EncoderLayer
from recbole_macrec.utils.modules import ModuleList


class UserScale(nn.Module):
    """A scalar for each user, computed from the user's representation by an MLP R -> R/2 -> 1."""

    def __init__(self, width: int):
        super().__init__()
        self.hidden, self.out = nn.Linear(width, max(1, width // 2)), nn.Linear(max(1, width // 2), 1)

    def forward(self, users: torch.Tensor) -> torch.Tensor:
        """users [B, R] to [B]."""
        return self.out(F.leaky_relu(self.hidden(users))).squeeze(-1)


class RelationAwareAttention(Residual):
    """Relation-aware self-attention among the items of a user (MMGRec, Liu et al., 2024, arXiv 2404.16555).

    With projections Q_h, K_h, V_h of every head h, shared projections P, and scales a, b, c of user u,

        score_h(i, j) = (x_i Q_h (x_j K_h)^T + a_u x_i P_Q (b_u x_j P_K)^T) / sqrt(E)
        y_h(i) = sum_j softmax_j(score_h(i, j)) (x_j V_h + c_u x_j P_V)

    The concatenated outputs of the heads pass through the output matrix. The order of the items has no effect.
    """

    def __init__(self, s: TransformerSettings, user_width: int):
        super().__init__(s)
        self.heads = s.num_heads
        inner = s.num_heads * s.d_kv
        self.query, self.key, self.value = (nn.Linear(s.d_model, inner, bias=False) for _ in range(3))
        self.user_query, self.user_key, self.user_value = (nn.Linear(s.d_model, s.d_kv, bias=False) for _ in range(3))
        self.query_scale, self.key_scale, self.value_scale = (UserScale(user_width) for _ in range(3))
        self.out = nn.Linear(inner, s.d_model, bias=False)
        for weight in (self.query, self.key, self.value, self.user_query, self.user_key, self.user_value):
            nn.init.normal_(weight.weight, std=s.d_model**-0.5)
        nn.init.normal_(self.out.weight, std=inner**-0.5)

    def forward(
        self, x: torch.Tensor, groups: list[tuple[int, int]], users: torch.Tensor, keep: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Apply the layer with its residual connection.

        Args:
            x: [M, D].
            groups: (users, items each) in the order of the rows.
            users: representations [B, R].
            keep: bool [M], False at padding.

        Returns:
            [M, D].
        """
        inputs = self.input_of(x)
        scales = [scale(users) for scale in (self.query_scale, self.key_scale, self.value_scale)]
        shared = [f(inputs) for f in (self.user_query, self.user_key, self.user_value)]
        own = [f(inputs) for f in (self.query, self.key, self.value)]
        rows, counts = [n * length for n, length in groups], [n for n, _ in groups]
        masks = [None] * len(groups) if keep is None else keep.split(rows)
        split = [part.split(rows) for part in own + shared] + [scale.split(counts) for scale in scales]
        p, parts = self.dropout if self.training else 0.0, []
        for (n, length), mask, *columns in zip(groups, masks, *split):
            q, k, v = (split_heads(part, n, self.heads) for part in columns[:3])  # [n, H, S, E]
            of_user = [part.view(n, 1, length, -1) * scale.view(n, 1, 1, 1) for part, scale in zip(columns[3:6], columns[6:])]
            q, k = (torch.cat([a, b.expand_as(a)], dim=-1) for a, b in ((q, of_user[0]), (k, of_user[1])))  # both products
            scores = q @ k.transpose(-1, -2) * v.shape[-1] ** -0.5  # [n, H, S, S]
            if mask is not None:
                scores = scores + padding_bias(mask.view(n, length))
            y = dropout(scores.softmax(dim=-1), p, self.training).to(v.dtype) @ (v + of_user[2])
            parts.append(y.transpose(1, 2).flatten(-2).flatten(0, 1))
        return self.output_of(x, self.out(torch.cat(parts)))


class RelationAwareLayer(nn.Module):
    """Relation-aware self-attention and a feed-forward layer."""

    def __init__(self, s: TransformerSettings, user_width: int):
        super().__init__()
        self.attention, self.feed_forward = RelationAwareAttention(s, user_width), FeedForward(s)


class SetEncoder(nn.Module):
    """Encodes the item vectors of each user as memory for the decoder.

    Args:
        settings: the sizes; ``encoder_layers`` layers are built.
        width: R, width of the items' and users' vectors.
        attention: ``relation_aware``, or self-attention with relative ``positions``, with ``sinusoidal`` encodings of the
            positions (the variant of MMGRec's Table 5) or without positions (``none``).
    """

    def __init__(self, settings: TransformerSettings, width: int, attention: str):
        super().__init__()
        self.settings, self.attention = settings, attention
        self.project = nn.Linear(width, settings.d_model)
        self.bias = RelativeBias(settings, bidirectional=True) if attention == "positions" else None
        relation = attention == "relation_aware"
        self.layers: ModuleList[RelationAwareLayer | EncoderLayer] = ModuleList(
            RelationAwareLayer(settings, width) if relation else EncoderLayer(settings) for _ in range(settings.encoder_layers)
        )
        self.norm = final_norm(settings)

    def forward(self, source: PackedSequences, vectors: torch.Tensor, users: torch.Tensor) -> Memory:
        """Encode the users' items.

        Args:
            source: the packed items; only its ``groups`` and ``keep`` are read.
            vectors: [M, R] of these items.
            users: representations [B, R], in the order of the rows.
        """
        p = self.settings.dropout
        x = self.project(vectors).float()  # as embeddings are: the residual stream stays fp32 under autocast
        if self.attention == "sinusoidal":
            longest = sinusoidal_encodings(max(length for _, length in source.groups), x.shape[1]).to(x)  # [S, D]
            x = x + torch.cat([longest[:length].repeat(users_here, 1) for users_here, length in source.groups])
        x = dropout(x, p, self.training)
        bias = None
        if self.bias is not None:
            position = torch.arange(max(length for _, length in source.groups), device=x.device)
            bias = self.bias(position, position)  # [H, S, S]
        masks = attention_masks(own_groups(source.groups), bias, source.keep)
        for layer in self.layers:
            if isinstance(layer, RelationAwareLayer):
                x = layer.attention(x, source.groups, users, source.keep)
            else:
                x = layer.self_attention(x, source.groups, masks)
            x = layer.feed_forward(x)
        return Memory(dropout(self.norm(x), p, self.training), source.groups, source.keep)
