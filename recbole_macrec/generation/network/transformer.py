"""T5-style encoder-decoder (Raffel et al., 2020, arXiv 1910.10683) over packed sequences.

Shapes: B users, G groups of queries (target sequences in training, beams in search), T target positions, S source
positions, M rows (the positions of all users), H heads, D model width.

The users of a batch are packed, not padded to one length (packing.py); only attention needs to know where a user begins.
Target sequences and beams of a user share the encoder's output, which is never copied.
"""
import torch
import torch.nn.functional as F
from torch import nn

from recbole_macrec.generation.network.dropout import dropout
from recbole_macrec.generation.network.layers import (
    CrossAttention,
    FeedForward,
    RelativeBias,
    SelfAttention,
    TransformerSettings,
    attention_masks,
    cross_groups,
    final_norm,
    own_groups,
    sinusoidal_encodings,
)
from recbole_macrec.generation.network.memory import AnyMemory, CausalMemory, Memory
from recbole_macrec.generation.network.packing import PackedSequences, pack, row_starts
from recbole_macrec.generation.network.windows import Target, Windows, decoder_input
from recbole_macrec.utils.modules import ModuleList


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention to the memory, and a feed-forward layer."""

    def __init__(self, s: TransformerSettings):
        super().__init__()
        self.self_attention, self.cross_attention, self.feed_forward = SelfAttention(s), CrossAttention(s), FeedForward(s)


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward layer."""

    def __init__(self, s: TransformerSettings):
        super().__init__()
        self.self_attention, self.feed_forward = SelfAttention(s), FeedForward(s)


class Transformer(nn.Module):
    """Encoder-decoder with a tied token table, by default with pre-norm layers and relative position bias.

    With the same weights it then computes the logits of ``transformers.T5ForConditionalGeneration`` (ReLU, tied table).

    Args:
        vocabulary_size: V.
        settings: the sizes; without encoder layers the network is only a decoder, and memories are computed elsewhere.
        causal: the encoder is causal over items: a code attends to the codes of its own and all earlier items.
    """

    def __init__(self, vocabulary_size: int, settings: TransformerSettings = TransformerSettings(), causal: bool = False):
        super().__init__()
        self.settings, self.causal = settings, causal
        s = settings
        self.table = nn.Embedding(vocabulary_size, s.d_model)
        if s.encoder_layers:
            self.encoder_bias, self.encoder_norm = RelativeBias(s, bidirectional=True), final_norm(s)
        self.decoder_bias = RelativeBias(s, bidirectional=False) if s.decoder_positions == "relative" else None
        self.decoder_norm = final_norm(s)
        self.encoder = ModuleList(EncoderLayer(s) for _ in range(s.encoder_layers))
        self.decoder = ModuleList(DecoderLayer(s) for _ in range(s.decoder_layers))

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return dropout(self.table(tokens), self.settings.dropout, self.training)

    def with_positions(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Add the encodings of positions 0 .. T - 1 to the embeddings [..., T, D] of the decoder's tokens, if it has such
        encodings."""
        if self.decoder_bias is not None:
            return embeddings
        return embeddings + sinusoidal_encodings(*embeddings.shape[-2:]).to(embeddings)

    def position_bias(self, length: int) -> torch.Tensor:
        """Bias [H, T, T] of the decoder's self-attention; 0, [1, T, T], if the embeddings contain the positions."""
        if self.decoder_bias is None:
            return self.table.weight.new_zeros(1, length, length)
        position = torch.arange(length, device=self.table.weight.device)
        return self.decoder_bias(position, position)

    def encode(self, source: PackedSequences, front: int = 0, levels: int = 1) -> Memory:
        """Encode the source. Every user needs at least one position.

        Args:
            front: P, positions before the first item.
            levels: L, positions of an item. Both are only used by a causal encoder.
        """
        position = torch.arange(max(length for _, length in source.groups), device=source.tokens.device)
        bias = self.encoder_bias(position, position)  # [H, S, S]
        if self.causal:
            place = (position - front).div(levels, rounding_mode="floor").clamp(min=-1)
            bias = bias.masked_fill(place > place[:, None], -torch.inf)
        x, masks = self.embed(source.tokens), attention_masks(own_groups(source.groups), bias, source.keep)
        for layer in self.encoder:
            x = layer.feed_forward(layer.self_attention(x, source.groups, masks))
        hidden = dropout(self.encoder_norm(x), self.settings.dropout, self.training)
        return Memory(hidden, source.groups, source.keep)

    def read(self, tokens: torch.Tensor, lengths: torch.Tensor, overhead: int = 0, front: int = 0, levels: int = 1) -> Memory:
        """Encode padded histories: tokens [B, S] of ``lengths`` [B]."""
        return self.encode(pack(tokens, lengths, overhead), front, levels)

    def decode(self, tokens: torch.Tensor, memory: AnyMemory) -> torch.Tensor:
        """Decode given sequences (teacher forcing).

        Args:
            tokens: int64 [B, G, T], each group starting with its start token.

        Returns:
            Hidden states [B, G, T, D]; position t depends on the tokens up to t.
        """
        if isinstance(memory, CausalMemory):
            raise TypeError("memory is a CausalMemory of a decoder-only network; expected the Memory of an encoder")
        users, groups, length = tokens.shape
        x = self._decode(tokens.flatten(0, 1), memory, [groups * length] * len(memory.groups))
        return x.view(users, groups, length, -1)

    def _decode(
        self, tokens: torch.Tensor, memory: Memory, queries: list[int], across: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Hidden states [R, T, D] of sequences [R, T].

        Args:
            queries: number of positions of a user, for each group.
            across: added to the scores of cross-attention, at least [1, Q, S].
        """
        position = torch.arange(tokens.shape[1], device=tokens.device)
        future = position[None, :] > position[:, None]
        bias = self.position_bias(tokens.shape[1]).masked_fill(future, -torch.inf)  # [H, T, T]
        x = dropout(self.with_positions(self.table(tokens)).flatten(0, 1), self.settings.dropout, self.training)  # [R*T, D]
        sequences = [(len(tokens), tokens.shape[1])]
        masks = attention_masks(own_groups(sequences), bias)
        cross_masks = attention_masks(cross_groups(queries, memory), across, memory.keep)
        for layer in self.decoder:
            x = layer.self_attention(x, sequences, masks)
            x = layer.feed_forward(layer.cross_attention(x, memory, queries, cross_masks))
        x = dropout(self.decoder_norm(x), self.settings.dropout, self.training)
        return x.view(*tokens.shape, -1)

    def window_states(
        self, front: torch.Tensor, source: torch.Tensor, windows: Windows, targets: list[Target], overhead: int = 0
    ) -> list[torch.Tensor]:
        """Hidden states that predict the codes of every target of B windows; the history is encoded once.

        With a causal encoder a window may have several targets: the target at index i attends to the items before i. With a
        bidirectional encoder the only target is the last item.

        Args:
            front: prompt tokens before the first item, int64 [P].
            source: tokens of the items in the modality of the history, int64 [B, N, L].
            windows: which items are targets.
            targets: the modalities to predict.
            overhead: see :func:`pack`.

        Returns:
            For each of ``targets`` [n, T, D], in the order of :meth:`Windows.targets`.
        """
        levels = source.shape[2]
        tokens = torch.cat([front.expand(len(source), -1), source[:, :-1].flatten(1)], dim=1)
        memory = self.read(tokens, len(front) + (windows.length - 1) * levels, overhead, len(front), levels)
        if self.causal:
            memory = memory._replace(keep=None)  # a target attends only to positions of its own history
        elif not torch.equal(windows.first, windows.length - 1):
            raise ValueError("with a bidirectional encoder only the last item of a window can be a target")
        return [self._target_states(memory, target, windows, len(front), levels) for target in targets]

    def _target_states(self, memory: Memory, target: Target, windows: Windows, front: int, levels: int) -> torch.Tensor:
        """Hidden states [n, T, D] of one modality's IDs of all targets."""
        first, size = int(windows.first.min()), target.tokens.shape[2]
        if self.causal:
            places = [(length - front) // levels - first + 1 for _, length in memory.groups]  # indices from ``first`` on
            starts = row_starts([(n, count) for (n, _), count in zip(memory.groups, places)])
            counts = torch.cat([torch.full((n,), count) for (n, _), count in zip(memory.groups, places)])
            user = torch.arange(memory.users).repeat_interleave(counts)
            place = first + torch.arange(len(user)) - starts[user]
            across = self._history_bias(first, max(places), size, front, levels, memory)
            target_user, target_place = windows.targets()
            rows = starts[target_user] + target_place - first
        else:
            places, across, rows = [1] * len(memory.groups), None, None
            user, place = torch.arange(memory.users), windows.length - 1
        index = (user * target.tokens.shape[1] + place).to(memory.device)
        tokens = decoder_input(target.tokens.flatten(0, 1).index_select(0, index), target.start)  # [R, T]
        hidden = self._decode(tokens, memory, [count * size for count in places], across)
        return hidden if rows is None else hidden.index_select(0, rows.to(memory.device))

    def _history_bias(self, first: int, places: int, size: int, front: int, levels: int, memory: Memory) -> torch.Tensor:
        """Mask [1, places * size, S]: -inf where a target, from index ``first`` on, must not attend to the source."""
        place = first + torch.arange(places, device=memory.device).repeat_interleave(size)
        source = torch.arange(max(length for _, length in memory.groups), device=memory.device)
        later = source >= front + place.unsqueeze(1) * levels
        return torch.zeros(later.shape, device=memory.device).masked_fill(later, -torch.inf).unsqueeze(0)

    def item_states(
        self, front: torch.Tensor, source: torch.Tensor, targets: list[Target]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Hidden states that predict the codes of B items in other modalities, and the mean state of an item's own codes.

        Args:
            source: tokens of the items, int64 [B, L].
            targets: the modalities to predict, tokens [B, T].

        Returns:
            For each of ``targets`` [B, T, D]; and [B, D].
        """
        items, levels = source.shape
        tokens = torch.cat([front.expand(items, -1), source], dim=1)
        memory = self.read(tokens, torch.full((items,), tokens.shape[1]), 0, len(front), levels)
        states = [self.decode(decoder_input(t.tokens, t.start).unsqueeze(1), memory)[:, 0] for t in targets]
        return states, memory.hidden.view(items, tokens.shape[1], -1)[:, len(front) :].mean(1)

    def logits(self, hidden: torch.Tensor, start: int = 0, size: int | None = None) -> torch.Tensor:
        """Scores [..., size] of the tokens ``start .. start + size - 1``; all of them by default."""
        weight = self.table.weight[start : None if size is None else start + size]
        return F.linear(hidden * self.settings.d_model**-0.5, weight)
