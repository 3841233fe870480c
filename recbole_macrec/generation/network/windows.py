"""Histories to rank from, and training sequences: one forward pass over a user's items predicts many of them.

Shapes: B users, N items of the longest history or window, P tokens before the first item, L levels of the source, T levels of a
target, S positions.
"""
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

import torch


class Histories(NamedTuple):
    """Histories of B users."""

    items: torch.Tensor  # int64 [B, N], padded with 0
    length: torch.Tensor  # int64 [B] on the CPU, number of items before the padding, at least 1
    users: torch.Tensor | None = None  # int64 [B], only for models that read the user

    def select(self, rows: torch.Tensor) -> "Histories":
        """The users in ``rows``, which is on the CPU, with the padding cut to the longest of them."""
        return _select(self, rows)


class Windows(NamedTuple):
    """Items of B users in time order. Item i is a target if ``first <= i < length``; its history is all items before it."""

    items: torch.Tensor  # int64 [B, N], padded with 0
    length: torch.Tensor  # int64 [B] on the CPU, at least 2
    first: torch.Tensor  # int64 [B] on the CPU, at least 1
    users: torch.Tensor | None = None  # int64 [B], only for models that read the user

    def select(self, rows: torch.Tensor) -> "Windows":
        """The users in ``rows``, which is on the CPU, with the padding cut to the longest of them."""
        return _select(self, rows)._replace(first=self.first[rows])

    def n_targets(self) -> int:
        """Number of targets."""
        return int((self.length - self.first).sum())

    def targets(self) -> tuple[torch.Tensor, torch.Tensor]:
        """User and index of every target, ordered by user; int64 [n] each, on the CPU."""
        place = torch.arange(self.items.shape[1])
        is_target = (place >= self.first.unsqueeze(1)) & (place < self.length.unsqueeze(1))
        user, index = is_target.nonzero(as_tuple=True)
        return user, index

    def target_items(self) -> torch.Tensor:
        """The targets' items, int64 [n], in the order of :meth:`targets`."""
        user, place = self.targets()
        return self.items.flatten().index_select(0, (user * self.items.shape[1] + place).to(self.items.device))


Users = TypeVar("Users", Histories, Windows)


def _select(users: Users, rows: torch.Tensor) -> Users:
    length, device_rows = users.length[rows], rows.to(users.items.device)
    items = users.items.index_select(0, device_rows)[:, : int(length.max())]
    numbers = None if users.users is None else users.users.index_select(0, device_rows)
    return users._replace(items=items, length=length, users=numbers)


def without_random_items(windows: Windows, probability: float) -> Windows:
    """Leave out each item of the windows with ``probability``, as history and as target.

    The last item, which is a target, and at least one item before it are kept.
    """
    place, last = torch.arange(windows.items.shape[1]), windows.length.unsqueeze(1) - 1
    kept = (torch.rand(windows.items.shape) >= probability) & (place < last)
    kept |= (place == last) | ((place == last - 1) & ~kept.any(1, keepdim=True))
    length = kept.sum(1)
    first = (kept & (place < windows.first.unsqueeze(1))).sum(1).clamp(min=1)
    order = (~kept).byte().argsort(dim=1, stable=True)[:, : int(length.max())]
    order, padding = (x.to(windows.items.device) for x in (order, place[: order.shape[1]] >= length.unsqueeze(1)))
    return Windows(windows.items.gather(1, order).masked_fill(padding, 0), length, first, windows.users)


class Target(NamedTuple):
    """The IDs of the items of B windows in one modality, as tokens."""

    tokens: torch.Tensor  # int64 [B, N, T]
    start: int  # the start token of an encoder-decoder
    own: bool  # whether it is the modality of the history


def decoder_input(tokens: torch.Tensor, start: int) -> torch.Tensor:
    """Input of a decoder that predicts ``tokens`` [..., T]: the start token, then all but the last one; [..., T]."""
    return torch.cat([torch.full_like(tokens[..., :1], start), tokens[..., :-1]], dim=-1)


class WindowLayout(NamedTuple):
    """The positions of a decoder-only pass: the items in order, with forks between them.

    A fork contains the first T - 1 codes of the next item in another modality. It attends to the history before that item and
    to itself. For L = T = 2 and three items a, b, c: start, a1 a2, fork(b1), b1 b2, fork(c1), c1.
    """

    column: torch.Tensor  # int64 [S], column in the concatenation of front, source and other modalities
    position: torch.Tensor  # int64 [S], rotary position: that of the code in a sequence without forks
    mask: torch.Tensor  # float32 [1, S, S], -inf where a position (row) must not attend to another (column)
    length: torch.Tensor  # int64 [N + 1], number of positions of a window of 0 .. N items
    states: list[torch.Tensor]  # for each target int64 [N, T], the positions that predict the codes of each item
    first_item: torch.Tensor  # int64 [L], the positions of the first item


@lru_cache(maxsize=256)
def window_layout(front: int, items: int, levels: int, first: int, targets: tuple[tuple[int, bool], ...]) -> WindowLayout:
    """Compute the layout of a forward pass.

    Args:
        front: P.
        items: N. The source has N items if a target is its own modality, else N - 1.
        levels: L.
        first: the smallest index of a target in any window.
        targets: (T, own) of each target modality.
    """
    column, position = list(range(front)), list(range(front))
    item_of, fork_of = [-1] * front, [-1] * front  # item and number of the fork (-1: none) of each position
    main = torch.zeros(items, levels, dtype=torch.long)  # positions of the codes outside forks
    states = [torch.zeros(items, size, dtype=torch.long) for size, _ in targets]
    length, fork = [0, front], 0
    own = any(same for _, same in targets)

    def add(from_column: int, at: int, item: int, in_fork: int = -1) -> int:
        """Append a position that reads the column ``from_column``; returns its number."""
        column.append(from_column)
        position.append(at)
        item_of.append(item)
        fork_of.append(in_fork)
        return len(column) - 1

    for place in range(items):
        begin = front + place * levels  # column and rotary position of the item's first code
        if place >= first:  # the forks that predict this item
            base = front + levels * (items if own else items - 1)  # first column of the other modalities
            for (size, same), state in zip(targets, states):
                state[place, 0] = main[place - 1, -1]
                if same:
                    continue
                for level in range(size - 1):
                    state[place, level + 1] = add(base + place * size + level, begin + level, place - 1, fork)
                base, fork = base + items * size, fork + 1
        for level in range(levels if place < items - 1 else levels - 1 if own else 0):
            main[place, level] = add(begin + level, begin + level, place)
        for (_, same), state in zip(targets, states):
            if same and place >= first:
                state[place, 1:] = main[place, :-1]
        if place:
            length.append(len(column) - (own and place < items - 1))  # nothing follows a window's last code
    order, item, branch = torch.arange(len(column)), torch.tensor(item_of), torch.tensor(fork_of)
    earlier = order.unsqueeze(1) >= order
    same_fork = (branch >= 0).unsqueeze(1) & (branch.unsqueeze(1) == branch)
    history = (branch < 0) & (item <= item.unsqueeze(1))
    visible = earlier & (same_fork | history)
    mask = torch.zeros(visible.shape).masked_fill(~visible, -torch.inf).unsqueeze(0)
    return WindowLayout(torch.tensor(column), torch.tensor(position), mask, torch.tensor(length), states, main[0])


def side_by_side(front: torch.Tensor, source: torch.Tensor, targets: Sequence[Target]) -> torch.Tensor:
    """Concatenate all tokens of B windows in the order of :attr:`WindowLayout.column`; int64 [B, ...]."""
    others = [target.tokens.flatten(1) for target in targets if not target.own]
    return torch.cat([front.expand(len(source), -1), source.flatten(1), *others], dim=1)
