"""Presets of the contrastive part of the cross-modal RQ-VAE: values with their source and reason.

A preset only sets options that the configuration does not set (settings.py).
"""
from typing import Any, NamedTuple


class PresetValue(NamedTuple):
    """Value of an option in a preset, where it comes from, and why it was chosen."""

    value: Any  # con_layers: a slice of the layers 0 .. L-1
    source: str  # "paper": Zhang et al., arXiv 2511.15122; "released": its published code; "ours": this project
    why: str


PRESETS: dict[str, dict[str, PresetValue]] = {
    "paper": {
        "residual": PresetValue("detached", "paper", "according to the paper, L_con at layers 2 and 3 trains the encoders"),
        "con_layers": PresetValue(slice(-2, None), "paper", "the last two layers: 2 and 3 of 0..3"),
        "con_positives": PresetValue("pseudo_label", "paper", "items with the same pseudo-label in the other modality"),
        "lambda_con": PresetValue(0.1, "paper", "weight of L_con"),
        "lambda_align": PresetValue(0.001, "paper", "weight of L_align"),
        "commitment_weight": PresetValue(0.25, "paper", "alpha in L_rq"),
        "codes_epoch": PresetValue("last", "ours", "not given in the paper; one model gives the IDs of all modalities"),
    },
    "released": {
        "residual": PresetValue("straight_through", "released", "subtracts the straight-through output, so L_con and "
                                "the commitment term send no gradient past layer 0"),
        "con_layers": PresetValue(slice(None), "released", "the run script starts L_con at layer 0"),
        "con_positives": PresetValue("self", "released", "ids are compared as str and int: only the item itself matches, "
                                     "so L_con only repels"),
        "lambda_con": PresetValue(1.0, "released", "the command-line weight never reaches the model"),
        "lambda_align": PresetValue(1.0, "released", "the command-line weight never reaches the model"),
        "commitment_weight": PresetValue(0.25, "released", "as in the paper"),
        "codes_epoch": PresetValue("lowest_collision", "released", "each modality's IDs come from the checkpoint with "
                                   "the lowest collision rate of that modality"),
    },
    "default": {
        "residual": PresetValue("detached", "paper", "L_con reaches the encoder from any layer"),
        "con_layers": PresetValue(slice(0, 1), "ours", "at layers 2 and 3 L_con works against the reconstruction: many times "
                                  "the collisions on synthetic features"),
        "con_positives": PresetValue("pseudo_label", "paper", "items with the same pseudo-label in the other modality"),
        "lambda_con": PresetValue(0.03, "ours", "little loss in reconstruction and collisions on synthetic features"),
        "lambda_align": PresetValue(0.001, "paper", "weight of L_align"),
        "commitment_weight": PresetValue(0.25, "paper", "alpha in L_rq"),
        "codes_epoch": PresetValue("last", "ours", "one model gives the IDs of all modalities"),
    },
}
