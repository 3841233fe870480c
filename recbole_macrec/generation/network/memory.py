"""What encoder and decoder keep for each other and for later steps.

Legend: B users, n users of a group, G prefixes (beams) of a user, R rows (the prefixes of all users), S source positions,
M rows (the source positions of all users), H heads, E width of a head, D model width.
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
    """The target positions before, each prefix kept once however many continue it."""

    layers: list[list[tuple[torch.Tensor, torch.Tensor]]]  # layer -> position -> keys and values [R, H*E]
    rows: list[torch.Tensor]  # position -> int64 [R'], the row there of each prefix's beginning

    @classmethod
    def empty(cls, layers: int) -> "Past":
        """Before the first position."""
        return cls([[] for _ in range(layers)], [])

    def then(self, present: list[tuple[torch.Tensor, torch.Tensor]], parent: torch.Tensor, groups: int) -> "Past":
        """Add a position, and follow the prefixes that are continued.

        Args:
            present: each layer's keys and values of the position.
            parent: int64 [B, G'], which of a user's ``groups`` prefixes each new one continues.
        """
        user = torch.arange(len(parent), device=parent.device).unsqueeze(1)
        chosen = (user * groups + parent).flatten()
        layers = [[*old, new] for old, new in zip(self.layers, present)]
        return Past(layers, [*(rows.index_select(0, chosen) for rows in self.rows), chosen])
