"""Item encoders: compute features from raw texts, images or interactions."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from recbole_macrec.data.encoders.base import Encoder, RawItem
from recbole_macrec.data.encoders.cooccurrence import Cooccurrence
from recbole_macrec.data.encoders.options import ModelOptions
from recbole_macrec.data.encoders.pixels import Pixels
from recbole_macrec.data.encoders.presets import PRESETS
from recbole_macrec.data.encoders.tfidf import Tfidf
from recbole_macrec.errors import UserError, nearest

ENCODERS: dict[str, Callable[[], Encoder]] = {"tfidf": Tfidf, "pixels": Pixels, "cooccurrence": Cooccurrence}


def encoder_of(encoders: Mapping[str, Any], modality: str) -> Any:
    """The value of the option ``encoders`` for a modality, None without; the modality ``cooccurrence`` needs no entry."""
    return encoders.get(modality, Cooccurrence.name if modality == Cooccurrence.name else None)


def reads_interactions(chosen: Any) -> bool:
    """Whether the encoder ``chosen``, a value of the option ``encoders``, reads the training interactions."""
    return chosen == Cooccurrence.name


def create_encoder(chosen: str | Mapping[str, Any], device: torch.device | str | None = None) -> Encoder:
    """Return a new encoder.

    Args:
        chosen: ``tfidf``, ``pixels``, ``cooccurrence``, a preset, or options of a pretrained model, such as
            ``{"model": "openai/clip-vit-large-patch14"}``; see :class:`ModelOptions`. The model's configuration decides
            whether it encodes texts or images.
        device: device of a pretrained model; None for the GPU if there is one, else the CPU.

    Raises:
        UserError: for unknown names or keys, with the nearest known one, and for unavailable models.
    """
    options = pretrained_options(chosen)
    if options is None:
        return ENCODERS[str(chosen)]()
    # Imported here, because importing transformers takes seconds and other encoders do not need it.
    from recbole_macrec.data.encoders.image_model import ImageModel, reads_images
    from recbole_macrec.data.encoders.source import find_model
    from recbole_macrec.data.encoders.text_model import TextModel

    source = find_model(options.model, options.revision)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return (ImageModel if reads_images(source.config) else TextModel)(options, source, device)


def pretrained_options(chosen: str | Mapping[str, Any]) -> ModelOptions | None:
    """The options of the pretrained model that ``chosen`` names, see :func:`create_encoder`; None if it names none.

    Raises:
        UserError: for unknown names or keys, with the nearest known one.
    """
    if isinstance(chosen, str) and chosen in ENCODERS:
        return None
    if isinstance(chosen, str) and chosen not in PRESETS:
        known = [*ENCODERS, *PRESETS]
        raise UserError(f"encoders names '{chosen}', which is unknown; expected {', '.join(sorted(known))}, or any model as "
                        f"{{model: HUB_NAME_OR_FOLDER}}.{nearest(chosen, known)}")
    if not isinstance(chosen, str | Mapping):
        raise UserError(f"encoders has the value {chosen!r}; expected a name such as tfidf, or {{model: HUB_NAME_OR_FOLDER}}")
    return ModelOptions.read({"model": chosen} if isinstance(chosen, str) else chosen)


__all__ = ["ENCODERS", "PRESETS", "Encoder", "ModelOptions", "RawItem", "create_encoder", "encoder_of", "pretrained_options",
           "reads_interactions"]
