"""Presets of the contrastive part of the cross-modal RQ-VAE, as data: what each value is, whose it is, and why.

A preset fills only options that the configuration leaves unset; an option that is set wins (settings.py).
"""
from typing import Any, NamedTuple


class PresetValue(NamedTuple):
    value: Any  # con_layers: a slice of the layers 0..L-1, whatever their number
    source: str  # "paper": Zhang et al., arXiv 2511.15122; "released": its published code; "ours": chosen here
    why: str


PRESETS: dict[str, dict[str, PresetValue]] = {
    "paper": {
        "residual": PresetValue("detached", "paper", "L_con at layers 2 and 3 is said to train the encoders"),
        "con_layers": PresetValue(slice(-2, None), "paper", "the last two: layers 2 and 3 of 0..3"),
        "con_positives": PresetValue("pseudo_label", "paper", "items with one pseudo-label in the other modality"),
        "lambda_con": PresetValue(0.1, "paper", "weight of L_con"),
        "lambda_align": PresetValue(0.001, "paper", "weight of L_align"),
        "commitment_weight": PresetValue(0.25, "paper", "alpha in L_rq"),
        "codes_epoch": PresetValue("last", "ours", "the paper does not say; one model gives the IDs of all modalities"),
    },
    "released": {
        "residual": PresetValue("straight_through", "released", "subtracts the straight-through output, so L_con and "
                                "the commitment term send no gradient past layer 0"),
        "con_layers": PresetValue(slice(None), "released", "the run script starts L_con at layer 0"),
        "con_positives": PresetValue("self", "released", "ids compared as str and int: only the item itself matches, "
                                     "so L_con is plain repulsion"),
        "lambda_con": PresetValue(1.0, "released", "the command-line weight never reaches the model"),
        "lambda_align": PresetValue(1.0, "released", "the command-line weight never reaches the model"),
        "commitment_weight": PresetValue(0.25, "released", "as in the paper"),
        "codes_epoch": PresetValue("lowest_collision", "released", "each modality's IDs come from the checkpoint with "
                                   "the lowest collision rate of that modality"),
    },
    "default": {
        "residual": PresetValue("detached", "paper", "L_con reaches the encoder from any layer"),
        "con_layers": PresetValue(slice(0, 1), "ours", "at layers 2 and 3 L_con works on what is left of an item, against the "
                                  "reconstruction: many times the collisions on stand-in features"),
        "con_positives": PresetValue("pseudo_label", "paper", "items with one pseudo-label in the other modality"),
        "lambda_con": PresetValue(0.03, "ours", "little cost in reconstruction and collisions on stand-in features"),
        "lambda_align": PresetValue(0.001, "paper", "weight of L_align"),
        "commitment_weight": PresetValue(0.25, "paper", "alpha in L_rq"),
        "codes_epoch": PresetValue("last", "ours", "one model gives the IDs of all modalities"),
    },
}
