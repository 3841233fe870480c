"""Simulate a device without hardware: its tensors contain real numbers on the CPU, but no operator may mix them with CPU
tensors, and only listed functions may read them back.

PyTorch's fake tensors do not support the backward pass of a CUDA device in a build without CUDA, and have no values for a
search. Here every operator runs on the CPU, so results can be compared. The device is called ``meta``, the only one besides the
CPU that every build has.
"""
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
aten = torch.ops.aten
WAITS = {  # operators whose result or size depends on values, so the CPU waits for the device
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.is_nonzero, aten.equal, aten._unique2, aten.unique_dim,
    aten.unique_consecutive, aten.bincount,
}  # fmt: skip


class OnDevice(torch.Tensor):
    """A tensor of the simulated device; ``held`` is the CPU tensor with its values."""

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        form = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, device=DEVICE, **form)

    def __init__(self, held: torch.Tensor):
        self.held = held

    def __repr__(self) -> str:
        return f"OnDevice({self.held})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} outside of the simulation")


class Simulation(TorchDispatchMode):
    """Context manager in which ``device=DEVICE`` creates tensors of the simulated device.

    Args:
        may_wait: names of functions that may read from the device, themselves or in functions that they call.

    Attributes:
        waits: other places that read from the device.
    """

    def __init__(self, may_wait: Iterable[str]):
        super().__init__()
        self.may_wait = frozenset(may_wait)
        self.waits: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        ours = [x for x in tensors if isinstance(x, OnDevice)]
        target = kwargs.get("device")
        copies = function.overloadpacket in (aten._to_copy, aten.copy_)
        if ours and not copies and any(x.ndim for x in tensors if not isinstance(x, OnDevice)):
            raise RuntimeError(f"{function} of tensors on the device and on the CPU")
        if ours and self._waits(function.overloadpacket, args, kwargs):
            self._note(function)
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        held_args, held_kwargs = tree_map(held, (args, kwargs))
        out = function(*held_args, **held_kwargs)
        on_device = bool(ours) if target is None else torch.device(target).type == DEVICE.type
        if function.overloadpacket is aten.copy_:
            on_device = isinstance(args[0], OnDevice)
        if not on_device:
            return out
        out = tree_map(lambda x: OnDevice(x) if isinstance(x, torch.Tensor) else x, out)
        return return_and_correct_aliasing(function, args, kwargs, out) if ours else out

    def _waits(self, packet, args, kwargs) -> bool:
        if packet in WAITS:
            return True
        if packet is aten.repeat_interleave:
            return kwargs.get("output_size") is None
        if packet is aten._to_copy:
            return kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cpu"
        if packet is aten.copy_:
            return not isinstance(args[0], OnDevice)
        if packet in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
            return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
        return False

    def _note(self, function) -> None:
        frame, names = sys._getframe(2), []
        while frame:
            names.append(frame.f_code.co_name)
            if "recbole_macrec" in frame.f_code.co_filename and "tests" not in frame.f_code.co_filename:
                where = f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name}): {function}"
                names = [where, *names] if not names[0].startswith("/") else names
            frame = frame.f_back
        if self.may_wait.isdisjoint(names):
            self.waits.append(names[0])


class Constructors(TorchFunctionMode):
    """Create tensors of ``torch.tensor`` on the CPU and move them to the device, so that the simulation sees the move."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        device = kwargs.pop("device", None) if function in (torch.tensor, torch.as_tensor) else None
        made = function(*args, **kwargs)
        return made if device is None else made.to(device)


def held(x):
    return x.held if isinstance(x, OnDevice) else x


@contextmanager
def simulated(model: torch.nn.Module, may_wait: Iterable[str]) -> Iterator[Simulation]:
    """Move ``model`` to the device within the block; it is unusable afterwards."""
    with Simulation(may_wait) as simulation, Constructors():
        for module in model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    module._parameters[name] = torch.nn.Parameter(OnDevice(parameter.data), parameter.requires_grad)
            for name, buffer in list(module._buffers.items()):
                if buffer is not None:
                    module._buffers[name] = OnDevice(buffer)
        model.device = DEVICE
        yield simulation
