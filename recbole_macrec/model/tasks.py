"""Training tasks of a generative model: which IDs are read, and which are generated."""
from collections.abc import Sequence
from typing import NamedTuple

import torch

from recbole_macrec.data.id_files import tokenization_name
from recbole_macrec.generation.network.windows import Windows


class Task(NamedTuple):
    """Read IDs of the source modality, generate an ID of the target modality."""

    source: str
    target: str


def shared_passes(tasks: Sequence[Task], prompt_per_task: bool) -> list[tuple[str, list[str]]]:
    """Group tasks that share a forward pass, as (source, targets).

    Tasks of one source share a pass, unless every task has its own prompt.
    """
    if prompt_per_task:
        return [(task.source, [task.target]) for task in tasks]
    return [(m, [task.target for task in tasks if task.source == m]) for m in dict.fromkeys(task.source for task in tasks)]


def split_by_tasks(windows: Windows, tasks: list[Task], cross_task_ratio: float) -> list[tuple[list[Task], Windows]]:
    """Assign sequence tasks to windows: a random share trains all tasks, the others only the tasks within a modality."""
    within = [task for task in tasks if task.source == task.target]
    users = len(windows.length)
    count = round(cross_task_ratio * users) if len(within) < len(tasks) else users
    if count >= users:
        return [(tasks, windows)]
    drawn = torch.randperm(users)
    shares = [(tasks, drawn[:count]), (within, drawn[count:])]
    return [(subset, windows.rows(rows.sort().values)) for subset, rows in shares if len(rows)]


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
    return [(number, windows.rows((drawn == number).nonzero()[:, 0])) for number in drawn.unique().tolist()]
