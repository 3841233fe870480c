"""Finds gradients that depend on the order in which threads reach them."""

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
                assert len(places.unique()) == places.numel(), f"{function} adds to the same place of {tuple(args[0].shape)}"
        return function(*args, **kwargs)


def places_of(shape: torch.Size, indices: list[torch.Tensor | None]) -> torch.Tensor:
    """The number of the place in the indexed dimensions that each index names."""
    columns = []
    for size, index in zip(shape, indices):
        if index is None:
            continue
        if index.dtype == torch.bool:
            return torch.zeros(0)  # each place of a mask occurs once
        columns.append((index % size, size))
    columns = list(zip(torch.broadcast_tensors(*[index for index, _ in columns]), [size for _, size in columns]))
    place = torch.zeros_like(columns[0][0])
    for index, size in columns:
        place = place * size + index
    return place
