"""Sequences of different lengths laid out one after the other, so that nobody pays for padding.

Legend: B users, S positions of the longest, M rows: the positions of all users.
"""
import math
from itertools import groupby
from typing import NamedTuple

import torch


class Source(NamedTuple):
    """What the encoder reads."""

    tokens: torch.Tensor  # int64 [M], user after user
    groups: list[tuple[int, int]]  # (users, positions each), in the order of the rows
    keep: torch.Tensor | None  # bool [M], False at padding; None where there is none


def pack(tokens: torch.Tensor, lengths: torch.Tensor, overhead: int = 0) -> Source:
    """Pack padded sequences.

    Args:
        tokens: int64 [B, S].
        lengths: int64 [B], how many of them count, at least 1. Sorted lengths make few groups. On the CPU, packing does not
            wait for the device of ``tokens``.
        overhead: what a further group costs, in positions: 0 pads nothing, more saves groups.
    """
    lengths = lengths.cpu()
    groups = merged_runs(lengths.tolist(), overhead)
    width = torch.cat([torch.full((users,), positions) for users, positions in groups])
    position = torch.arange(tokens.shape[1])
    packed = (position < width.unsqueeze(1)).flatten().nonzero()[:, 0]  # of the B * S tokens
    keep = None
    if not torch.equal(width, lengths):
        keep = (position < lengths.unsqueeze(1)).flatten()[packed].to(tokens.device)
    return Source(tokens.flatten().index_select(0, packed.to(tokens.device)), groups, keep)


def row_starts(groups: list[tuple[int, int]]) -> torch.Tensor:
    """The first row of every user of (users, rows each); int64 [B], on the CPU."""
    size = torch.cat([torch.full((users,), rows) for users, rows in groups])
    return size.cumsum(0) - size


def merged_runs(lengths: list[int], overhead: int) -> list[tuple[int, int]]:
    """Cut a row of lengths into groups (users, longest) of least total positions plus ``overhead`` for each group."""
    runs = [(len(list(run)), length) for length, run in groupby(lengths)]
    if not overhead:
        return runs
    best = [(0, 0)]  # least cost of the first i runs, and where their last group begins
    for i in range(1, len(runs) + 1):
        users, longest, options = 0, 0, []
        for begin in range(i - 1, -1, -1):
            users, longest = users + runs[begin][0], max(longest, runs[begin][1])
            options.append((best[begin][0] + users * longest + overhead, begin))
        best.append(min(options))
    groups, end = [], len(runs)
    while end:
        begin = best[end][1]
        groups.append((sum(n for n, _ in runs[begin:end]), max(length for _, length in runs[begin:end])))
        end = begin
    return groups[::-1]


def passes(lengths: torch.Tensor, budget: int, most: int | None = None, multiple: int = 1) -> list[torch.Tensor]:
    """Cut a batch into parts of about equally many positions.

    Args:
        lengths: int [B], positions of each user.
        budget: positions of a part; a part has more by less than its longest user.
        most: users of a part.
        multiple: of which the number of parts is one, users permitting, so that as many lanes end together.

    Returns:
        Index tensors that together hold every user once, shorter users first.
    """
    if not len(lengths):
        return []
    lengths, order = torch.sort(lengths, stable=True)
    ends = lengths.cumsum(0)
    count = multiple * math.ceil(int(ends[-1]) / (multiple * budget))
    part = (2 * ends - lengths) * count // (2 * ends[-1])  # where the middle of a user lies
    parts = order.split(part.unique_consecutive(return_counts=True)[1].tolist())
    return [rows for part in parts for rows in part.tensor_split(math.ceil(len(part) / (most or len(part))))]
