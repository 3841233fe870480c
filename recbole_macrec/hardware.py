"""What the machine offers: free memory, bf16 arithmetic, and a C library that can keep freed memory."""
import ctypes
import sys

import psutil
import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # from glibc's malloc.h


def free_memory(device: torch.device) -> int:
    """Bytes that are free on ``device``."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    return psutil.virtual_memory().available


def bf16_pays(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 run in hardware on ``device``."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def keep_freed_memory() -> bool:
    """Have glibc reuse freed memory of this process instead of faulting in fresh pages for every large tensor.

    Fresh pages cost about a third of a training step on CPU. Returns whether the C library took the setting (only
    glibc has it).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # threads share one pool: those that glibc makes for further threads are given back whatever the thresholds say
    kept = mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25)  # the most that older ones take
    return all([kept, mallopt(M_ARENA_MAX, 1), mallopt(M_TRIM_THRESHOLD, 2**31 - 1)])
