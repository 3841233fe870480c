"""Compute parts of a batch in several CPU threads.

Small operators gain little from a second core, because threads wait for each other after every operator. Threads that compute
whole parts of a batch do not. The result of a part does not depend on the number of threads. Results are returned in order, so
sums over them do not depend on it either.
"""
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import TypeVar

import numpy as np
import torch

Part = TypeVar("Part")
Result = TypeVar("Result")
_bits: ContextVar[np.random.BitGenerator | None] = ContextVar("bits", default=None)


def map_in_threads(function: Callable[[Part], Result], parts: Sequence[Part], device: torch.device) -> Iterator[Result]:
    """Yield ``function(part)`` for every part, in order, with the caller's gradient mode and autocast.

    On a CPU as many parts are computed at once as torch has threads, each in one thread. On other devices, and with one thread,
    they are computed one after the other.
    """
    count = min(torch.get_num_threads(), len(parts)) if device.type == "cpu" else 1
    if count < 2:
        yield from map(function, parts)
        return
    precision = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    run = partial(_run, function, torch.is_grad_enabled(), precision)
    waiting = [_thread_pool(torch.get_num_threads()).submit(run, part) for part in parts]
    try:
        while waiting:
            yield waiting.pop(0).result()
    finally:  # after an error, or if the caller stops early
        for future in waiting:
            future.cancel()


def _run(function: Callable[[Part], Result], gradients: bool, precision: torch.dtype | None, part: Part) -> Result:
    """Set gradient mode and autocast, which a new thread does not inherit."""
    with torch.set_grad_enabled(gradients), torch.autocast("cpu", precision, precision is not None, cache_enabled=False):
        return function(part)


@cache
def _thread_pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "part", initializer=torch.set_num_threads, initargs=(1,))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _thread_pool.cache_clear())  # threads do not exist in a forked process


@contextmanager
def seeded_bits(seed: int):
    """Seed :func:`random_bits` within the block, so that a part draws the same numbers in any thread."""
    token = _bits.set(np.random.SFC64(seed))
    try:
        yield
    finally:
        _bits.reset(token)


def random_bits() -> np.random.BitGenerator:
    """Return the random bit generator of :func:`seeded_bits`; outside of it a new one, seeded by torch's generator."""
    return _bits.get() or np.random.SFC64(int(torch.randint(2**62, ())))
