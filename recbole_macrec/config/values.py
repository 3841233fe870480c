"""Refuses values that RecBole or torch would fail on later, one only after an epoch has been trained."""
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from recbole_macrec.errors import UserError, nearest

_LEAST = {
    "epochs": 0,
    "train_batch_size": 1,
    "eval_batch_size": 1,
    "eval_step": 0,
    "stopping_step": 0,
    "seed": 0,
    "worker": 0,
    "MAX_ITEM_LIST_LENGTH": 1,
    "valid_users": 1,
}


def check_whole(least: int, **values: Any) -> None:
    """Raise a UserError unless every value is a whole number from ``least``."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise UserError(f"{name} is {value!r}; expected a whole number, at least {least}.")


def check_number(least: float, most: float, **values: Any) -> None:
    """Raise a UserError unless every value is a number from ``least`` to ``most``."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not least <= value <= most:
            allowed = f", at least {least}" if most == math.inf else f" from {least} to {most}"
            raise UserError(f"{name} is {value!r}; expected a number{allowed}.")


def check_choice(choices: Sequence[str], **values: Any) -> None:
    """Raise a UserError unless every value is one of ``choices``."""
    for name, value in values.items():
        if value not in choices:
            raise UserError(f"{name} is {value!r}; expected {' or '.join(choices)}.{nearest(str(value), choices)}")


def check_flags(config: dict, defaults: dict) -> None:
    """Raise a UserError for a text where ``defaults`` has True or False: every text, "no" as well, would count as True."""
    for name, default in defaults.items():
        if isinstance(default, bool) and isinstance(config.get(name), str):
            raise UserError(f"{name} is {config[name]!r}; expected True or False.")


def check_values(config: dict) -> None:
    """Raise a UserError for the first value of ``config``, final but for RecBole's defaults, that can't be meant."""
    for name, least in _LEAST.items():
        if config.get(name) is not None:
            check_whole(least, **{name: config[name]})
    if config.get("learning_rate") is not None:
        check_number(0, math.inf, learning_rate=config["learning_rate"])


def check_valid_metric(config) -> None:
    """Raise a UserError where a training by ``config`` would choose its best epoch by a metric that is not measured."""
    if not config["epochs"] or not config["eval_step"]:
        return
    metrics, topk = (as_list(config[name]) for name in ("metrics", "topk"))
    known = [metric for metric in metrics if isinstance(metric, str)]
    known += [f"{metric}@{k}" for metric in known for k in topk]
    chosen = config["valid_metric"]
    if isinstance(chosen, str) and chosen.lower() not in [metric.lower() for metric in known]:
        shown = [metric for metric in known if "@" in metric] or known
        raise UserError(f"valid_metric is {chosen!r}, which is not measured; expected one of {', '.join(shown)} (metrics, topk).")


def as_list(value) -> list:
    """A value alone as a list of it, None as none."""
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
