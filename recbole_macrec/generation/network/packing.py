"""Packed sequences of different lengths, with little or no padding.

Shapes: B users, S positions of the longest user, M rows: the positions of all users.
"""
import math
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F

from recbole_macrec.utils.rounded_rows import missing_rows


class PackedSequences(NamedTuple):
    """Token sequences of several users, one after the other."""

    tokens: torch.Tensor  # int64 [M], packed by user
    groups: list[tuple[int, int]]  # (users, positions each), in the order of the rows
    keep: torch.Tensor | None  # bool [M], False at padding; None where there is none
    position: torch.Tensor  # int64 [M], the column of each row in the padded sequences


def pack(tokens: torch.Tensor, lengths: torch.Tensor, overhead: int = 0) -> PackedSequences:
    """Pack padded sequences.

    Args:
        tokens: int64 [B, S].
        lengths: int64 [B], number of tokens of each user, at least 1. Sorted lengths give few groups. If they are on the CPU,
            packing does not wait for the device of ``tokens``.
        overhead: cost of one more group, in positions. With 0 nothing is padded; with more there are fewer groups.
    """
    lengths = lengths.cpu()
    groups = group_lengths(lengths.tolist(), overhead)
    width = torch.cat([torch.full((users,), positions) for users, positions in groups])
    position = torch.arange(tokens.shape[1])
    packed = (position < width.unsqueeze(1)).flatten().nonzero()[:, 0]  # indices into the B * S tokens
    keep = None
    if not torch.equal(width, lengths):
        keep = (position < lengths.unsqueeze(1)).flatten()[packed].to(tokens.device)
    packed = packed.to(tokens.device)
    return PackedSequences(tokens.flatten().index_select(0, packed), groups, keep, packed % tokens.shape[1])


def with_rounded_rows(packed: PackedSequences) -> PackedSequences:
    """Append padding rows at the end, up to a multiple of 64 rows in bf16 training on a CPU; see
    :mod:`recbole_macrec.utils.rounded_rows`. No user attends to them."""
    missing = missing_rows(len(packed.tokens), packed.tokens.device)
    if not missing:
        return packed
    longest = max(positions for _, positions in packed.groups)
    lengths = [longest] * (missing // longest) + [missing % longest] * (missing % longest > 0)
    return PackedSequences(
        F.pad(packed.tokens, (0, missing)),
        packed.groups + [(1, length) for length in lengths],
        None if packed.keep is None else F.pad(packed.keep, (0, missing), value=True),
        torch.cat([packed.position, *map(torch.arange, lengths)]),
    )


def row_starts(groups: list[tuple[int, int]]) -> torch.Tensor:
    """First row of every user, int64 [B] on the CPU, for groups of (users, rows each)."""
    size = torch.cat([torch.full((users,), rows) for users, rows in groups])
    return size.cumsum(0) - size


def group_lengths(lengths: list[int], overhead: int) -> list[tuple[int, int]]:
    """Split a list of lengths into groups (users, longest) that minimize total positions plus ``overhead`` per group."""
    runs = [(len(list(run)), length) for length, run in groupby(lengths)]
    if not overhead:
        return runs
    best = [(0, 0)]  # for the first i runs: least cost, start of the last group
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


def split_batch(lengths: torch.Tensor, budget: int, max_users: int | None = None, multiple: int = 1) -> list[torch.Tensor]:
    """Split a batch into parts with about the same number of positions.

    Args:
        lengths: int [B], positions of each user.
        budget: positions of a part. A part may exceed it by less than its longest user.
        max_users: maximum number of users in a part.
        multiple: the number of parts is a multiple of this, if there are enough users. It keeps that many threads busy.

    Returns:
        Index tensors that together contain every user once, shorter users first.
    """
    if not len(lengths):
        return []
    lengths, order = torch.sort(lengths, stable=True)
    ends = lengths.cumsum(0)
    count = multiple * math.ceil(int(ends[-1]) / (multiple * budget))
    part = (2 * ends - lengths) * count // (2 * ends[-1])  # by the middle of each user's positions
    parts = order.split(part.unique_consecutive(return_counts=True)[1].tolist())
    return [rows for part in parts for rows in part.tensor_split(math.ceil(len(part) / (max_users or len(part))))]
