"""Lookups in trained tables with a reproducible gradient."""
import torch.nn.functional as F
from torch import Tensor


def rows_of(table: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` [...] of ``table`` [n] or [n, D]: [...] or [..., D].

    On a CPU the gradient of ``table[index]`` adds those of equal rows in the order in which threads reach them. The gradient of
    this function has the same bits each time, with any number of threads.
    """
    if table.ndim == 2:
        return F.embedding(index, table)
    return table.index_select(0, index.flatten()).view_as(index) if table.is_cpu else table[index]
