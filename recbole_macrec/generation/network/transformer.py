"""T5-style encoder-decoder (Raffel et al., 2020) over users laid out one after the other.

Legend: B users, G groups of queries (target sequences in training, beams in search), T target positions, S source
positions, M rows (the positions of all users), H heads, D model width.

The users of a batch are not padded to one length: their rows follow each other (packing.py), and only attention looks
at where a user begins. Target sequences and beams of a user share the encoder's output, so nothing of the source is
copied.
"""
import torch
import torch.nn.functional as F
from torch import nn

from recbole_macrec.generation.network.dropout import dropout
from recbole_macrec.generation.network.layers import (
    CrossAttention,
    FeedForward,
    RelativeBias,
    RMSNorm,
    SelfAttention,
    TransformerSettings,
)
from recbole_macrec.generation.network.memory import Memory
from recbole_macrec.generation.network.packing import Source


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
        settings: the sizes; without encoder layers it is a decoder alone, of memories that are made elsewhere.
    """

    def __init__(self, vocabulary_size: int, settings: TransformerSettings = TransformerSettings()):
        super().__init__()
        self.settings = s = settings
        self.table = nn.Embedding(vocabulary_size, s.d_model)
        if s.encoder_layers:
            self.encoder_bias, self.encoder_norm = RelativeBias(s, bidirectional=True), RMSNorm(s.d_model)
        self.decoder_bias, self.decoder_norm = RelativeBias(s, bidirectional=False), RMSNorm(s.d_model)
        self.encoder = nn.ModuleList(EncoderLayer(s) for _ in range(s.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(s) for _ in range(s.decoder_layers))

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return dropout(self.table(tokens), self.settings.dropout, self.training)

    def encode(self, source: Source) -> Memory:
        """Read the source; every user keeps at least one position."""
        position = torch.arange(max(length for _, length in source.groups), device=source.tokens.device)
        bias = self.encoder_bias(position, position)  # [H, S, S]
        x = self.embed(source.tokens)
        for layer in self.encoder:
            x = layer.feed_forward(layer.self_attention(x, source.groups, bias, source.keep))
        hidden = dropout(self.encoder_norm(x), self.settings.dropout, self.training)
        return Memory(hidden, source.groups, source.keep)

    def decode(self, tokens: torch.Tensor, memory: Memory) -> torch.Tensor:
        """Teacher forcing.

        Args:
            tokens: int64 [B, G, T], each group beginning with its start token.

        Returns:
            Hidden states [B, G, T, D]; position t has seen the tokens up to t.
        """
        users, groups, length = tokens.shape
        position = torch.arange(length, device=tokens.device)
        future = position[None, :] > position[:, None]
        bias = self.decoder_bias(position, position).masked_fill(future, -torch.inf)  # [H, T, T]
        x = self.embed(tokens.flatten())  # [B*G*T, D]
        for layer in self.decoder:
            x = layer.self_attention(x, [(users * groups, length)], bias)
            x = layer.feed_forward(layer.cross_attention(x, memory, groups * length))
        x = dropout(self.decoder_norm(x), self.settings.dropout, self.training)
        return x.view(users, groups, length, -1)

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
