"""Base class of text and image encoders with models of Hugging Face transformers."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
import torch

from recbole_macrec.data.encoders.base import Kind, RawItem
from recbole_macrec.data.encoders.options import ModelOptions
from recbole_macrec.data.encoders.source import ModelSource
from recbole_macrec.errors import UserError, nearest
from recbole_macrec.utils.hardware import has_fast_bf16

SLOW_ON_CPU = 10**9  # parameters
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class PretrainedEncoder(ABC):
    """Compute item features with a pretrained model, each item independently, so that shards can be encoded separately.

    The model is loaded on first use.
    """

    name = "transformers"
    kind: Kind
    poolings: ClassVar[tuple[str, ...]]
    unsupported_options: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1  # increase when the same items give other features
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers")  # versions recorded in the manifest

    def __init__(self, options: ModelOptions, source: ModelSource, device: torch.device) -> None:
        for key in self.unsupported_options:
            if getattr(options, key) is not None:
                raise UserError(f"{key} is not an option of {self.kind} models such as {options.model}; leave it out")
        self.pooling = options.pooling or self.default_pooling(source)
        if self.pooling not in self.poolings:
            raise UserError(f"pooling of the {self.kind} encoder {options.model} is {self.pooling!r}; expected "
                            f"{', '.join(self.poolings)}.{nearest(str(self.pooling), self.poolings)}")
        precision = options.precision
        if precision == "auto":
            precision = "fp32" if device.type != "cuda" else "bf16" if has_fast_bf16(device) else "fp16"
        self.options, self.source, self.device, self.dtype = options, source, device, DTYPES[precision]
        self.settings: dict[str, Any] = {**source.identity, "pooling": self.pooling, "precision": options.precision,
                                         "version": self.version}
        if "max_length" not in self.unsupported_options:
            self.settings["max_length"] = options.max_length
        self.details = {"model": source.model, "revision": source.revision, "precision": precision,
                        "versions": {name: version(name) for name in self.libraries}}

    @property
    def shard_settings(self) -> Mapping[str, Any]:
        """Further properties, in addition to ``settings``, that must be equal in all shards of a feature file."""
        return {"revision": self.source.revision, "precision": self.details["precision"]}

    @staticmethod
    @abstractmethod
    def default_pooling(source: ModelSource) -> str:
        """Return the default pooling for the model."""

    @abstractmethod
    def unusable(self, items: Sequence[RawItem]) -> dict[str, str]:
        """Return item token -> reason why the item cannot be encoded, such as ``empty text``."""

    @abstractmethod
    def encode(self, items: Sequence[RawItem], advance: Callable[[int], object] = lambda items: None) -> np.ndarray:
        """Return features, float32 [len(items), d]; raise UserError naming unusable items.

        Args:
            items: the items.
            advance: called with the number of items encoded since its last call.
        """

    @property
    def slow_warning(self) -> str | None:
        """Warning for a model with billions of parameters on a CPU, estimated as 12 x layers x width^2; else None."""
        config = getattr(self.source.config, f"{self.kind}_config", self.source.config)
        layers, width = (getattr(config, key, None) for key in ("num_hidden_layers", "hidden_size"))
        parameters = 12 * layers * width**2 if isinstance(layers, int) and isinstance(width, int) else 0
        if self.device.type != "cpu" or parameters < SLOW_ON_CPU:
            return None
        return (
            f"{self.source.model} has about {parameters / 1e9:.1f} billion parameters, and encoding a catalogue with it on a "
            f"CPU takes days; choose smaller models with --encoders, such as minilm for text and clip-vit-l-14 for images"
        )

    def pooling_error(self) -> UserError:
        """Return the error for a model that does not support the pooling."""
        return UserError(f"model {self.source.model} has no output for pooling: {self.pooling}; choose another of "
                         f"{', '.join(self.poolings)}, or another model")
