"""Encoded histories and the cached keys and values of a search.

Shapes: B users, n users of a group, G prefixes (beams) of a user, R rows (the prefixes of all users), S source positions,
M rows (the source positions of all users), H heads, E width of a head, D model width.
"""
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch


class Memory(NamedTuple):
    """Output of the encoder."""

    hidden: torch.Tensor  # [M, D]
    groups: list[tuple[int, int]]  # (users, positions each), as in PackedSequences
    keep: torch.Tensor | None  # bool [M], False at padding; None where there is none

    @property
    def users(self) -> int:
        return sum(users for users, _ in self.groups)

    @property
    def device(self) -> torch.device:
        return self.hidden.device


class CausalMemory(NamedTuple):
    """Keys and values of B histories in a decoder-only network."""

    layers: list[tuple[list[torch.Tensor], list[torch.Tensor]]]  # keys and values of each group [n, H, S, E], keys rotated
    groups: list[tuple[int, int]]  # (users, positions each)
    keep: list[torch.Tensor] | None  # of each group bool [n*S], False at padding; None where there is none
    token: torch.Tensor  # int64 [B], the last code of a history, which has no keys and values
    position: torch.Tensor  # int64 [B], position of that code

    @property
    def users(self) -> int:
        return len(self.token)

    @property
    def device(self) -> torch.device:
        return self.token.device


AnyMemory: TypeAlias = Memory | CausalMemory


class SourceHeads(NamedTuple):
    """Keys and values of one group of users, computed once for all steps of a search."""

    keys: torch.Tensor  # [H, n, E, S]
    values: torch.Tensor  # [H, n, S, E]
    mask: torch.Tensor | None  # -inf at padding, [n, 1, S]
    token: torch.Tensor | None = None  # int64 [n], start of a decoder-only network: the last code of the history
    position: torch.Tensor | None = None  # int64 [n], position of that code

    @property
    def begin(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The last code of each history and its position, int64 [n] each; only in a decoder-only network."""
        if self.token is None or self.position is None:
            raise ValueError("the source has no last codes; it was read from the memory of an encoder-decoder network")
        return self.token, self.position

    def of(self, users: torch.Tensor) -> "SourceHeads":
        """Select users."""
        mask, token, position = (None if part is None else part[users] for part in self[2:])
        return SourceHeads(self.keys[:, users], self.values[:, users], mask, token, position)


class RowLayout(NamedTuple):
    """Assignment of rows to users within one group of users."""

    rows: int
    width: int  # G, maximum number of rows of a user
    slots: torch.Tensor | None = None  # int64 [rows], index of each row in [n * G]; None: every user has G rows, in order

    def spread(self, x: torch.Tensor, users: int) -> torch.Tensor:
        """Unpack rows [H, rows, E] to [H, n, G, E], with zeros for users with fewer than G rows."""
        if self.slots is not None:
            x = x.new_zeros(len(x), users * self.width, x.shape[2]).index_copy_(1, self.slots, x)
        return x.unflatten(1, (users, self.width))

    def of_users(self, x: torch.Tensor) -> torch.Tensor:
        """Repeat each user's entry of ``x`` [n] for the user's rows; [rows]."""
        return x.repeat_interleave(self.width) if self.slots is None else x[self.slots // self.width]

    def packed(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`spread`."""
        x = x.flatten(1, 2)
        return x if self.slots is None else x.index_select(1, self.slots)


def even_layouts(groups: Sequence[SourceHeads], width: int) -> list[RowLayout]:
    """Layouts of groups in which every user has ``width`` rows."""
    return [RowLayout(group.keys.shape[1] * width, width) for group in groups]


def packed_layouts(groups: Sequence[int], counts: Sequence[int], user: torch.Tensor) -> list[RowLayout]:
    """Layouts of packed rows, one per group.

    Args:
        groups: users of each group.
        counts: rows of each user, [B].
        user: int64 [R], the user of each row, ascending.
    """
    starts = np.cumsum([0, *counts[:-1]])
    rank = torch.arange(len(user), device=user.device) - torch.from_numpy(starts).to(user.device)[user]  # within the user
    layouts, first, row = [], 0, 0
    for users in groups:
        here = counts[first : first + users]
        rows, width = sum(here), max(here)
        part = slice(row, row + rows)
        layouts.append(RowLayout(rows, width, (user[part] - first) * width + rank[part]))
        first, row = first + users, row + rows
    return layouts


class Past(NamedTuple):
    """Keys and values of earlier target positions. Each prefix is stored once, however many prefixes continue it."""

    layers: list[list[tuple[torch.Tensor, torch.Tensor]]]  # layer -> position -> keys and values [R, H*E]
    rows: list[torch.Tensor]  # position -> int64 [R'], the row at that position that each prefix continues

    @classmethod
    def empty(cls, layers: int) -> "Past":
        """The state before the first position."""
        return cls([[] for _ in range(layers)], [])

    def extended(self, present: list[tuple[torch.Tensor, torch.Tensor]], parent: torch.Tensor, groups: int) -> "Past":
        """Add a position and select the prefixes to continue.

        Args:
            present: each layer's keys and values at the position.
            parent: int64 [B, G'], which of a user's ``groups`` prefixes each new prefix continues.
        """
        user = torch.arange(len(parent), device=parent.device).unsqueeze(1)
        chosen = (user * groups + parent).flatten()  # rows of the position
        layers = [[*old, new] for old, new in zip(self.layers, present)]
        return Past(layers, [*(rows.index_select(0, chosen) for rows in self.rows), chosen])
