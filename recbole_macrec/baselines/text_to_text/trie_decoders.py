"""Trie search over the backbones: the beams of a user are further positions of one sequence, so they share the user's prompt.

A position of a beam attends to the prompt, to the positions of its own prefix and to itself. So keys and values are neither
copied nor reordered, whatever model they come from. ``beam_search`` and ``candidate_scores`` of generation/decoding walk the
trie.

Shapes: B users, S prompt positions, W prefixes (beams) of a user, P positions of earlier levels, F positions of the start of a
response, K codes of a level, H heads, E width of a head, D model width, V tokens.
"""
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from recbole_macrec.baselines.text_to_text.backbones import Backbone, CausalModel, EncoderDecoder, Prompts
from recbole_macrec.generation.decoding.trie import Trie

if TYPE_CHECKING:
    from transformers.models.t5.modeling_t5 import T5Attention


class Ancestors(NamedTuple):
    """Which earlier positions belong to each prefix."""

    mask: torch.Tensor | None  # bool [B, W, P]; None before the first level

    def extended(self, present: int, parent: torch.Tensor, groups: int) -> "Ancestors":
        """Select the prefixes to continue, after ``present`` positions were added.

        Args:
            present: 0 or ``groups``.
            parent: int64 [B, W'], which of a user's ``groups`` prefixes each new prefix continues.
        """
        if self.mask is None:
            mask = torch.zeros(*parent.shape, 0, dtype=torch.bool, device=parent.device)
        else:
            mask = self.mask.gather(1, parent.unsqueeze(-1).expand(-1, -1, self.mask.shape[2]))
        own = F.one_hot(parent, groups).bool()[..., :present]
        return Ancestors(torch.cat([mask, own], dim=2))

    def with_self(self) -> torch.Tensor:
        """Mask [B, W, P + W] of a step that adds a position for each prefix."""
        if self.mask is None:
            raise ValueError("no level is scored yet; score the levels in order, from 0")
        users, width, _ = self.mask.shape
        own = torch.eye(width, dtype=torch.bool, device=self.mask.device).expand(users, -1, -1)
        return torch.cat([self.mask, own], dim=2)


class TextTrieDecoder:
    """Scores the item tokens that may follow prefixes of a trie, as ``TrieDecoder`` does for the generative models.

    log P of a token is over the whole vocabulary of the backbone, as in its training, so the children of a prefix have a total
    probability below 1.

    Args:
        tokens: int64 [K], token of each code, for each level.
    """

    def __init__(self, backbone: Backbone, trie: Trie, tokens: Sequence[torch.Tensor]):
        self.backbone, self.trie, self.tokens = backbone, trie, tokens

    @staticmethod
    def empty_past() -> Ancestors:
        return Ancestors(None)

    def read(self, memory: Prompts):
        """Keys and values of the prompts, which :meth:`step` extends, and the state that predicts level 0."""
        raise NotImplementedError

    def step(self, level: int, nodes: torch.Tensor, source, past: Ancestors) -> tuple[torch.Tensor, int]:
        """Score the codes of ``level``.

        Args:
            nodes: int64 [B, W], nodes of level - 1, the prefixes; ignored at level 0, where the only prefix is empty.
            source: from :meth:`read`. The levels have to be scored in order.

        Returns:
            log P(code | prefix, history), float32 [B, W, K]; and the number of positions added for each user.
        """
        if level == 0:
            return self._log_probs(level, source.first), 0
        read = self.tokens[level - 1][self.trie.code(level - 1)[nodes].long()]  # [B, W]
        hidden = self._advance(self.backbone.embed(read), level, source, past.with_self())
        return self._log_probs(level, hidden), nodes.shape[1]

    def _advance(self, x: torch.Tensor, level: int, source, mask: torch.Tensor) -> torch.Tensor:
        """Hidden states [B, W, D] of one more position of each prefix, embedded as ``x`` [B, W, D].

        Args:
            mask: bool [B, W, P + W], the positions of all levels that a prefix attends to.
        """
        raise NotImplementedError

    def _log_probs(self, level: int, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.backbone.logits(hidden).float()  # [B, W, V]
        return logits[..., self.tokens[level]] - logits.logsumexp(-1, keepdim=True)


@dataclass
class DecoderSource:
    """Keys and values of T5's decoder for each layer."""

    cross: list[tuple[torch.Tensor, torch.Tensor]]  # of the prompt, [B, H, S, E]
    cross_mask: torch.Tensor  # [B, 1, 1, S], -inf at padding
    own: list[tuple[torch.Tensor, torch.Tensor]]  # of the response, [B, H, F + P, E]
    position: torch.Tensor  # int64 [F + P], in the response
    first: torch.Tensor | None = None  # [B, 1, D], the state that predicts level 0


class T5TrieDecoder(TextTrieDecoder):
    """Search over T5, layer by layer with its own weights.

    Args:
        start: the tokens that start every response, such as ``item_``.
    """

    def __init__(self, backbone: EncoderDecoder, trie: Trie, tokens: Sequence[torch.Tensor], start: Sequence[int]):
        super().__init__(backbone, trie, tokens)
        self.stack = backbone.model.get_decoder()
        self.start = torch.tensor([backbone.start, *start], device=trie.items.device)  # [F]

    def read(self, memory: Prompts) -> DecoderSource:
        cross, own = [], []
        for block in self.stack.block:
            attention = block.layer[1].EncDecAttention
            keys, values = (_heads(f(memory.embeddings), attention.n_heads) for f in (attention.k, attention.v))
            cross.append((keys, values))
            empty = keys[:, :, :0]
            own.append((empty, empty))
        padding = torch.zeros(memory.keep.shape, device=memory.device).masked_fill(~memory.keep, -torch.inf)
        source = DecoderSource(cross, padding[:, None, None], own, torch.zeros(0, dtype=torch.long, device=memory.device))
        place = torch.arange(len(self.start), device=memory.device)
        causal = (place <= place.unsqueeze(1)).expand(memory.users, -1, -1)
        x = self.backbone.embed(self.start).expand(memory.users, -1, -1)
        source.first = self._decode(x, place, source, causal)[:, -1:]
        return source

    def _advance(self, x: torch.Tensor, level: int, source: DecoderSource, mask: torch.Tensor) -> torch.Tensor:
        position = torch.full((x.shape[1],), len(self.start) + level - 1, device=x.device)
        begin = torch.ones(*mask.shape[:2], len(self.start), dtype=torch.bool, device=x.device)
        return self._decode(x, position, source, torch.cat([begin, mask], dim=2))

    def _decode(self, x: torch.Tensor, position: torch.Tensor, source: DecoderSource, mask: torch.Tensor) -> torch.Tensor:
        """Hidden states [B, Q, D] of Q new positions, whose keys and values are added to ``source``.

        Args:
            position: int64 [Q], of the new positions in the response.
            mask: bool [B, Q, F + P + Q].
        """
        source.position = torch.cat([source.position, position])
        bias = self._bias(position, source.position).masked_fill(~mask.unsqueeze(1), -torch.inf)  # [B, H, Q, F + P + Q]
        for i, block in enumerate(self.stack.block):
            own, cross = block.layer[0], block.layer[1]
            attention, normed = own.SelfAttention, own.layer_norm(x)
            new = (_heads(f(normed), attention.n_heads) for f in (attention.k, attention.v))
            keys, values = (torch.cat(pair, dim=2) for pair in zip(source.own[i], new))
            source.own[i] = keys, values
            x = x + _attend(attention, normed, keys, values, bias)
            x = x + _attend(cross.EncDecAttention, cross.layer_norm(x), *source.cross[i], source.cross_mask)
            x = block.layer[2](x)
        return self.stack.final_layer_norm(x)

    def _bias(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Relative position bias [1, H, Q, P] of T5's first decoder layer, which all layers share."""
        attention = self.stack.block[0].layer[0].SelfAttention
        bucket = attention._relative_position_bucket(
            key - query.unsqueeze(1),
            bidirectional=False,
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=attention.relative_attention_max_distance,
        )
        return attention.relative_attention_bias(bucket).permute(2, 0, 1).unsqueeze(0)


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, S, H * E] as [B, H, S, E]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attend(
    attention: "T5Attention", x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Output [B, Q, D] of one of T5's attentions; T5 does not scale its scores."""
    query = _heads(attention.q(x), attention.n_heads)
    y = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias.to(query.dtype), scale=1.0)
    return attention.o(y.transpose(1, 2).flatten(2))


@dataclass
class CausalSource:
    """The cache of a causal language model."""

    cache: object  # transformers' DynamicCache of S + P positions
    keep: torch.Tensor  # bool [B, S], False at the padding of the prompt
    first: torch.Tensor  # [B, 1, D], the state that predicts level 0


class CausalLMTrieDecoder(TextTrieDecoder):
    """Search over a causal language model, through its own forward pass with a mask and positions for each prefix."""

    def __init__(self, backbone: CausalModel, trie: Trie, tokens: Sequence[torch.Tensor]):
        super().__init__(backbone, trie, tokens)
        arguments = inspect.signature(backbone.model.base_model.forward).parameters
        self.check_length = backbone.check_length
        self.cache_argument = "cache" if "cache" in arguments else "past_key_values"  # renamed in transformers 5

    def read(self, memory: Prompts) -> CausalSource:
        from transformers import DynamicCache

        self.check_length(memory.keep.shape[1] + self.trie.levels)
        cache = DynamicCache()
        position = torch.arange(memory.keep.shape[1], device=memory.device).expand(memory.users, -1)
        hidden = self.backbone.model.base_model(
            inputs_embeds=memory.embeddings,
            attention_mask=memory.keep.long(),
            position_ids=position,
            use_cache=True,
            **{self.cache_argument: cache},
        ).last_hidden_state
        last = memory.keep.sum(1) - 1
        first = hidden[torch.arange(memory.users, device=memory.device), last].unsqueeze(1)
        return CausalSource(cache, memory.keep, first)

    def _advance(self, x: torch.Tensor, level: int, source: CausalSource, mask: torch.Tensor) -> torch.Tensor:
        prompt = source.keep.unsqueeze(1).expand(-1, x.shape[1], -1)
        allowed = torch.cat([prompt, mask], dim=2).unsqueeze(1)  # [B, 1, W, S + P + W]
        position = (source.keep.sum(1, keepdim=True) + level - 1).expand(-1, x.shape[1])
        return self.backbone.model.base_model(
            inputs_embeds=x,
            attention_mask=torch.zeros(allowed.shape, device=x.device, dtype=x.dtype).masked_fill(
                ~allowed, torch.finfo(x.dtype).min
            ),
            position_ids=position,
            use_cache=True,
            **{self.cache_argument: source.cache},
        ).last_hidden_state
