"""Training tasks of a generative model: which IDs are read, and which are generated."""
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from recbole_macrec.data.id_files import tokenization_name
from recbole_macrec.generation.network.windows import Windows


class Task(NamedTuple):
    """Read IDs of the source modality, generate an ID of the target modality."""

    source: str
    target: str


class SourceTasks(NamedTuple):
    """Tasks that read the same IDs: the source modality, and the modalities to generate from its hidden states."""

    source: str
    targets: list[str]


def group_by_source(tasks: Sequence[Task], prompt_per_task: bool) -> list[SourceTasks]:
    """The tasks of each source; every task alone if every task has its own prompt."""
    if prompt_per_task:
        return [SourceTasks(task.source, [task.target]) for task in tasks]
    sources = dict.fromkeys(task.source for task in tasks)
    return [SourceTasks(m, [task.target for task in tasks if task.source == m]) for m in sources]


def group_by_shape(sources: Sequence[SourceTasks], levels: Mapping[str, int]) -> list[list[SourceTasks]]:
    """Group the tasks of several sources by the lengths of their IDs; a group can go through a network together.

    Args:
        levels: name -> length of the IDs.
    """
    groups: dict[tuple, list[SourceTasks]] = {}
    for source, targets in sources:
        shape = (levels[source], *((levels[target], target == source) for target in targets))
        groups.setdefault(shape, []).append(SourceTasks(source, targets))
    return list(groups.values())


def joined_rows(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join tensors [B, ...] of the same users to [B * len(parts), ...], the rows of a user next to each other."""
    return torch.stack(list(parts), dim=1).flatten(0, 1) if len(parts) > 1 else parts[0]


def split_by_tasks(windows: Windows, tasks: list[Task], cross_task_ratio: float) -> list[tuple[list[Task], Windows]]:
    """Assign sequence tasks to windows: a random share trains all tasks, the others only the tasks within a modality."""
    within = [task for task in tasks if task.source == task.target]
    users = len(windows.length)
    count = random_count(cross_task_ratio, users) if len(within) < len(tasks) else users
    if count >= users:
        return [(tasks, windows)]
    drawn = torch.randperm(users)
    shares = [(tasks, drawn[:count]), (within, drawn[count:])]
    return [(subset, windows.select(rows.sort().values)) for subset, rows in shares if len(rows)]


def in_tokenization(tasks: Sequence[Task], number: int) -> list[Task]:
    """The tasks on the IDs of the tokenization ``number``."""
    return [Task(tokenization_name(task.source, number), tokenization_name(task.target, number)) for task in tasks]


def drawn_tokenizations(count: int, tokenizations: int) -> torch.Tensor:
    """Numbers of ``count`` tokenizations drawn at random, int64 [count]; with one tokenization nothing is drawn."""
    return torch.randint(tokenizations, (count,)) if tokenizations > 1 else torch.zeros(count, dtype=torch.long)


def split_by_tokenization(windows: Windows, tokenizations: int) -> list[tuple[int, Windows]]:
    """Draw a tokenization for every window; returns the windows of each drawn tokenization, with its number."""
    if tokenizations == 1:
        return [(0, windows)]
    drawn = drawn_tokenizations(len(windows.length), tokenizations)
    return [(number, windows.select((drawn == number).nonzero()[:, 0])) for number in drawn.unique().tolist()]


def random_count(share: float, total: int) -> int:
    """A whole number with mean ``share * total``: the product, rounded up or down at random.

    Rounding to the nearest number would leave out a small share of a small batch in every batch.
    """
    expected = round(share * total, 9)  # without rounding errors, so that a whole number draws nothing
    lower = math.floor(expected)
    return lower if expected == lower else lower + (torch.rand(()).item() < expected - lower)
