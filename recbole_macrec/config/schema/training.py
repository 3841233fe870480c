"""Options of our trainer, beside those of RecBole's."""
from typing import Literal

from pydantic import model_validator

from recbole_macrec.config.schema.base import Dropout, FilePath, Flag, Fraction, Options, Text, option
from recbole_macrec.config.schema.recbole import label_metrics
from recbole_macrec.errors import UserError

Precision = Literal["auto", "fp32", "bf16"]


class SequenceOptions(Options):
    """Changes of the training sequences."""

    item_dropout: Dropout = option(0.0, "Probability with which an item is left out of a training sequence", 0.0)


class RankedOptions(Options):
    """Checks of the options of models that are evaluated only by their rankings."""

    @model_validator(mode="after")
    def _check_rankings(self) -> "RankedOptions":
        if of_labels := label_metrics(self):
            raise UserError(
                f"metrics contains {of_labels[0]}, which is computed from the labels of samples, but this model is evaluated "
                "only by its rankings; choose metrics of rankings, such as Hit and NDCG."
            )
        return self


class TrainingOptions(RankedOptions):
    """Schedule and precision of the training."""

    training_preset: Text | None = option(
        None,
        "Set of options, properties/preset/MODEL-PRESET.yaml; none; None: the one named after the dataset, if it exists",
        "paper",
    )
    training: Literal["per_target", "per_user"] = option(
        "per_target",
        "per_target: each target with its own history; per_user: one pass over a user's sequence trains all its targets",
        "per_target",
    )
    scheduler: Literal["cosine", "linear", "constant"] = option(
        "cosine", "Learning rate after the warm-up; cosine, linear: to zero in the last epoch", "cosine")
    warmup_ratio: Fraction = option(0.01, "Share of all planned steps in which the learning rate rises linearly", 0.01)
    precision: Literal["auto", "fp32", "tf32", "bf16"] = option(
        "auto",
        "Precision of the training; auto: bf16 if the processor has it in hardware; tf32: fp32 with TF32 products on a GPU, "
        "auto on a CPU",
    )
    compile: Flag = option(False, "torch.compile for the feed-forward layers, on GPUs")
    resume: FilePath | None = option(None, "Checkpoint to resume from; saved/<name>.last.pth is that of the newest epoch")
