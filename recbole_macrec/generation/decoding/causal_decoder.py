"""Decoder-only network for search: decodes one position of many prefixes of a trie at a time.

It computes the same as :meth:`DecoderOnly.decode`, with norms and scales folded into the weights that follow them. The last
code of the history replaces the start token, so a step reads the code before the one it scores, also at level 0.

Shapes: B users, n users of a group, G prefixes (beams) of a user, R rows (the prefixes of all users), T target positions,
S source positions, H heads, E width of a head, D model width, K codes of a level.
"""
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch

from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.generation.decoding.trie_decoder import (
    LogProbs,
    TrieDecoder,
    add_product_,
    rms_norm,
    weight_cast,
)
from recbole_macrec.generation.network.decoder_only import CausalLayer, DecoderOnly
from recbole_macrec.generation.network.layers import padding_bias
from recbole_macrec.generation.network.memory import (
    AnyMemory,
    Memory,
    Past,
    RowLayout,
    SourceHeads,
    even_layouts,
)
from recbole_macrec.generation.network.rotary import Rotation
from recbole_macrec.generation.vocabulary import Vocabulary


class LayerWeights(NamedTuple):
    """Weights of a layer, input by output. The weights of the norms are folded into those that follow."""

    own: tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # query, key and value [D, H*E]
    out: torch.Tensor  # [H*E, D]
    up: torch.Tensor  # [D, F]
    down: torch.Tensor  # [F, D]

    @classmethod
    def of(cls, layer: CausalLayer, cast) -> "LayerWeights":
        attention, feed = layer.self_attention, layer.feed_forward
        own = (attention.query, attention.key, attention.value)
        query, key, value = (cast((linear.weight * attention.norm.weight).t().contiguous()) for linear in own)
        return cls(
            (query, key, value),
            cast(attention.out.weight.t().contiguous()),
            cast((feed.up.weight * feed.norm.weight).t().contiguous()),
            cast(feed.down.weight.t().contiguous()),
        )


class CausalTrieDecoder:
    """Scores the codes that may follow prefixes of a trie; :class:`TrieDecoder` for a decoder-only network.

    The weights are copied, so later changes of the network have no effect. Under autocast they are cast once.

    Args:
        network: the network to copy.
        trie: trie of the IDs of ``modality``.
        softmax_trie: trie of the trained items: the softmax is over the children of a prefix in it. None: over all codes of a
            level.
    """

    @torch.no_grad()
    def __init__(self, network: DecoderOnly, vocabulary: Vocabulary, modality: str, trie: Trie, softmax_trie: Trie | None):
        self.trie, self.log_probs = trie, LogProbs(trie, softmax_trie)
        self.heads, self.width = network.settings.num_heads, network.settings.d_kv
        cast = weight_cast(network.table.weight.device)
        self.layers = [LayerWeights.of(layer, cast) for layer in network.layers]
        self.offsets, self.table = vocabulary.offsets[modality], network.table.weight
        rows = [network.output.weight[o : o + k] for o, k in zip(self.offsets, vocabulary.sizes[modality])]
        self.codebooks = [cast((part * network.norm.weight).t().contiguous()) for part in rows]  # [D, K] each

    def empty_past(self) -> Past:
        """Empty cache, before the first position."""
        return Past.empty(len(self.layers))

    @torch.no_grad()
    def read(self, memory: AnyMemory) -> list[list[SourceHeads]]:
        """Keys and values of the history: layer -> group of users."""
        if isinstance(memory, Memory):
            raise TypeError("memory is the Memory of an encoder; expected the CausalMemory of a decoder-only network")
        counts = [n for n, _ in memory.groups]
        begins = list(zip(memory.token.split(counts), memory.position.split(counts)))
        keep: Sequence[torch.Tensor | None] = [None] * len(counts) if memory.keep is None else memory.keep
        masks = [m if m is None else padding_bias(m.view(*g)).squeeze(1) for m, g in zip(keep, memory.groups)]
        return [
            [
                SourceHeads(k.permute(1, 0, 3, 2).contiguous(), v.transpose(0, 1).contiguous(), mask, *begin)
                for k, v, mask, begin in zip(keys, values, masks, begins)
            ]
            for keys, values in memory.layers
        ]

    @torch.no_grad()
    def step(
        self,
        level: int,
        nodes: torch.Tensor,
        source: list[list[SourceHeads]],
        past: Past,
        layouts: list[RowLayout] | None = None,
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Score the codes of ``level``; see :meth:`TrieDecoder.step`."""
        layouts = layouts or even_layouts(source[0], nodes.shape[1])
        flat = nodes.flatten()
        tokens, positions = (
            torch.cat([layout.of_users(column) for layout, column in zip(layouts, columns)])
            for columns in zip(*(heads.begin for heads in source[0]))
        )
        if level:
            tokens = self.trie.code(level - 1)[flat].long() + self.offsets[level - 1]
        x, present = self.table.index_select(0, tokens), []  # [R, D]
        rotation = Rotation.at((positions + level).unsqueeze(1), self.width)  # [R, 1, E], broadcast over heads
        for i, (layer, heads) in enumerate(zip(self.layers, source)):
            x_norm = rms_norm(x).to(layer.out.dtype)
            q, k, v = ((x_norm @ weight).unflatten(1, (self.heads, -1)) for weight in layer.own)  # [R, H, E]
            q, k = (part.transpose(0, 1) for part in (rotation.rotate_queries(q), rotation.rotate_keys(k)))
            keys, values = zip(*past.layers[i], (k.transpose(0, 1).flatten(1), v.flatten(1)))
            y = self._attend(q, keys, values, [*past.rows, None], heads, layouts)
            add_product_(x, y, layer.out)
            present.append((keys[-1], values[-1]))
            add_product_(x, (rms_norm(x).to(layer.up.dtype) @ layer.up).relu_(), layer.down)
        logits = (rms_norm(x).to(self.codebooks[level].dtype) @ self.codebooks[level]).float()
        return self.log_probs(level, flat, logits).unflatten(0, nodes.shape), present

    def _attend(self, q: torch.Tensor, keys, values, rows, source: list[SourceHeads], layouts: list[RowLayout]) -> torch.Tensor:
        """Attention of each row to its user's history, to the codes of its prefix and to itself; [R, H*E].

        Args:
            q: [H, R, E], scaled.
            keys, values: [R', H*E] of each target position.
            rows: for each position, int64 [R], the row at that position that a query attends to; None for its own.
        """
        keys, values = (
            torch.stack([part if r is None else part.index_select(0, r) for part, r in zip(column, rows)], dim=1)
            .unflatten(2, (self.heads, -1))
            .permute(2, 0, 1, 3)  # [H, R, T, E]
            for column in (keys, values)
        )
        own = (keys * q.unsqueeze(2)).sum(-1)  # [H, R, T]
        out, begin = [], 0
        for (k, v, mask, *_), layout in zip(source, layouts):
            if not layout.rows:
                continue
            part = slice(begin, begin + layout.rows)
            begin += layout.rows
            across = layout.spread(q[:, part], k.shape[1]) @ k  # [H, n, G, S]
            if mask is not None:
                across = across + mask
            across = layout.packed(across)  # [H, rows, S]
            size = across.shape[2]
            share = torch.cat([across, own[:, part]], dim=-1).float().softmax(-1).to(v.dtype)
            y = layout.packed(layout.spread(share[..., :size], v.shape[1]) @ v)  # [H, rows, E]
            y = y + (share[..., size:].unsqueeze(-1) * values[:, part]).sum(2)
            out.append(y.transpose(0, 1).flatten(1))
        return torch.cat(out)


AnyTrieDecoder: TypeAlias = TrieDecoder | CausalTrieDecoder
