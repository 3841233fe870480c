"""The decoder laid out for search: one position of many prefixes of a trie at a time.

With the weights of a Transformer it computes the same, from fewer numbers: norms and scales are folded into the weights
behind them, which lie as the products want them; and since the first layer's self-attention reads nothing of the user,
it is done once for a prefix, not for every user who gets there.

Legend: B users, n users of a group, G prefixes (beams) of a user, R rows (the prefixes of all users), T target positions,
S source positions, H heads, E width of a head, D model width, K codes of a level.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F

from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.generation.network import cpu
from recbole_macrec.generation.network.layers import padding_bias
from recbole_macrec.generation.network.memory import Layout, Memory, Past, SourceHeads, even_layouts
from recbole_macrec.generation.network.transformer import DecoderLayer, Transformer
from recbole_macrec.generation.vocabulary import Vocabulary

TABULATED = 2**17  # prefixes of a level of which a table is kept at most: 64 MB at D = 128
AT_ONCE = 2**12  # prefixes that pass the first layer together


class LayerWeights(NamedTuple):
    """A layer's weights, input by output; the norms' weights are in those behind them."""

    own: tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # query, key and value of self-attention [D, H*E]
    own_out: torch.Tensor  # [H*E, D]
    query: torch.Tensor  # of cross-attention, [H, D, E]
    read: tuple[torch.Tensor, torch.Tensor]  # its key and value [H, D, E]
    out: torch.Tensor  # [H, E, D]
    up: torch.Tensor  # [D, F]
    down: torch.Tensor  # [F, D]

    @classmethod
    def of(cls, layer: DecoderLayer, cast) -> "LayerWeights":
        own, cross, feed = layer.self_attention, layer.cross_attention, layer.feed_forward

        def behind(weight: torch.Tensor, norm: torch.Tensor | None = None) -> torch.Tensor:
            return cast((weight if norm is None else weight * norm).t().contiguous())

        def of_heads(weight: torch.Tensor, norm: torch.Tensor | None = None) -> torch.Tensor:
            return behind(weight, norm).unflatten(1, (cross.heads, -1)).transpose(0, 1).contiguous()

        return cls(
            tuple(behind(f.weight, own.norm.weight) for f in (own.query, own.key, own.value)),
            behind(own.out.weight),
            of_heads(cross.query.weight, cross.norm.weight),
            (of_heads(cross.key.weight), of_heads(cross.value.weight)),
            behind(cross.out.weight).unflatten(0, (cross.heads, -1)),
            behind(feed.up.weight, feed.norm.weight),
            behind(feed.down.weight),
        )


class LogProbs:
    """Turns logits of the codes of a level into log P(code | prefix, history).

    Args:
        trie: whose prefixes are asked for.
        trained: the trie of the items that the network was trained on, over whose children the softmax runs; None: it runs
            over all codes of the level.
    """

    def __init__(self, trie: Trie, trained: Trie | None):
        self.trained, self.node = trained, None
        if trained is not None and trained is not trie:  # level -> the trained trie's node of each node, -1 for none
            self.node, node = [], None
            for level in range(trie.levels - 1):
                if level:
                    node = node[trie.above(level - 1, torch.arange(trie.size(level), device=node.device))]
                node = trained.child(level, node, trie.code(level).long())
                self.node.append(node)

    def __call__(self, level: int, nodes: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [R, K] after prefixes, nodes [R] of level - 1; at level 0 they are not read."""
        if self.trained is None:
            return logits.log_softmax(dim=-1)
        if level and self.node:
            nodes = self.node[level - 1][nodes].clamp(min=0)  # the codes after unknown prefixes are scored by their prior
        return logits - self.trained.log_normaliser(level, nodes, logits).unsqueeze(-1)


def autocast_to(device: torch.device):
    """A function that casts weights to the precision of autocast, if it is on."""
    precision = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    return lambda weight: weight if precision is None else weight.to(precision)


class TrieDecoder:
    """Scores the codes that may follow prefixes of a trie; for search, without dropout and without gradients.

    The weights are copied, so it serves as long as they do not change.

    Args:
        network: its weights; under autocast they are cast once.
        trie: of the IDs of ``modality``.
        visits: about how many prefixes of a level will be asked for. A level with fewer prefixes is tabulated.
        trained: the trie whose children a softmax runs over; None for all codes of a level.
    """

    @torch.no_grad()
    def __init__(
        self,
        network: Transformer,
        vocabulary: Vocabulary,
        modality: str,
        trie: Trie,
        visits: int = TABULATED,
        trained: Trie | None = None,
    ):
        self.trie, self.log_probs, self.tabulated = trie, LogProbs(trie, trained), min(visits, TABULATED)
        self.heads = network.settings.num_heads
        device = network.table.weight.device
        cast = autocast_to(device)
        self.layers = [LayerWeights.of(layer, cast) for layer in network.decoder]
        offsets, start = vocabulary.offsets[modality], vocabulary.start[modality]
        table, scale = network.table.weight, network.decoder_norm.weight * network.settings.d_model**-0.5
        codebooks = [table[offset : offset + size] for offset, size in zip(offsets, vocabulary.sizes[modality])]
        self.codebooks = [cast((codebook * scale).t().contiguous()) for codebook in codebooks]  # [D, K] each
        self.tokens = torch.cat([table[start : start + 1], *codebooks[:-1]])  # [V, D], those that are ever read
        # of each level but the last, the first code's place in ``tokens``
        self.first_token = torch.tensor(offsets[:-1], dtype=torch.long, device=device) - offsets[0] + 1
        position = torch.arange(len(offsets), device=device)
        self.bias = network.decoder_bias(position, position).permute(1, 2, 0)  # [T, T, H]
        normed = rms_norm(self.tokens)
        self.own = [normed @ weight for weight in self.layers[0].own]  # query, key and value of the first layer, [V, H*E]
        self.begun: dict[int, torch.Tensor] = {}  # level -> what ``_begin`` says of all its prefixes

    def before(self) -> Past:
        """Before the first position; the first layer keeps nothing, as its part is done by prefix."""
        return Past.empty(len(self.layers) - 1)

    @torch.no_grad()
    def read(self, memory: Memory) -> list[list[SourceHeads]]:
        """Keys and values of the source: layer -> group of users."""
        rows = [n * length for n, length in memory.groups]
        masks = [None] * len(rows) if memory.keep is None else memory.keep.split(rows)
        masks = [m if m is None else padding_bias(m.view(*g)).squeeze(1) for m, g in zip(masks, memory.groups)]
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
        layouts: list[Layout] | None = None,
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Score the codes of ``level``.

        Args:
            level: from 0.
            nodes: int64 [B, G], nodes of level - 1, the prefixes; at level 0 there is one, and what is given is not read.
                With ``layouts`` int64 [R], the prefixes of all users one user after the other.
            source: from :meth:`read`.
            past: the positions before, ``level`` of them.
            layouts: of each group of users, where they have different numbers of prefixes.

        Returns:
            log P(code | prefix, history), float32 [B, G, K] or [R, K], and for :meth:`Past.then` and :meth:`Past.follow`
            the keys and values of this position, rows first.
        """
        layouts = layouts or even_layouts(source[0], nodes.shape[1])
        x, present = self._first(level, nodes.flatten()), []  # [R, D]
        for i, (layer, heads) in enumerate(zip(self.layers, source)):
            if i:
                x_norm = rms_norm(x).to(layer.own_out.dtype)
                q, k, v = (x_norm @ weight for weight in layer.own)
                keys, values = zip(*past.layers[i - 1], (k, v))
                add_product_(x, self._along(q, keys, values, [*past.rows, None]), layer.own_out)
                present.append((k, v))
            self._add_across_(x, heads, layer, layouts)
            for part in x.split(cpu.HIDDEN_ROWS if x.device.type == "cpu" else len(x)):
                add_product_(part, (rms_norm(part) @ layer.up).relu_(), layer.down)
        logits = (rms_norm(x) @ self.codebooks[level]).float()
        return self.log_probs(level, nodes.flatten(), logits).unflatten(0, nodes.shape), present

    def _first(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """What the first layer's self-attention makes of prefixes, nodes [R] of level - 1; [R, D]."""
        if level == 0:
            return self._begin(nodes.new_zeros(1, 1)).repeat(len(nodes), 1)
        if self.trie.size(level - 1) > self.tabulated:
            return self._begin(self._tokens(level, nodes))
        if level not in self.begun:
            every = torch.arange(self.trie.size(level - 1), device=nodes.device)
            self.begun[level] = self._begin(self._tokens(level, every))
        return self.begun[level].index_select(0, nodes)

    def _tokens(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """The start token and the codes of prefixes, nodes [R] of level - 1, numbered as ``tokens``; [R, level + 1]."""
        codes = self.trie.path(level - 1, nodes) + self.first_token[:level]
        return torch.cat([codes.new_zeros(len(codes), 1), codes], dim=1)

    def _begin(self, tokens: torch.Tensor) -> torch.Tensor:
        """The first layer's self-attention at the end of prefixes [R, T]; [R, D]."""
        queries, keys, values = self.own
        length, out = tokens.shape[1], []
        for part in tokens.split(AT_ONCE):
            y = self._along(queries[part[:, -1]], [keys] * length, [values] * length, list(part.t()))
            out.append(self.tokens[part[:, -1]] + y @ self.layers[0].own_out)
        return torch.cat(out)

    def _along(self, q: torch.Tensor, keys: list, values: list, rows: list[torch.Tensor | None]) -> torch.Tensor:
        """Self-attention of the last of T positions.

        Args:
            q: [R, H*E].
            keys, values: of each position [R', H*E].
            rows: int64 [R] for each position, the rows there that a query attends to; None for its own.

        Returns:
            [R, H*E].
        """
        scores = [q * k if r is None else k.index_select(0, r).mul_(q) for k, r in zip(keys, rows)]
        scores = torch.stack([s.unflatten(1, (self.heads, -1)).sum(-1) for s in scores])  # [T, R, H]
        length = len(scores)
        p = (scores + self.bias[length - 1, :length].unsqueeze(1)).softmax(dim=0).to(q.dtype).unsqueeze(-1)
        y = None
        for share, v, r in zip(p, values, rows):
            v = (v if r is None else v.index_select(0, r)).unflatten(1, (self.heads, -1))  # [R, H, E]
            y = share * v if y is None else y.addcmul_(share, v)
        return y.flatten(1)

    def _add_across_(self, x: torch.Tensor, source: list[SourceHeads], layer: LayerWeights, layouts: list[Layout]) -> None:
        """Cross-attention of rows [R, D], added to them."""
        for rows, (keys, values, mask, *_), layout in zip(x.split([part.rows for part in layouts]), source, layouts):
            if not layout.rows:
                continue
            q = layout.spread(project(rms_norm(rows), layer.query), keys.shape[1])  # [H, n, G, E]
            scores = q @ keys  # [H, n, G, S]
            p = (scores if mask is None else scores.add_(mask)).softmax(dim=-1)
            add_product_(rows, layout.packed(p.to(values.dtype) @ values), layer.out)


def add_product_(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> None:
    """Add ``y @ weight`` to rows [R, D], in their precision: [R, F] by [F, D], or the sum over heads [H, R, E] by [H, E, D]."""
    if x.dtype != y.dtype:
        x.add_(y @ weight if y.dim() == 2 else y.transpose(0, 1).flatten(1) @ weight.flatten(0, 1))
    elif y.dim() == 2:
        x.addmm_(y, weight)
    else:
        x.addbmm_(y, weight)


def rms_norm(x: torch.Tensor) -> torch.Tensor:
    """T5's layer norm, its weight being elsewhere."""
    return F.rms_norm(x, x.shape[-1:], None, 1e-6)


def project(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Rows [M, D] by the heads' weights [H, D, E]; [H, M, E]."""
    return torch.bmm(x.to(weight.dtype).expand(len(weight), -1, -1), weight)
