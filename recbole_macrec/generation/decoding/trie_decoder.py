"""Decoder for search: decodes one position of many prefixes of a trie at a time.

It computes the same as the decoder of a Transformer, with less work. The weights of norms before a layer, and scales, are
folded into the weights that follow them, which are stored in the layout of the products. The first layer's self-attention does
not depend on the user, so it is computed once per prefix, not once per user and prefix.

Shapes: B users, n users of a group, G prefixes (beams) of a user, R rows (the prefixes of all users), T target positions,
S source positions, H heads, E width of a head, D model width, K codes of a level.
"""
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.generation.network.layers import RMSNorm, padding_bias
from recbole_macrec.generation.network.memory import AnyMemory, CausalMemory, Past, RowLayout, SourceHeads, even_layouts
from recbole_macrec.generation.network.transformer import DecoderLayer, Transformer
from recbole_macrec.generation.vocabulary import Vocabulary
from recbole_macrec.utils.device_budget import DeviceBudget


class LayerWeights(NamedTuple):
    """Weights of a layer, input by output. With ``norm: pre_rms`` the weights of the norms are folded into those that
    follow."""

    own: tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # query, key and value of self-attention [D, H*E]
    own_out: torch.Tensor  # [H*E, D]
    query: torch.Tensor  # of cross-attention, [H, D, E]
    read: tuple[torch.Tensor, torch.Tensor]  # key and value of cross-attention [H, D, E]
    out: torch.Tensor  # [H, E, D]
    up: torch.Tensor  # [D, F]
    down: torch.Tensor  # [F, D]
    # after self-attention, cross-attention and feed-forward layer: weight and bias [D]
    norms: list[tuple[torch.Tensor, torch.Tensor]]

    @classmethod
    def of(cls, layer: DecoderLayer, cast) -> "LayerWeights":
        own, cross, feed = layer.self_attention, layer.cross_attention, layer.feed_forward
        before = [None if part.post_norm else part.norm.weight for part in (own, cross, feed)]
        after = [
            (part.norm.weight.clone(), part.norm.bias.clone())
            for part in (own, cross, feed)
            if isinstance(part.norm, nn.LayerNorm)
        ]

        def transposed(weight: torch.Tensor, norm: torch.Tensor | None = None) -> torch.Tensor:
            return cast((weight if norm is None else weight * norm).t().contiguous())

        def of_heads(weight: torch.Tensor, norm: torch.Tensor | None = None) -> torch.Tensor:
            return transposed(weight, norm).unflatten(1, (cross.heads, -1)).transpose(0, 1).contiguous()

        query, key, value = (transposed(f.weight, before[0]) for f in (own.query, own.key, own.value))
        return cls(
            (query, key, value),
            transposed(own.out.weight),
            of_heads(cross.query.weight, before[1]),
            (of_heads(cross.key.weight), of_heads(cross.value.weight)),
            transposed(cross.out.weight).unflatten(0, (cross.heads, -1)),
            transposed(feed.up.weight, before[2]),
            transposed(feed.down.weight),
            after,
        )

    def input_of(self, x: torch.Tensor) -> torch.Tensor:
        """Input of a layer for ``x`` [R, D]: with the norm before it, without that norm's weight."""
        return x if self.norms else rms_norm(x)

    def output_of(self, x: torch.Tensor, number: int) -> torch.Tensor:
        """Output of the first, second or third part of the layer for the sum ``x`` [R, D]: with the norm after it."""
        return F.layer_norm(x, x.shape[-1:], *self.norms[number]) if self.norms else x


class LogProbs:
    """Computes log P(code | prefix, history) from the logits of the codes of a level.

    Args:
        trie: trie that contains the prefixes.
        softmax_trie: trie of the trained items: the softmax is over the children of a prefix in it. None: over all codes of a
            level.
    """

    def __init__(self, trie: Trie, softmax_trie: Trie | None):
        self.softmax_trie = softmax_trie
        # level -> node in ``softmax_trie`` of each node of ``trie``, -1 for none; [] if they are equal
        self.node: list[torch.Tensor] = []
        if softmax_trie is not None and softmax_trie is not trie:
            node: torch.Tensor | None = None
            for level in range(trie.levels - 1):
                if node is not None:
                    node = node[trie.parent_of(level - 1, torch.arange(trie.size(level), device=node.device))]
                node = softmax_trie.child(level, node, trie.code(level).long())
                self.node.append(node)

    def __call__(self, level: int, nodes: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [R, K] after prefixes, nodes [R] of level - 1 (ignored at level 0)."""
        if self.softmax_trie is None:
            return logits.log_softmax(dim=-1)
        if level and self.node:
            nodes = self.node[level - 1][nodes].clamp(min=0)  # the codes after unknown prefixes are scored by their prior
        return logits - self.softmax_trie.log_normaliser(level, nodes, logits).unsqueeze(-1)


def weight_cast(device: torch.device):
    """Return a function that casts weights to the precision of autocast, if it is enabled."""
    precision = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    return lambda weight: weight if precision is None else weight.to(precision)


class TrieDecoder:
    """Scores the codes that may follow prefixes of a trie, without dropout and without gradients.

    The weights are copied, so later changes of the network have no effect. Under autocast they are cast once.

    Args:
        network: the network to copy.
        trie: trie of the IDs of ``modality``.
        visits: expected number of prefixes of a level to score, None for many. For levels with fewer prefixes, the first
            layer's self-attention of all prefixes is stored in a table.
        softmax_trie: trie of the trained items: the softmax is over the children of a prefix in it. None: over all codes of a
            level.
    """

    @torch.no_grad()
    def __init__(
        self,
        network: Transformer,
        vocabulary: Vocabulary,
        modality: str,
        trie: Trie,
        visits: int | None = None,
        softmax_trie: Trie | None = None,
    ):
        device = network.table.weight.device
        budget = DeviceBudget.of(device)
        self.trie, self.log_probs, self.heads = trie, LogProbs(trie, softmax_trie), network.settings.num_heads
        self.tabulated = budget.tabulated_prefixes if visits is None else min(visits, budget.tabulated_prefixes)
        self.at_once = budget.tabulated_at_once
        cast = weight_cast(device)
        self.layers = [LayerWeights.of(layer, cast) for layer in network.decoder]
        offsets, start = vocabulary.offsets[modality], vocabulary.start[modality]
        table, scale = network.table.weight, network.settings.d_model**-0.5
        weight = scale * network.decoder_norm.weight if isinstance(network.decoder_norm, RMSNorm) else scale
        codebooks = [table[offset : offset + size] for offset, size in zip(offsets, vocabulary.sizes[modality])]
        self.codebooks = [cast((codebook * weight).t().contiguous()) for codebook in codebooks]  # [D, K] each
        read = [table[start : start + 1], *codebooks[:-1]]  # embeddings of the tokens that are read, position by position
        positions = network.with_positions(torch.zeros(len(read), table.shape[1], dtype=table.dtype, device=device))
        self.tokens = torch.cat([part + position for part, position in zip(read, positions)])  # [V, D]
        # row of the first code of each level but the last in ``tokens``
        self.first_token = torch.tensor(offsets[:-1], dtype=torch.long, device=device) - offsets[0] + 1
        self.bias = network.position_bias(len(offsets)).permute(1, 2, 0)  # [T, T, H]
        inputs = self.layers[0].input_of(self.tokens)
        self.own = [inputs @ weight for weight in self.layers[0].own]  # query, key and value of the first layer, [V, H*E]
        self.first_layer_table: dict[int, torch.Tensor] = {}  # level -> ``_first_self_attention`` of all its prefixes

    def empty_past(self) -> Past:
        """Empty cache, before the first position. The first layer needs no cache."""
        return Past.empty(len(self.layers) - 1)

    @torch.no_grad()
    def read(self, memory: AnyMemory) -> list[list[SourceHeads]]:
        """Keys and values of the source: layer -> group of users."""
        if isinstance(memory, CausalMemory):
            raise TypeError("memory is a CausalMemory of a decoder-only network; expected the Memory of an encoder")
        rows = [n * length for n, length in memory.groups]
        keep: Sequence[torch.Tensor | None] = [None] * len(rows) if memory.keep is None else memory.keep.split(rows)
        masks = [m if m is None else padding_bias(m.view(*g)).squeeze(1) for m, g in zip(keep, memory.groups)]
        layers = []
        for layer in self.layers:
            heads = []
            for group, hidden, mask in zip(memory.groups, memory.hidden.split(rows), masks):
                k, v = (project(hidden, weight).unflatten(1, group) for weight in layer.read)  # [H, n, S, E]
                heads.append(SourceHeads(k.transpose(2, 3).contiguous(), v, mask))
            layers.append(heads)
        return layers

    @torch.no_grad()
    def step(
        self,
        level: int,
        nodes: torch.Tensor,
        source: list[list[SourceHeads]],
        past: Past,
        layouts: list[RowLayout] | None = None,
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Score the codes of ``level``.

        Args:
            level: the level, from 0.
            nodes: int64 [B, G], nodes of level - 1, the prefixes; ignored at level 0, where the only prefix is empty. With
                ``layouts`` int64 [R], the prefixes of all users, ordered by user.
            source: from :meth:`read`.
            past: cache of the ``level`` earlier positions.
            layouts: layout of each group of users, if users have different numbers of prefixes.

        Returns:
            log P(code | prefix, history), float32 [B, G, K] or [R, K]; and the keys and values of this position, rows first,
            for :meth:`Past.extended`.
        """
        layouts = layouts or even_layouts(source[0], nodes.shape[1])
        x, present = self._first_layer(level, nodes.flatten()), []  # [R, D]
        for i, (layer, heads) in enumerate(zip(self.layers, source)):
            if i:
                inputs = layer.input_of(x).to(layer.own_out.dtype)
                q, k, v = (inputs @ weight for weight in layer.own)
                keys, values = zip(*past.layers[i - 1], (k, v))
                add_product_(x, self._self_attention(q, keys, values, [*past.rows, None]), layer.own_out)
                x = layer.output_of(x, 0)
                present.append((k, v))
            self._add_cross_attention_(x, heads, layer, layouts)
            x = layer.output_of(x, 1)
            add_product_(x, (layer.input_of(x) @ layer.up).relu_(), layer.down)
            x = layer.output_of(x, 2)
        logits = (self.layers[-1].input_of(x) @ self.codebooks[level]).float()
        return self.log_probs(level, nodes.flatten(), logits).unflatten(0, nodes.shape), present

    def _first_layer(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Output of the first layer's self-attention for prefixes, nodes [R] of level - 1; [R, D]."""
        if level == 0:
            return self._first_self_attention(nodes.new_zeros(1, 1)).repeat(len(nodes), 1)
        if self.trie.size(level - 1) > self.tabulated:
            return self._first_self_attention(self._tokens(level, nodes))
        if level not in self.first_layer_table:
            all_nodes = torch.arange(self.trie.size(level - 1), device=nodes.device)
            self.first_layer_table[level] = self._first_self_attention(self._tokens(level, all_nodes))
        return self.first_layer_table[level].index_select(0, nodes)

    def _tokens(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Start token and codes of prefixes, nodes [R] of level - 1, as rows of ``self.tokens``; [R, level + 1]."""
        codes = self.trie.path(level - 1, nodes) + self.first_token[:level]
        return torch.cat([codes.new_zeros(len(codes), 1), codes], dim=1)

    def _first_self_attention(self, tokens: torch.Tensor) -> torch.Tensor:
        """Output of the first layer's self-attention at the last position of prefixes [R, T]; [R, D]."""
        queries, keys, values = self.own
        length, out = tokens.shape[1], []
        for part in tokens.split(self.at_once):
            y = self._self_attention(queries[part[:, -1]], [keys] * length, [values] * length, list(part.t()))
            out.append(self.layers[0].output_of(self.tokens[part[:, -1]] + y @ self.layers[0].own_out, 0))
        return torch.cat(out)

    def _self_attention(self, q: torch.Tensor, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor],
                        rows: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """Self-attention at the last of T positions.

        Args:
            q: [R, H*E].
            keys, values: [R', H*E] of each position.
            rows: for each position, int64 [R], the row at that position that a query attends to; None for its own.

        Returns:
            [R, H*E].
        """
        products = [q * k if r is None else k.index_select(0, r).mul_(q) for k, r in zip(keys, rows)]
        scores = torch.stack([product.unflatten(1, (self.heads, -1)).sum(-1) for product in products])  # [T, R, H]
        length = len(scores)
        p = (scores + self.bias[length - 1, :length].unsqueeze(1)).softmax(dim=0).to(q.dtype).unsqueeze(-1)
        # [R, H, E]
        own = ((v if r is None else v.index_select(0, r)).unflatten(1, (self.heads, -1)) for v, r in zip(values, rows))
        y = p[0] * next(own)
        for share, v in zip(p[1:], own):
            y.addcmul_(share, v)
        return y.flatten(1)

    def _add_cross_attention_(
        self, x: torch.Tensor, source: list[SourceHeads], layer: LayerWeights, layouts: list[RowLayout]
    ) -> None:
        """Add the output of cross-attention to rows [R, D]."""
        for rows, (keys, values, mask, *_), layout in zip(x.split([part.rows for part in layouts]), source, layouts):
            if not layout.rows:
                continue
            q = layout.spread(project(layer.input_of(rows), layer.query), keys.shape[1])  # [H, n, G, E]
            scores = q @ keys  # [H, n, G, S]
            p = (scores if mask is None else scores.add_(mask)).softmax(dim=-1)
            add_product_(rows, layout.packed(p.to(values.dtype) @ values), layer.out)


def add_product_(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> None:
    """Add ``y @ weight`` to rows [R, D] in their precision: [R, F] by [F, D], or [H, R, E] by [H, E, D] summed over heads."""
    if x.dtype != y.dtype:
        x.add_(y @ weight if y.dim() == 2 else y.transpose(0, 1).flatten(1) @ weight.flatten(0, 1))
    elif y.dim() == 2:
        x.addmm_(y, weight)
    else:
        x.addbmm_(y, weight)


def rms_norm(x: torch.Tensor) -> torch.Tensor:
    """T5's layer norm without its weight."""
    return F.rms_norm(x, x.shape[-1:], None, 1e-6)


def project(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Multiply rows [M, D] by the heads' weights [H, D, E]; [H, M, E]."""
    return torch.bmm(x.to(weight.dtype).expand(len(weight), -1, -1), weight)
