"""Several processes: equal gradients, and figures that come out as on one process.

Legend: W processes, n rows of a process, N samples of the data set.
"""
from collections.abc import Iterable

import torch
import torch.distributed as dist


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes, in one exchange."""
    parameters = [p for p in parameters if p.requires_grad]
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for p, part in zip(parameters, flat.split([p.numel() for p in parameters])):
        p.grad.copy_(part.view_as(p))


def gather_in_order(rows: torch.Tensor, samples: int) -> torch.Tensor:
    """Rows of all processes in the order of the data set.

    ``DistributedSampler`` deals the samples out in turn and repeats the first ones until every process has as many.

    Args:
        rows: [n, ...], this process's rows.
        samples: N, so that the repeated ones can be dropped.

    Returns:
        [N, ...], the same on every process.
    """
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)[:samples]
