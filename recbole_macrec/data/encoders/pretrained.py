"""What text and image encoders on Hugging Face transformers share."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
import torch

from recbole_macrec.data.encoders.base import RawItem
from recbole_macrec.data.encoders.options import ModelOptions
from recbole_macrec.data.encoders.source import Source
from recbole_macrec.errors import UserError, nearest
from recbole_macrec.utils.hardware import bf16_pays

SLOW_ON_CPU = 10**9  # parameters
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class PretrainedEncoder(ABC):
    """Features of an item by a pretrained model, from that item alone: they can be made shard by shard.

    Nothing is loaded before :meth:`encode`.
    """

    name = "transformers"
    kind: ClassVar[str]
    poolings: ClassVar[tuple[str, ...]]
    not_options: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1  # raise it when the same items would give other features
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers")  # whose versions the manifest records

    def __init__(self, options: ModelOptions, source: Source, device: torch.device) -> None:
        for key in self.not_options:
            if getattr(options, key) is not None:
                raise UserError(f"{key} is no option of {self.kind} models such as {options.model}; leave it out")
        self.pooling = options.pooling or self.default_pooling(source)
        if self.pooling not in self.poolings:
            raise UserError(f"pooling of the {self.kind} encoder {options.model} is {self.pooling!r}; expected "
                            f"{', '.join(self.poolings)}.{nearest(str(self.pooling), self.poolings)}")
        precision = options.precision
        if precision == "auto":
            precision = "fp32" if device.type != "cuda" else "bf16" if bf16_pays(device) else "fp16"
        self.options, self.source, self.device, self.dtype = options, source, device, DTYPES[precision]
        self.settings: dict[str, Any] = {**source.identity, "pooling": self.pooling, "precision": options.precision,
                                         "version": self.version}
        if "max_length" not in self.not_options:
            self.settings["max_length"] = options.max_length
        self.details = {"model": source.model, "revision": source.revision, "precision": precision,
                        "versions": {name: version(name) for name in self.libraries}}

    @property
    def run(self) -> Mapping[str, Any]:
        """What shards of one run share beside ``settings``: they are mixed with no others."""
        return {"revision": self.source.revision, "precision": self.details["precision"]}

    @staticmethod
    @abstractmethod
    def default_pooling(source: Source) -> str:
        """Return the pooling that suits the model."""

    @abstractmethod
    def unusable(self, items: Sequence[RawItem]) -> dict[str, str]:
        """Return item token -> why this encoder can make no features of it, such as ``empty text``."""

    @abstractmethod
    def encode(self, items: Sequence[RawItem], advance: Callable[[int], object] = lambda items: None) -> np.ndarray:
        """Return float32 [len(items), d]; raise UserError naming unusable items.

        Args:
            advance: told the number of items done since it was last called.
        """

    @property
    def slow_here(self) -> str | None:
        """What to warn of: a model of billions of parameters on a CPU, by the usual estimate 12 x layers x width^2."""
        config = getattr(self.source.config, f"{self.kind}_config", self.source.config)
        layers, width = (getattr(config, key, None) for key in ("num_hidden_layers", "hidden_size"))
        parameters = 12 * layers * width**2 if isinstance(layers, int) and isinstance(width, int) else 0
        if self.device.type != "cpu" or parameters < SLOW_ON_CPU:
            return None
        return (f"{self.source.model} has about {parameters / 1e9:.1f} billion parameters, and encoding a catalogue with it on a "
                f"CPU takes days; --encoders names lighter ones, such as minilm for text and clip-vit-l-14 for images")

    def no_pooling(self) -> UserError:
        """Return the error for a model without what the pooling reads."""
        return UserError(f"model {self.source.model} gives nothing for pooling: {self.pooling}; choose another of "
                         f"{', '.join(self.poolings)}, or another model")
