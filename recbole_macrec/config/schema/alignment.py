"""Options of the alignment between modalities."""
from typing import Annotated, Literal

from pydantic import Field

from recbole_macrec.config.schema.base import Flag, Fraction, NotNegative, Number, Options, option


class ExplicitOptions(Options):
    """Tasks between modalities (MQL4GRec, MACRec)."""

    explicit_alignment: Flag = option(True, "Train tasks between modalities, on histories and on single items", True)
    cross_task_ratio: Fraction = option(
        1.0,
        "Share of a batch's users, drawn anew, whose histories also train the tasks between modalities; not used with "
        "history: both",
        1.0,
    )
    history: Literal["single", "both"] = option(
        "single",
        "single: a history is read in one modality at a time; both: every item of it is written in all modalities, in random "
        "order (decoder-only network)",
        "single",
    )
    second_block_weight: NotNegative = option(
        0.5, "history: both: weight of the further modalities of a target, which are predicted also from its first one")
    item_task_ratio: NotNegative = option(
        0.25, "Items of the single-item tasks per target of the batch; 0: no such tasks", 0.075
    )


class ImplicitOptions(Options):
    """Implicit alignment (MACRec)."""

    lambda_implicit: NotNegative = option(0.01, "Weight of the implicit alignment; 0: without", 0.01)
    implicit_temperature: Annotated[Number, Field(ge=1e-4)] = option(0.1, "Temperature of its InfoNCE", 0.1)
