"""Options of the text-to-text models P5, VIP5 and LCRec."""
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import field_validator, model_validator

from recbole_macrec.config.schema.base import (
    Described,
    Dropout,
    FilePath,
    Fraction,
    Layers,
    Options,
    Positive,
    Text,
    Width,
    option,
)
from recbole_macrec.errors import UserError

VIP5_TASKS = ("next", "yes_no", "direct")
LCREC_TASKS = ("sequence", "text_to_item", "item_to_text", "mixed", "search", "preference")
FILE_TASKS = ("search", "preference")  # they read preference_file


def _names(allowed: tuple[str, ...]):
    return Described(f"a list of {', '.join(allowed)}")


class TextOptions(Options):
    """Backbone, item IDs and ranking."""

    backbone: Text = option(
        "tiny", "Language model: tiny (random weights, no download), a name on the Hugging Face hub, or a folder"
    )
    backbone_revision: Text | None = option(None, "Branch, tag or commit on the hub; None: main")
    item_index: Literal["cid", "codes", "random_digits"] = option(
        "cid",
        "ID of an item in the text: its path in the clusters of quantizer: cid, its semantic ID, or a random number in digits",
    )
    encoder_layers: Layers = option(2, "backbone: tiny: layers of the encoder")
    num_beams: Positive = option(20, "Beams; at least the largest topk", 20)
    decode: Literal["beam"] = option("beam", "beam: beam search over the trie of the items' IDs")

    @model_validator(mode="after")
    def _check_index(self) -> "TextOptions":
        if self.item_index == "cid" and self.semantic_ids == "published":  # type: ignore[attr-defined]
            raise UserError("item_index is cid, which reads learnt clusters, but semantic_ids is published; set item_index to "
                            "codes.")
        return self


class VisualOptions(Options):
    """Visual tokens and adapters of VIP5."""

    visual_modality: Text = option("image", "Modality whose features become visual tokens", "image")
    visual_tokens: Positive = option(2, "Visual slots after each item", 2)
    adapter_width: Width | None = option(None, "Bottleneck of the adapters; None: an eighth of the backbone's width")
    vip5_tasks: Annotated[list[Literal[VIP5_TASKS]], _names(VIP5_TASKS)] = option(  # type: ignore[valid-type]
        ["next"], "Training tasks: the next item; whether a given item is the next one; the target among 100 listed items")

    @field_validator("vip5_tasks")
    @classmethod
    def _check_tasks(cls, value: list) -> list:
        if "next" not in value:
            raise UserError(f"vip5_tasks is {value}; expected next among them, as ranking generates the next item.")
        return value


class InstructionOptions(Options):
    """Tasks and trained weights of LCRec."""

    trained_weights: Literal["all", "lora"] = option(
        "all",
        "all, or lora: low-rank additions (package peft), the output table unless it is tied, and the added tokens",
        "all",
    )
    lora_rank: Positive = option(8, "Rank of the additions", 8)
    lora_alpha: Positive = option(32, "The additions are scaled by lora_alpha / lora_rank", 32)
    lora_dropout: Dropout = option(0.05, "Dropout before the additions", 0.05)
    lora_targets: Annotated[list[Text], Described("a list of names of layers")] = option(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], "Linear layers with additions")
    lcrec_tasks: Annotated[list[Literal[LCREC_TASKS]], _names(LCREC_TASKS)] = option(  # type: ignore[valid-type]
        ["sequence", "text_to_item", "item_to_text", "mixed"],
        "Training tasks: history to next ID; texts to ID; ID to texts; histories and texts mixed; search by an intention; "
        "preference",
    )
    item_task_ratio: Fraction = option(0.1, "Samples of text_to_item and of item_to_text per sample of sequence")
    mixed_task_ratio: Fraction = option(0.2, "Samples of mixed, of search and of preference per sample of sequence")
    text_tokens: Positive = option(64, "Maximum number of tokens of a title, description or preference")
    preference_file: FilePath | None = option(
        None, "JSON file for search and preference: {USER: {preferences: [TEXT], intentions: {ITEM: TEXT}}}")

    @model_validator(mode="after")
    def _check_tasks(self) -> "InstructionOptions":
        if "sequence" not in self.lcrec_tasks:
            raise UserError(
                f"lcrec_tasks is {self.lcrec_tasks}; expected sequence among them, as ranking continues a sequence."
            )
        if self.preference_file is None and set(self.lcrec_tasks) & set(FILE_TASKS):
            raise UserError(
                f"lcrec_tasks is {self.lcrec_tasks}, but preference_file is not set; set it to the file with the users' "
                f"preferences and intentions, or remove {' and '.join(FILE_TASKS)}."
            )
        if self.trained_weights == "lora" and find_spec("peft") is None:
            raise UserError(
                "trained_weights is lora, which needs the package peft: pip install -e '.[llm]' (or pip install "
                "peft), or set trained_weights to all."
            )
        return self
