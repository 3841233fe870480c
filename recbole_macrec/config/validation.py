"""Check the values of a RecBole configuration against the option schema."""
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from recbole.evaluator.register import metric_information

from recbole_macrec.config.registry import options_of
from recbole_macrec.config.schema.base import Options, as_list, shown
from recbole_macrec.config.schema.network import NetworkOptions
from recbole_macrec.errors import UserError


def check_values(config: dict, schema: type[Options]) -> None:
    """Check the options of ``config`` that ``schema`` declares. Numbers given as strings, such as "1e-3", become numbers, and
    tuples, as RecBole reads ``--topk=1,5,10``, become lists.

    Raises:
        UserError: a value is of the wrong type or out of range.
    """
    options = schema.read(config)
    for name in schema.model_fields:
        value, given = getattr(options, name), config.get(name)
        if (isinstance(given, str) and isinstance(value, float)) or (isinstance(given, tuple) and isinstance(value, list)):
            config[name] = value


def check_network_options(settings: Mapping[str, Any], model: str) -> None:
    """Check the options of ``settings``, those of a trained model, that determine its network.

    Options that are missing or None are not checked: they may be newer than the model.

    Raises:
        UserError: a value is of the wrong type or out of range, such as a width that does not fit into memory.
    """
    schema = options_of(model)
    if schema is not None:
        names = [name for name in NetworkOptions.model_fields if name in schema.model_fields]
        schema.read({name: settings[name] for name in names if settings.get(name) is not None})


def check_strings(config: dict, defaults: dict) -> None:
    """Raise a UserError for a string where ``defaults`` has True, False or a number.

    Any string, even "no", would count as True. A string such as "1e-3", which YAML does not read as a number, becomes a number.
    """
    for name, default in defaults.items():
        value = config.get(name)
        if not isinstance(value, str):
            continue
        if isinstance(default, bool):
            raise UserError(f"{name} is {shown(value)}; expected True or False.")
        if isinstance(default, int | float):
            try:
                number = float(value)
                config[name] = int(number) if isinstance(default, int) and number.is_integer() else number
            except ValueError:
                raise UserError(f"{name} is {shown(value)}; expected a number, such as {default}.") from None


def check_whole(least: int, **values: Any) -> None:
    """Raise a UserError unless every value is a whole number >= ``least``."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise UserError(f"{name} is {shown(value)}; expected a whole number >= {least}.")


def check_texts(tokens: Iterable[Any], start: str) -> None:
    """Raise a UserError, whose message begins with ``start``, for the first token that is no str."""
    if wrong := [token for token in tokens if not isinstance(token, str)]:
        raise UserError(f"{start} {wrong[0]!r} of type {type(wrong[0]).__name__}; give tokens as str, as in the atomic files.")


def computed_metrics(config) -> list[str]:
    """Return the names of the metrics that ``metrics`` and ``topk`` request, such as NDCG@10."""
    computed: list[str] = []
    for metric in (metric for metric in as_list(config["metrics"]) if isinstance(metric, str)):
        reads_first_k = not {"rec.items", "rec.topk"}.isdisjoint(metric_information.get(metric.lower(), ()))
        computed += [f"{metric}@{k}" for k in as_list(config["topk"])] if reads_first_k else [metric]
    return computed


def check_valid_metric(config) -> None:
    """Raise a UserError if ``valid_metric``, which selects the best epoch, is not computed."""
    if not config["epochs"] or not config["eval_step"]:
        return
    computed = computed_metrics(config)
    if not computed:
        metrics, topk = (as_list(config[name]) for name in ("metrics", "topk"))
        raise UserError(f"metrics is {metrics} and topk {topk}; name a metric, and a k for metrics of the first k.")
    chosen = config["valid_metric"]
    if isinstance(chosen, str) and chosen.lower() not in [metric.lower() for metric in computed]:
        raise UserError(
            f"valid_metric is {chosen!r}, which is not computed; expected one of {', '.join(computed)} (metrics, topk)."
        )
