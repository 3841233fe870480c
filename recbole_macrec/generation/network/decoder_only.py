"""Decoder-only network: one causal transformer over the codes of a history and of the next item.

The state at a code predicts the next code, and the state at an item's last code the first code of the next item. The tokens
of the history are also the tokens of the targets, so nothing is encoded twice.

Shapes: B users, N items, M rows (positions of all users), G groups of queries, S source positions, T target positions,
L levels, H heads, E width of a head, D model width.
"""
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from recbole_macrec.generation.network.dropout import dropout
from recbole_macrec.generation.network.layers import (
    FeedForward,
    RMSNorm,
    SelfAttention,
    TransformerSettings,
    attention_masks,
    own_groups,
    split_heads,
)
from recbole_macrec.generation.network.memory import AnyMemory, CausalMemory, Memory
from recbole_macrec.generation.network.packing import PackedSequences, pack, row_starts, with_rounded_rows
from recbole_macrec.generation.network.rotary import Rotation
from recbole_macrec.generation.network.windows import (
    Target,
    Windows,
    side_by_side,
    window_layout,
)
from recbole_macrec.utils.rounded_rows import linear


class CausalLayer(nn.Module):
    """Causal self-attention and a feed-forward layer.

    As in GPT-2 (Radford et al., 2019), the initial weights of the output matrices shrink with the number of layers.
    """

    def __init__(self, s: TransformerSettings):
        super().__init__()
        self.self_attention, self.feed_forward = SelfAttention(s), FeedForward(s)
        for layer in (self.self_attention.query, self.self_attention.key, self.self_attention.value, self.feed_forward.up):
            nn.init.normal_(layer.weight, std=(3 * s.d_model) ** -0.5)
        for layer in (self.self_attention.out, self.feed_forward.down):  # keeps the scale of the sum over all layers
            nn.init.normal_(layer.weight, std=0.02 / (2 * s.decoder_layers) ** 0.5)

    def forward(
        self, x: torch.Tensor, groups: list[tuple[int, int]], masks: list[torch.Tensor | None], rotation: Rotation
    ) -> torch.Tensor:
        """x [M, D] of users packed as ``groups`` (users, positions each), with a rotation [M, 1, E]."""
        return self.feed_forward(self.self_attention(x, groups, masks, rotation))


class CausalLayers(nn.ModuleList):
    """A stack of ``decoder_layers`` layers."""

    def __init__(self, s: TransformerSettings):
        super().__init__(CausalLayer(s) for _ in range(s.decoder_layers))

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[CausalLayer]: ...

    def forward(self, x: torch.Tensor, packed: PackedSequences, mask: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        """x [M, D] of the rows of ``packed``.

        Args:
            mask: [1, S, S], -inf where a position (row) must not attend to another (column).
            rotation: of the S positions, [S, E].
        """
        masks, rotation = attention_masks(own_groups(packed.groups), mask), rotation.of_rows(packed.position)
        for layer in self:
            x = layer(x, packed.groups, masks, rotation)
        return x


def causal_mask(position: torch.Tensor) -> torch.Tensor:
    """Causal mask [1, S, S]: -inf where a position (column) is later than another (row)."""
    zeros = torch.zeros(len(position), len(position), device=position.device)
    return zeros.masked_fill(position > position[:, None], -torch.inf).unsqueeze(0)


class DecoderOnly(nn.Module):
    """Causal transformer: pre-norm with RMSNorm, rotary positions, ReLU, no biases, separate input and output embeddings.

    Args:
        vocabulary_size: V.
        settings: the sizes; ``decoder_layers`` layers are built.
    """

    def __init__(self, vocabulary_size: int, settings: TransformerSettings):
        super().__init__()
        self.settings = s = settings
        self.table, self.output = nn.Embedding(vocabulary_size, s.d_model), nn.Embedding(vocabulary_size, s.d_model)
        nn.init.normal_(self.table.weight, std=0.45 * s.d_model**-0.5)
        nn.init.normal_(self.output.weight, std=0.02)
        self.layers = CausalLayers(s)
        self.norm = RMSNorm(s.d_model)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return dropout(self.table(tokens), self.settings.dropout, self.training)

    # -- training ----------------------------------------------------------------------------------------------------

    def window_states(
        self, front: torch.Tensor, source: torch.Tensor, windows: Windows, targets: list[Target], overhead: int = 0
    ) -> list[torch.Tensor]:
        """Hidden states that predict the codes of every target of B windows, from one pass.

        Args:
            front: tokens before the first item, int64 [P] or [B, P].
            source: tokens of the items in the modality of the history, int64 [B, N, L].
            windows: which items are targets.
            targets: the modalities to predict.
            overhead: see :func:`pack`.

        Returns:
            For each of ``targets`` [n, T, D], in the order of :meth:`Windows.targets`; entry (i, t) depends on the history of
            target i and its codes before t.
        """
        if not any(target.own for target in targets):
            source = source[:, :-1]  # no history contains the last item
        hidden, starts, plan = self._pass(front, source, windows, targets, overhead)
        user, place = windows.targets()
        rows = [starts[user].unsqueeze(1) + state[place] for state in plan.states]  # [n, T]
        return [hidden.index_select(0, r.flatten().to(hidden.device)).view(*r.shape, -1) for r in rows]

    def item_states(
        self, front: torch.Tensor, source: torch.Tensor, targets: list[Target]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Hidden states that predict the codes of B items in other modalities, and the mean state of an item's own codes.

        Args:
            front: tokens before the items, int64 [P] or [B, P].
            source: tokens of the items, int64 [B, L].
            targets: the modalities to predict, tokens [B, T].

        Returns:
            For each of ``targets`` [B, T, D]; and [B, D].
        """
        items = len(source)
        windows = Windows(source.new_zeros(items, 2), torch.full((items,), 2), torch.ones(items, dtype=torch.long))
        targets = [t._replace(tokens=t.tokens.unsqueeze(1).expand(-1, 2, -1)) for t in targets]
        hidden, starts, plan = self._pass(front, source.unsqueeze(1), windows, targets, 0)
        rows = [(starts.unsqueeze(1) + places).to(hidden.device) for places in [s[1] for s in plan.states] + [plan.first_item]]
        *states, own = (hidden.index_select(0, r.flatten()).view(*r.shape, -1) for r in rows)
        return states, own.mean(1)

    def _pass(self, front, source, windows: Windows, targets: list[Target], overhead: int):
        """Compute hidden states [M, D]; also returns the first row of each user, [B] on the CPU, and the layout of the rows."""
        kinds = tuple((target.tokens.shape[2], target.own) for target in targets)
        plan = window_layout(front.shape[-1], windows.items.shape[1], source.shape[2], int(windows.first.min()), kinds)
        tokens = side_by_side(front, source, targets).index_select(1, plan.column.to(source.device))
        packed = with_rounded_rows(pack(tokens, plan.length[windows.length], overhead))
        rotation = Rotation.at(plan.position.to(source.device), self.settings.d_kv)
        x = self.layers(self.embed(packed.tokens), packed, plan.mask.to(source.device), rotation)
        return self.norm(x), row_starts(packed.groups)[: len(tokens)], plan

    # -- ranking -----------------------------------------------------------------------------------------------------

    def read(
        self, tokens: torch.Tensor, lengths: torch.Tensor, overhead: int = 0, front: int = 0, levels: int = 1
    ) -> CausalMemory:
        """Keys and values of histories: tokens [B, S] of ``lengths`` [B].

        The last code of a history is left out. It replaces the start token: its state predicts the first code of the next item.
        ``front`` and ``levels`` have an effect in :class:`Transformer` only.
        """
        last = (lengths - 1).to(tokens.device)
        packed = pack(tokens, lengths - 1, overhead)
        position = torch.arange(tokens.shape[1], device=tokens.device)
        rotation = Rotation.at(position, self.settings.d_kv).of_rows(packed.position)
        masks = attention_masks(own_groups(packed.groups), causal_mask(position))
        x, cache = self.embed(packed.tokens), []
        for layer in self.layers:
            attention = layer.self_attention
            x_norm = attention.norm(x)
            keys = attention.by_head(rotation.rotate_keys, attention.key(x_norm))
            cache.append((self._heads(keys, packed.groups), self._heads(attention.value(x_norm), packed.groups)))
            if layer is not self.layers[-1]:
                x = layer(x, packed.groups, masks, rotation)
        keep = None if packed.keep is None else list(packed.keep.split([n * length for n, length in packed.groups]))
        token = tokens.gather(1, last.unsqueeze(1))[:, 0]
        return CausalMemory(cache, packed.groups, keep, token, last)

    def _heads(self, x: torch.Tensor, groups: list[tuple[int, int]]) -> list[torch.Tensor]:
        """Split rows [M, H*E] into [n, H, S, E] for each group."""
        return [
            split_heads(part, n, self.settings.num_heads) for (n, _), part in zip(groups, x.split([n * s for n, s in groups]))
        ]

    def decode(self, tokens: torch.Tensor, memory: AnyMemory) -> torch.Tensor:
        """Decode given sequences (teacher forcing).

        Args:
            tokens: int64 [B, G, T]; the first one is replaced by the last code of the history.

        Returns:
            Hidden states [B, G, T, D]; position t depends on the history and the codes 1 .. t.
        """
        if isinstance(memory, Memory):
            raise TypeError("memory is the Memory of an encoder; expected the CausalMemory of a decoder-only network")
        users, groups, length = tokens.shape
        tokens = torch.cat([memory.token.view(-1, 1, 1).expand(-1, groups, -1), tokens[..., 1:]], dim=2)
        x = self.embed(tokens)  # [B, G, T, D]
        step = torch.arange(length, device=tokens.device)
        later = causal_mask(step)  # [1, T, T]
        rotation = Rotation.at(memory.position.view(-1, 1, 1, 1) + step, self.settings.d_kv)  # [B, 1, 1, T, E]
        for layer, (keys, values) in zip(self.layers, memory.layers):
            attention = layer.self_attention
            x_norm = attention.norm(x.flatten(0, 2))
            q, k, v = (f(x_norm).view(users, groups, length, attention.heads, -1).transpose(2, 3)  # [B, G, H, T, E]
                       for f in (attention.query, attention.key, attention.value))
            q, k = rotation.rotate_queries(q), rotation.rotate_keys(k)
            parts, begin = [], 0
            for g, (n, size) in enumerate(memory.groups):
                rows = slice(begin, begin + n)
                across = q[rows] @ keys[g].unsqueeze(1).transpose(-1, -2)  # [n, G, H, T, S]
                if memory.keep is not None:
                    across = across.masked_fill(~memory.keep[g].view(n, 1, 1, 1, size), -torch.inf)
                own = q[rows] @ k[rows].transpose(-1, -2) + later
                share = torch.cat([across, own], dim=-1).softmax(-1).to(v.dtype)
                y = share[..., :size] @ values[g].unsqueeze(1) + share[..., size:] @ v[rows]
                parts.append(y.transpose(2, 3).flatten(3))
                begin += n
            x = x + attention.out(torch.cat(parts))
            x = layer.feed_forward(x.flatten(0, 2)).view(users, groups, length, -1)
        return self.norm(x.flatten(0, 2)).view(users, groups, length, -1)

    def logits(self, hidden: torch.Tensor, start: int, size: int) -> torch.Tensor:
        """Scores [..., size] of the tokens ``start .. start + size - 1``."""
        return linear(hidden, self.output.weight[start : start + size])
