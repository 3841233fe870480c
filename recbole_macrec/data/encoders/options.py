"""Options of pretrained encoders, checked before a model is loaded."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from recbole_macrec.data.encoders.presets import PRESETS, preset
from recbole_macrec.errors import UserError, nearest

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def described(default: Any, text: str) -> Any:
    """A field whose metadata has the help of its option."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class ModelOptions:
    """Options in ``encoders: {text: {model: ..., ...}}``; the default None depends on the model and the device."""

    model: str  # a preset, a hub name or a local folder
    revision: str | None = described(None, "branch, tag or commit on the hub (default: main)")
    pooling: str | None = described(None, "texts: mean, cls or pooler; images: projected, pooler, cls or mean")
    max_length: int | None = described(None, "maximum number of tokens of a text field; the rest is cut off")
    batch_size: int | None = described(None, "maximum number of texts or images in a batch")
    batch_tokens: int | None = described(None, "maximum number of tokens in a batch, including padding")
    precision: str = described("auto", "fp32, bf16, fp16 or auto (default): fp32 on a CPU; on a GPU bf16, or fp16 if it has no "
                                       "hardware support for bf16")

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> ModelOptions:
        """Return the options, with those of a preset filled in; UserError for unknown keys and invalid values."""
        known = [field.name for field in fields(cls)]
        for key in given:
            if key not in known:
                raise UserError(f"encoders has the unknown key '{key}' for this model; expected "
                                f"{', '.join(known)}.{nearest(str(key), known)}")
        model = given.get("model")
        if not isinstance(model, str) or not model:
            raise UserError(
                f"encoders has a mapping with model: {model!r}; expected a preset ({', '.join(PRESETS)}), a hub name "
                "such as sentence-transformers/all-MiniLM-L6-v2, or a local folder"
            )
        chosen = {key: value for key, value in given.items() if value is not None}
        if model in PRESETS:
            chosen = {**preset(model), **chosen, "model": preset(model)["model"]}
        for key in ("max_length", "batch_size", "batch_tokens"):
            value = chosen.get(key, 1)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{key} of the encoder {model} is {value!r}; expected an integer of at least 1")
        if chosen.get("precision", "auto") not in PRECISIONS:
            raise UserError(f"precision of the encoder {model} is {chosen['precision']!r}; expected {', '.join(PRECISIONS)}."
                            f"{nearest(str(chosen['precision']), PRECISIONS)}")
        return cls(**chosen)
