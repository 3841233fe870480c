"""What the machine offers: free memory, bf16 arithmetic, and a C library that can keep freed memory."""
import ctypes
import os
import sys

import psutil
import torch

from recbole_macrec.errors import UserError

FORCED_BF16 = "RECBOLE_MACREC_BF16"  # environment variable: 1 or 0 is taken for the answer of bf16_pays
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # from glibc's malloc.h


def free_memory(device: torch.device) -> int:
    """Bytes that are free on ``device``."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    return psutil.virtual_memory().available


def peak_host_memory() -> int:
    """The most bytes of the machine's memory that this process has held so far."""
    if psutil.WINDOWS:
        return psutil.Process().memory_info().peak_wset
    import resource

    unit = 1 if psutil.MACOS else 1024  # getrusage counts bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def bf16_pays(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 run in hardware on ``device``.

    The environment variable ``RECBOLE_MACREC_BF16`` overrides it: 0 keeps ``auto`` at fp32, 1 lets tests run in bf16 anywhere.

    Raises:
        UserError: when the variable is neither 0 nor 1.
    """
    if forced := os.environ.get(FORCED_BF16):
        if forced not in ("0", "1"):
            raise UserError(f"The environment variable {FORCED_BF16} is {forced!r}; expected 0 or 1.")
        return forced == "1"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def chosen_precision(option: str, device: torch.device) -> str:
    """``fp32`` or ``bf16`` for an option that is one of these or ``auto``, which is bf16 where it runs in hardware."""
    return ("bf16" if bf16_pays(device) else "fp32") if option == "auto" else option


def computing_in(precision: str, device: torch.device) -> torch.autocast:
    """A context that computes in ``precision``, ``fp32`` or ``bf16``, whatever the context around it.

    Weights are cast at every use: the cache of casts is shared by all threads, and whichever leaves autocast empties it.
    Whether two uses of a weight add their gradients in bf16 or in fp32 would depend on the other threads.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)


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
