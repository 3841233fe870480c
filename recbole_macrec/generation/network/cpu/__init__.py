"""Network layers for CPUs: computed in parts that fit into the cache, with memory layouts for which the BLAS is fast.

The plain formulas in layers.py are the reference. Measured in fp32 with MKL on AVX-512: the gradient of a weight from
row-major activations runs at half the rate of the same product from transposed ones, batched products with a transposed
right side (Q K', dY V') at a fifth, and the softmax of fewer than 16 numbers at a tenth; operations on the activations of a
whole batch are limited by memory bandwidth. So these functions process a batch in parts and implement their own gradients.

Every kernel can be removed on its own: delete its module, its name in KERNELS and the branch of its layer.
``python -m recbole_macrec.benchmark kernels`` measures what each of them gains (docs/speed.md).
"""
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from recbole_macrec.generation.network.cpu.attention import attention
from recbole_macrec.generation.network.cpu.feed_forward import feed_forward
from recbole_macrec.generation.network.cpu.rms_norm import rms_norm

KERNELS = (
    "rms_norm",  # layers.RMSNorm
    "feed_forward",  # layers.FeedForward
    "attention",  # layers.Attention
    "dropout",  # dropout.dropout
    "hidden_parts",  # feed-forward layers of the decoders for search
)
HIDDEN_ROWS = 512  # rows of a part in the feed-forward layers of the decoders for search

_switched_off: set[str] = set()


def enabled(kernel: str) -> bool:
    """Whether ``kernel`` may be used: outside torch.compile, and if :func:`without` does not switch it off."""
    return not torch.compiler.is_compiling() and kernel not in _switched_off


def uses(kernel: str, x: torch.Tensor) -> bool:
    """Whether to compute with ``kernel``: for fp32 on a CPU, outside autocast and torch.compile."""
    if not enabled(kernel):
        return False
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


@contextmanager
def without(*kernels: str) -> Iterator[None]:
    """Compute with the plain layers instead of ``kernels``, in all threads; for measurements."""
    before = set(_switched_off)
    _switched_off.update(kernels)
    try:
        yield
    finally:
        _switched_off.clear()
        _switched_off.update(before)


def hidden_parts(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Split rows [R, D] for a feed-forward layer without gradient; on a CPU into parts whose hidden layer fits into the cache."""
    return x.split(HIDDEN_ROWS) if x.device.type == "cpu" and enabled("hidden_parts") else (x,)


__all__ = ["HIDDEN_ROWS", "KERNELS", "attention", "enabled", "feed_forward", "hidden_parts", "rms_norm", "uses", "without"]
