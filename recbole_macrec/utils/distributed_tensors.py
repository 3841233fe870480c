"""Tensors of several processes that train one model: averaged gradients, divided batches, gathered rows.

Shapes: W processes, B rows of a batch, n rows of a process, N samples of the dataset.
"""
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.distributed as dist

from recbole_macrec.utils.distributed import Group, current_group


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes, in one exchange. A parameter without a gradient in any process
    keeps none."""
    trained = [p for p in parameters if p.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    known = torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device)
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), known])
    dist.all_reduce(flat)
    *sums, counts = flat.split([*(gradient.numel() for gradient in gradients), len(trained)])
    for p, gradient, total, count in zip(trained, gradients, sums, counts.tolist()):
        if count:
            p.grad = gradient.copy_(total.view_as(gradient) / dist.get_world_size())


def mean_over_processes(number: float) -> float:
    """The mean of ``number`` over the processes. If each process divides its loss by the mean of their numbers of samples, the
    mean gradient equals that of one process with all samples."""
    numbers = current_group().gather(number)
    return sum(numbers) / len(numbers)


class Share(NamedTuple):
    """The rows of a batch (or of all items) that this process computes."""

    rows: torch.Tensor
    sizes: list[int]  # number of rows of each process

    @classmethod
    def divide(cls, rows: torch.Tensor, group: Group) -> "Share":
        """Divide ``rows`` [B] into parts of nearly equal size. With fewer rows than processes, every process gets all rows."""
        if group.size == 1 or len(rows) < group.size:
            return cls(rows, [len(rows)])
        parts = rows.tensor_split(group.size)
        return cls(parts[group.rank], [len(part) for part in parts])

    @property
    def weight(self) -> float:
        """Weight of the mean over ``rows``, such that the mean over the processes equals the mean over all rows."""
        return len(self.rows) * len(self.sizes) / sum(self.sizes)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values [B, ...] of all rows in every process.

        The backward pass multiplies the gradient of a process's own rows by W. Averaged over the processes, which all compute
        the same loss from all rows, the gradient is exact.

        Args:
            values: [n, ...], the values of ``rows``.
        """
        return values if len(self.sizes) == 1 else _GatherRows.apply(values, self.sizes)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        begin = sum(sizes[: dist.get_rank()])
        ctx.own, ctx.processes = slice(begin, begin + len(values)), len(sizes)
        padded = values.new_zeros(max(sizes), *values.shape[1:])
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes)])

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        return gradient[ctx.own] * ctx.processes, None


def gather_in_order(rows: torch.Tensor, samples: int) -> torch.Tensor:
    """Gather the rows [n, ...] of all processes; see :func:`in_sample_order`. The result is the same in every process."""
    group = current_group()
    if group.size == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(group.size)]
    dist.all_gather(parts, rows.contiguous())
    return in_sample_order(parts, samples)


def in_sample_order(parts: list[torch.Tensor], samples: int) -> torch.Tensor:
    """Join the rows [n, ...] of each process in the order of the dataset, [N, ...].

    ``DistributedSampler`` assigns samples to processes in turn, and repeats the first samples to give every process the same
    number; repeated rows beyond N = ``samples`` are dropped.
    """
    return torch.stack(parts, dim=1).flatten(0, 1)[:samples]
