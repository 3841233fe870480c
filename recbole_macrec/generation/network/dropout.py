"""Dropout, on a CPU with fast masks (cpu/dropout_mask.py)."""
import torch
import torch.nn.functional as F

from recbole_macrec.generation.network import cpu
from recbole_macrec.generation.network.cpu.dropout_mask import dropout_mask, dropped_per_256


def dropout(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """Drop elements of ``x`` with probability ``p`` while training."""
    if not training or p == 0:
        return x
    if x.device.type != "cpu" or not cpu.enabled("dropout"):
        return F.dropout(x, p)
    return x * dropout_mask(x.shape, dropped_per_256(p)).to(x.dtype)
