"""What encoder and decoder keep for each other and for later steps.

Legend: B users, n users of a group, G groups of queries (target sequences or beams), S source positions, M rows (the
positions of all users), H heads, E width of a head, D model width.
"""
from typing import NamedTuple

import torch


class Memory(NamedTuple):
    """What the encoder made of the source."""

    hidden: torch.Tensor  # [M, D]
    groups: list[tuple[int, int]]  # (users, positions each), as in Source
    keep: torch.Tensor | None  # bool [M], False at padding; None where there is none

    @property
    def users(self) -> int:
        return sum(users for users, _ in self.groups)


class SourceHeads(NamedTuple):
    """Keys and values of one group of users, made once for all steps of a search."""

    keys: torch.Tensor  # [H, n, E, S]
    values: torch.Tensor  # [H, n, S, E]
    mask: torch.Tensor | None  # -inf at padding, [n, 1, S]


class Past(NamedTuple):
    """The target positions before, each prefix kept once however many groups continue it."""

    layers: list[list[tuple[torch.Tensor, torch.Tensor]]]  # layer -> position -> keys [H, B, E, G], values [H, B, G, E]
    ancestors: list[torch.Tensor]  # position -> int64 [B or 1, G'], the group there that each of G' groups continues

    @classmethod
    def empty(cls, decoder_layers: int) -> "Past":
        """Before the first position."""
        return cls([[] for _ in range(decoder_layers)], [])

    def then(self, present: list[tuple[torch.Tensor, torch.Tensor]], parent: torch.Tensor) -> "Past":
        """Add what :meth:`Transformer.step` returned, and follow the groups that ``parent`` [B or 1, G'] names."""
        ancestors = [a.expand(len(parent), -1).gather(1, parent) for a in self.ancestors]
        return Past([[*old, new] for old, new in zip(self.layers, present)], [*ancestors, parent])

    def trimmed(self) -> "Past":
        """Without the prefixes before the first and behind the last that is continued."""
        layers, ancestors = [[] for _ in self.layers], []
        for position, ancestor in enumerate(self.ancestors):
            first, last = int(ancestor.min()), int(ancestor.max()) + 1
            ancestors.append(ancestor - first)
            for trimmed, layer in zip(layers, self.layers):
                keys, values = layer[position]
                trimmed.append((keys[..., first:last], values[..., first:last, :]))
        return Past(layers, ancestors)
