"""Encode images with CLIP, SigLIP, ViT, DINO and other vision models.

Shapes: N items, B images in a batch, T patches and special tokens, D width.
"""
from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recbole_macrec.data.encoders.base import Kind, RawItem, require_usable, without_image
from recbole_macrec.data.encoders.batches import Batches
from recbole_macrec.data.encoders.images import read_rgb, unusable_images
from recbole_macrec.data.encoders.pretrained import PretrainedEncoder
from recbole_macrec.data.encoders.source import ModelSource, load_model, transformers_major
from recbole_macrec.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Models whose first token represents the image. Their pooler is this token, or a head that many checkpoints lack.
FIRST_TOKEN = ("vit", "vit_msn", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit")


def reads_images(config: PretrainedConfig) -> bool:
    """Return whether a model with this configuration is a vision model or has a vision tower."""
    return any(hasattr(config, name) for name in ("vision_config", "image_size", "num_channels"))


class ImageModel(PretrainedEncoder):
    """Vision models, and the vision towers of models of images and texts.

    Pooling ``projected`` is ``get_image_features``: for CLIP, the embedding that is compared with texts, as in the published
    features. ``mean`` is over all tokens of the last layer.
    """

    kind: Kind = "image"
    version = 2
    poolings = ("projected", "pooler", "cls", "mean")
    unsupported_options = ("max_length", "batch_tokens")
    libraries = ("torch", "transformers", "pillow")

    @staticmethod
    def default_pooling(source: ModelSource) -> str:
        """Return ``projected`` if the model has it, else ``cls`` or ``pooler`` by the type of model."""
        if hasattr(source.config, "vision_config"):
            return "projected"
        return "cls" if source.config.model_type in FIRST_TOKEN else "pooler"

    @cached_property
    def _processor(self) -> Any:
        from transformers import AutoImageProcessor

        # Always resample with Pillow: features must not depend on whether torchvision is installed.
        pillow = {"backend": "pil"} if transformers_major() >= 5 else {"use_fast": False}
        return self.source.load(AutoImageProcessor, **pillow)

    @cached_property
    def _model(self) -> Any:
        model = load_model(self.source, self.dtype, self.device, unused=() if self.pooling == "pooler" else ("pooler",))
        if self.pooling == "projected":
            if not hasattr(model, "get_image_features"):
                raise self.pooling_error()
            return model
        return getattr(model, "vision_model", model)

    @cached_property
    def _batches(self) -> Batches:
        return Batches(self.options.batch_size or (256 if self.device.type == "cuda" else 16))

    def unusable(self, items: Sequence[RawItem]) -> dict[str, str]:
        return unusable_images(items)

    def encode(self, items: Sequence[RawItem], advance: Callable[[int], object] = lambda items: None) -> np.ndarray:
        """Return float32 [N, D]. See the base class."""
        require_usable(self.kind, without_image(items))
        features = []
        images = _prefetch(self._read, items, 2 * self._batches.size)
        while batch := list(islice(images, self._batches.size)):
            for part, pooled in self._batches.run(batch, self._pool):
                features.append(pooled.cpu().numpy())
                advance(len(part))
        return np.concatenate(features)

    def _read(self, item: RawItem) -> torch.Tensor:
        """Return the preprocessed image, [channels, height, width]."""
        return self._processor(images=read_rgb(item), return_tensors="pt")["pixel_values"][0]

    @torch.inference_mode()
    def _pool(self, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return float32 [B, D]."""
        if len({image.shape for image in batch}) > 1:
            raise UserError(f"the image processor of {self.source.model} gives images of different sizes; choose another model")
        images = torch.stack(list(batch)).to(self.device, self.dtype)
        if self.pooling == "projected":
            pooled = self._model.get_image_features(pixel_values=images)
            pooled = pooled if isinstance(pooled, torch.Tensor) else pooled.pooler_output
        else:
            output = self._model(pixel_values=images)
            if self.pooling == "pooler":
                pooled = getattr(output, "pooler_output", None)
            else:
                hidden = output.last_hidden_state  # [B, T, D]; [B, D, rows, columns] for convolutional models
                if hidden.dim() != 3:
                    raise self.pooling_error()
                pooled = hidden[:, 0] if self.pooling == "cls" else hidden.float().mean(1)
        if pooled is None:
            raise self.pooling_error()
        return pooled.float().flatten(1)


def _prefetch(read: Callable[[RawItem], torch.Tensor], items: Sequence[RawItem], window: int) -> Iterator[torch.Tensor]:
    """Yield ``read(item)`` for the items in order; threads read up to ``window`` items in advance."""
    remaining = iter(items)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        futures = deque(pool.submit(read, item) for item in islice(remaining, window))
        try:
            while futures:
                image = futures.popleft().result()
                futures.extend(pool.submit(read, item) for item in islice(remaining, 1))
                yield image
        finally:
            for future in futures:
                future.cancel()
