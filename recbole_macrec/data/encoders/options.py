"""The options of an encoder that runs a pretrained model, checked before anything is loaded."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from recbole_macrec.data.encoders.presets import PRESETS, preset
from recbole_macrec.errors import UserError, nearest

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class ModelOptions:
    """What ``encoders: {text: {model: ..., ...}}`` can say; None leaves the choice to the model and the machine."""

    model: str  # a preset, a hub name or a local folder
    revision: str | None = None  # branch, tag or commit on the hub
    pooling: str | None = None  # text: mean, cls, pooler; image: projected, pooler, cls, mean
    max_length: int | None = None  # most tokens of a text field; the rest is cut off
    batch_size: int | None = None  # most texts or images of a batch
    batch_tokens: int | None = None  # most tokens of a batch, padding counted
    precision: str = "auto"  # auto is fp32 on CPU; on GPU bf16, or fp16 where bf16 is not in hardware

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> ModelOptions:
        """Return the options, those of a preset filled in; UserError for unknown keys and impossible values."""
        known = [field.name for field in fields(cls)]
        for key in given:
            if key not in known:
                raise UserError(f"encoders has the key '{key}' beside the model, which is unknown; known are "
                                f"{', '.join(known)}.{nearest(str(key), known)}")
        model = given.get("model")
        if not isinstance(model, str) or not model:
            raise UserError(f"encoders has a mapping with model: {model!r}; give a preset ({', '.join(PRESETS)}), a hub name "
                            "such as sentence-transformers/all-MiniLM-L6-v2, or a local folder")
        chosen = {key: value for key, value in given.items() if value is not None}
        if model in PRESETS:
            chosen = {**preset(model), **chosen, "model": preset(model)["model"]}
        for key in ("max_length", "batch_size", "batch_tokens"):
            value = chosen.get(key, 1)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{key} of the encoder {model} is {value!r}; give a whole number from 1 on")
        if chosen.get("precision", "auto") not in PRECISIONS:
            raise UserError(f"precision of the encoder {model} is {chosen['precision']!r}; expected {', '.join(PRECISIONS)}."
                            f"{nearest(str(chosen['precision']), PRECISIONS)}")
        return cls(**chosen)
