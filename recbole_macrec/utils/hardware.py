"""Properties of the machine: free memory, bf16 arithmetic, and reuse of freed memory by the C library."""
import ctypes
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch

from recbole_macrec.errors import UserError, one_line

FORCED_BF16 = "RECBOLE_MACREC_BF16"  # environment variable that overrides has_fast_bf16: 1 or 0
# Control groups of versions 2 and 1: folder, files with limit and usage, and entry of memory.stat with the cache of files that
# can be freed.
CGROUPS = [
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
]
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # from glibc's malloc.h


def free_memory(device: torch.device) -> int:
    """Return the number of free bytes on ``device``."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    return min(psutil.virtual_memory().available, _free_in_group())


def _free_in_group() -> float:
    """Bytes left below the memory limit of the container or job, on Linux; infinity without a limit."""
    free = math.inf
    for folder, limit, usage, cache in CGROUPS:
        with suppress(OSError, ValueError, LookupError):  # no such file, or the limit "max"
            statistics = dict(line.split() for line in (Path(folder) / "memory.stat").read_text().splitlines())
            allowed, used = (int((Path(folder) / name).read_text()) for name in (limit, usage))
            free = min(free, allowed - used + int(statistics[cache]))
    return max(0, free)


def available_device(device: torch.device | str | None = None) -> torch.device:
    """Return ``device``, or by default a GPU if there is one.

    Raises:
        UserError: the device is unknown or unavailable.
    """
    try:
        return torch.empty(0, device=device or ("cuda" if torch.cuda.is_available() else "cpu")).device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = one_line(error, 100)
        raise UserError(f"device is {str(device)!r}, which is unavailable ({reason}); expected cpu, cuda or cuda:0.") from None


def peak_host_memory() -> int:
    """Return the peak memory of this process on the host, in bytes."""
    if psutil.WINDOWS:
        return psutil.Process().memory_info().peak_wset
    import resource

    unit = 1 if psutil.MACOS else 1024  # getrusage counts bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def has_fast_bf16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 run in hardware on ``device``.

    The environment variable ``RECBOLE_MACREC_BF16`` overrides the result: 0 for fp32, 1 for bf16 on any hardware (in tests).

    Raises:
        UserError: if the variable is neither 0 nor 1.
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


def resolve_precision(option: str, device: torch.device) -> str:
    """Resolve the option ``auto`` to ``bf16`` if the hardware supports it, otherwise ``fp32``; ``tf32``, a format of GPUs, is
    ``auto`` on a CPU. Return other values unchanged."""
    if option == "auto" or (option == "tf32" and device.type != "cuda"):
        return "bf16" if has_fast_bf16(device) else "fp32"
    return option


@contextmanager
def tf32_products(enabled: bool) -> Iterator[None]:
    """Compute fp32 matrix products on a GPU in TF32, whose factors have 10 bits after the binary point, if ``enabled``."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = enabled
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def autocast_to(precision: str, device: torch.device) -> torch.autocast:
    """Return a context that computes in ``precision`` (``fp32`` or ``bf16``), also inside another autocast context.

    Weights are cast at every use. Autocast's cache is shared by all threads, and any thread that leaves autocast empties it, so
    whether two uses of a weight add their gradients in bf16 or in fp32 would depend on the other threads.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)


def keep_freed_memory() -> bool:
    """Make glibc reuse freed memory of this process instead of requesting new pages for every large tensor.

    Page faults take about a third of a training step on CPU.

    Returns:
        Whether the C library accepted the setting; only glibc has it.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # one memory pool for all threads: glibc frees the pools of other threads regardless of the thresholds
    accepted = mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25)  # the maximum of older versions
    return all([accepted, mallopt(M_ARENA_MAX, 1), mallopt(M_TRIM_THRESHOLD, 2**31 - 1)])
