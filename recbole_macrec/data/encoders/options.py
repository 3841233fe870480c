"""Options of pretrained encoders, checked before a model is loaded."""
from collections.abc import Mapping
from typing import Any, Literal

from recbole_macrec.config.schema.base import Options, Positive, Text, option
from recbole_macrec.data.encoders.presets import PRESETS, preset
from recbole_macrec.errors import UserError


class ModelOptions(Options):
    """Options in ``encoders: {text: {model: ..., ...}}``; the default None depends on the model and the device."""

    model: Text = option("", "a preset, a hub name or a local folder")
    revision: Text | None = option(None, "branch, tag or commit on the hub (default: main)")
    pooling: Text | None = option(None, "texts: mean, cls or pooler; images: projected, pooler, cls or mean")
    max_length: Positive | None = option(None, "maximum number of tokens of a text field; the rest is cut off")
    batch_size: Positive | None = option(None, "maximum number of texts or images in a batch")
    batch_tokens: Positive | None = option(None, "maximum number of tokens in a batch, including padding")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "fp32, bf16, fp16 or auto (default): fp32 on a CPU; on a GPU bf16, or fp16 if it has no hardware support for "
        "bf16")

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "ModelOptions":
        """Return the options, with those of a preset filled in.

        Raises:
            UserError: for an unknown option or a wrong value.
        """
        chosen = {str(key): value for key, value in given.items() if value is not None}
        model = chosen.get("model")
        if not isinstance(model, str) or not model:
            raise UserError(
                f"encoders has a mapping with model: {model!r}; expected a preset ({', '.join(PRESETS)}), a hub name "
                "such as sentence-transformers/all-MiniLM-L6-v2, or a local folder"
            )
        if model in PRESETS:
            chosen = {**preset(model), **chosen, "model": preset(model)["model"]}
        try:
            return cls(**chosen)
        except UserError as error:
            raise UserError(f"The encoder {model}: {error}") from None
