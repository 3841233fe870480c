"""torch's ModuleList and ModuleDict with the class of their modules, for type checkers, and buffers that are not stored."""
from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)

if TYPE_CHECKING:

    class ModuleList(nn.Module, Generic[M]):
        def __init__(self, modules: Iterable[M] = ...) -> None: ...
        def __getitem__(self, index: int) -> M: ...
        def __iter__(self) -> Iterator[M]: ...
        def __len__(self) -> int: ...

    class ModuleDict(nn.Module, Generic[M]):
        def __init__(self, modules: Mapping[str, M] = ...) -> None: ...
        def __getitem__(self, name: str) -> M: ...
        def __iter__(self) -> Iterator[str]: ...
        def __len__(self) -> int: ...
        def __contains__(self, name: str) -> bool: ...
        def keys(self) -> Iterable[str]: ...
        def values(self) -> ValuesView[M]: ...
        def items(self) -> ItemsView[str, M]: ...

else:
    ModuleList = nn.ModuleList

    class ModuleDict(nn.ModuleDict):
        """Also accepts the names of its own methods, such as ``items``, since a modality may have any name."""

        def add_module(self, name: str, module: nn.Module) -> None:
            self._modules[name] = module


def add_derived_buffer(module: nn.Module, name: str, values: np.ndarray) -> None:
    """Register ``values`` as a buffer that is computed from the dataset, so checkpoints do not contain it."""
    module.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values)), persistent=False)
