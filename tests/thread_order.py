"""Finds gradients that depend on the order in which threads reach them."""

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode


class NoSumsInThreadOrder(TorchDispatchMode):
    """Raises an AssertionError when several values are added to one place of a tensor by ``index_put`` with ``accumulate``.

    The gradient of ``table[index]`` does so. On a CPU its threads add large tensors in any order, so the last bits of the sum
    differ from run to run. ``F.embedding`` and ``index_select`` have the same gradient in a fixed order.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.overloadpacket.__name__ in ("index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"):
            accumulate = args[3] if len(args) > 3 else kwargs.get("accumulate", False)
            if accumulate:
                places = places_of(args[0].shape, args[1])
                assert len(np.unique(places)) == places.size, f"{function} adds to the same place of {tuple(args[0].shape)}"
        return function(*args, **kwargs)


def places_of(shape: torch.Size, indices: list[torch.Tensor | None]) -> np.ndarray:
    """The number of the place in the indexed dimensions that each index names."""
    named = [(index.numpy(), size) for size, index in zip(shape, indices) if index is not None]
    if any(index.dtype == bool for index, _ in named):
        return np.zeros(0)  # each place of a mask occurs once
    columns, sizes = zip(*named)
    return np.ravel_multi_index(np.broadcast_arrays(*columns), sizes, mode="wrap")
