"""Several CPU cores at once: a lane is a thread that computes on one core, and parts of a batch go through the lanes.

Many small operators gain little from a second core each, since its threads wait for each other after every one; whole
parts of a batch side by side need no waiting. What a part computes does not depend on the number of lanes, and results
come back in order, so neither do sums over them.
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

Part, Result = TypeVar("Part"), TypeVar("Result")
_bits: ContextVar[np.random.BitGenerator | None] = ContextVar("bits", default=None)


def map_in_threads(function: Callable[[Part], Result], parts: Sequence[Part], device: torch.device) -> Iterator[Result]:
    """``function`` of every part, in order, with the caller's gradient mode and autocast.

    On CPU as many parts at once as torch has threads, each on one; elsewhere, and with one thread, one after the other.
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
    finally:  # an error, or a caller that stops early
        for future in waiting:
            future.cancel()


def _run(function: Callable[[Part], Result], gradients: bool, precision: torch.dtype | None, part: Part) -> Result:
    """In a thread both modes begin as torch's defaults."""
    with torch.set_grad_enabled(gradients), torch.autocast("cpu", precision, precision is not None, cache_enabled=False):
        return function(part)


@cache
def _thread_pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "lane", initializer=torch.set_num_threads, initargs=(1,))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _thread_pool.cache_clear())  # a fork has none of its parent's threads


@contextmanager
def drawing_from(seed: int):
    """Within it :func:`bits` is a generator of its own, so that lanes draw the same numbers in any order."""
    token = _bits.set(np.random.SFC64(seed))
    try:
        yield
    finally:
        _bits.reset(token)


def bits() -> np.random.BitGenerator:
    """What random bits on CPU are drawn from: outside of :func:`drawing_from` a new one, seeded by torch's."""
    return _bits.get() or np.random.SFC64(int(torch.randint(2**62, ())))
