"""Round up the number of rows of matrix products, so that oneDNN compiles few kernels.

In bf16 on a CPU, oneDNN compiles a kernel for every new shape of a matrix product. That takes 1 to 20 ms, longer than most of
the products. The number of targets and of packed positions differs in every batch; rounded up, it has few values.
"""
import torch
import torch.nn.functional as F

MULTIPLE = 64


def missing_rows(rows: int, device: torch.device) -> int:
    """Rows to add to ``rows`` of a training pass for a multiple of 64; 0 unless products are computed in bf16 on a CPU."""
    rounds = device.type == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
    return -rows % MULTIPLE if rounds else 0


def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``F.linear`` of x [..., D] with a weight [K, D], in training of rows [n, D] computed for a rounded number of rows."""
    missing = missing_rows(len(x), x.device) if x.dim() == 2 else 0
    return F.linear(F.pad(x, (0, 0, 0, missing)), weight)[: len(x)] if missing else F.linear(x, weight)
