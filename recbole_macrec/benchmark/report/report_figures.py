"""The figures of a report.

Shapes: R test rows, K codes of a layer.
"""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from recbole_macrec.benchmark.compare.ranks import Ranks
from recbole_macrec.benchmark.compare.runs import Comparison, Run, file_name
from recbole_macrec.benchmark.compare.statistics import row_values
from recbole_macrec.benchmark.compare.table import Table, tested_metrics
from recbole_macrec.benchmark.figures import Drawing, Figure, Intervals
from recbole_macrec.benchmark.study.kinds import group_of, grouped_rows, means_and_deviations, over_seeds, range_texts
from recbole_macrec.benchmark.study.study import read_study

GROUPS = ("cold_items", "history_length")  # studies whose groups every report shows
SMALL = 0.72  # relative size of figures that a page has many of
NORMAL_95 = 1.959964  # the 97.5 % quantile of the standard normal distribution


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure with the name of its files, a caption, and its relative size in the page."""

    name: str
    drawing: Drawing
    caption: str
    scale: float = 1.0


def intervals(table: Table) -> list[CaptionedFigure]:
    """Return one figure per metric: the differences of the paired tests with their confidence intervals."""
    figures = []
    for metric in dict.fromkeys(test.metric for test in table.tests):
        rows = [(f"{t.first} − {t.second}", t.difference, t.low, t.high) for t in table.tests if t.metric == metric]
        caption = "Mean difference with its 95 % interval; right of 0 the first model is better."
        figures.append(
            CaptionedFigure(f"difference-{file_name(metric)}", Intervals(f"Difference in {metric}", metric, rows), caption)
        )
    return figures


def curves(comparison: Comparison, dataset: str) -> list[CaptionedFigure]:
    """Return validation metric and training loss per epoch, mean and standard deviation over the seeds."""
    runs = {label: [r for r in comparison.of(dataset, label) if r.curve] for label in comparison.labels}
    metric = next((_valid_metric(run) for of_label in runs.values() for run in of_label), None)
    if metric is None:
        return []
    spread = "Mean over the seeds; the band is one standard deviation."
    loss = "Loss relative to the first epoch, since losses of different models have different units. " + spread
    panels = [
        ("validation", f"Validation, {metric}", metric, spread, lambda curve: _valid(curve, metric)),
        ("loss", "Training loss", "loss / loss of epoch 1", loss, _relative_loss),
    ]
    return [
        CaptionedFigure(f"curve-{name}", figure, caption)
        for name, title, y, caption, read in panels if (figure := _curve(title, y, runs, read)) is not None
    ]  # fmt: skip


def _curve(title: str, y: str, runs: dict[str, list[Run]], read: Callable[[list[dict]], dict[int, float]]) -> Figure | None:
    points = {label: [read(run.curve) for run in of_label] for label, of_label in runs.items()}
    epochs = sorted({epoch for of_label in points.values() for seed in of_label for epoch in seed})
    if not epochs:
        return None
    figure = Figure(title, "epoch", y, [], at=[epoch + 1 for epoch in epochs])
    for label, of_label in points.items():
        figure.series[label] = means_and_deviations(over_seeds([seed.get(epoch) for seed in of_label]) for epoch in epochs)
    return figure


def _valid_metric(run: Run) -> str:
    return str(run.result["settings"]["valid_metric"]).lower()


def _valid(curve: list[dict], metric: str) -> dict[int, float]:
    return {entry["epoch"]: entry["valid"][metric] for entry in curve if metric in (entry["valid"] or {})}


def _relative_loss(curve: list[dict]) -> dict[int, float]:
    first = curve[0]["loss"]
    if not first or not math.isfinite(first):
        return {}
    known = [entry for entry in curve if entry["loss"] is not None and math.isfinite(entry["loss"])]
    return {entry["epoch"]: entry["loss"] / first for entry in known}


def groups(comparison: Comparison, dataset: str) -> list[CaptionedFigure]:
    """Return metrics by training count of the target and by length of the history, with 95 % intervals over the test rows."""
    labels = [label for label in comparison.labels if comparison.of(dataset, label)]
    if not labels:
        return []
    runs = {label: comparison.of(dataset, label) for label in labels}
    metrics = tested_metrics([run.result for of_label in runs.values() for run in of_label])
    figures = []
    for study in map(read_study, GROUPS):
        rows = {label: [grouped_rows(run, study.by) for run in of_label] for label, of_label in runs.items()}
        first = rows[labels[0]][0]
        keys, numbers = first.keys(), group_of(first, study.by, study.bounds)  # [R]
        inside = [numbers == number for number in range(len(study.bounds))]
        nonempty = [number for number, of_group in enumerate(inside) if of_group.any()]
        ranges = range_texts(study.bounds)
        ticks = [f"{ranges[i]}\n{inside[i].sum():,}" for i in nonempty]
        x = (
            "training interactions of the target item"
            if study.by == "target_count"
            else "interactions before the target item"
        )
        for metric in metrics:
            figure = Figure(f"{metric} by {x}", f"{x}; below: number of test rows", metric, ticks)
            for label in comparison.labels:
                of_row = row_means(rows.get(label, []), metric)
                figure.series[label] = means_and_deviations(
                    mean_and_error([of_row[key] for key, member in zip(keys, inside[i]) if member and key in of_row])
                    for i in nonempty
                )
            caption = (
                "Mean over the test rows of a group, each averaged over the seeds, with 95 % intervals (normal approximation)."
            )
            figures.append(CaptionedFigure(f"{study.by}-{file_name(metric)}", figure, caption))
    return figures


def row_means(runs: Sequence[Ranks], metric: str) -> dict[tuple, float]:
    """Return key of a test row -> metric, averaged over the runs (seeds of one label) that have the row."""
    values: dict[tuple, list[float]] = {}
    for ranks in runs:
        for key, value in zip(ranks.keys(), row_values(ranks.ranks, ranks.rows, metric).tolist()):
            values.setdefault(key, []).append(value)
    return {key: float(np.mean(of_key)) for key, of_key in values.items()}


def mean_and_error(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the mean and half the length of its 95 % interval (normal approximation); None if there are too few values."""
    if not values:
        return None, None
    error = NORMAL_95 * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return float(np.mean(values)), error


def code_use(comparison: Comparison, dataset: str) -> list[CaptionedFigure]:
    """Return the number of items per code of every modality and layer; labels with equal codes share a line."""
    figures = []
    raw = {label: [run.codes["raw_codes"] for run in comparison.of(dataset, label)] for label in comparison.labels}
    for modality in dict.fromkeys(m for of_label in raw.values() for codes in of_label for m in codes):
        tables = {label: [codes[modality] for codes in of_label if modality in codes] for label, of_label in raw.items()}
        layers = max(table.shape[1] for of_label in tables.values() for table in of_label)
        for layer in range(layers):
            counts = {
                label: [sorted_counts(table[:, layer]) for table in of_label if table.shape[1] > layer]
                for label, of_label in tables.items()
            }
            figure = _code_use_figure(f"{modality}, layer {layer}", counts)
            if figure is not None:
                caption = (
                    "Items per code before collisions are resolved, most used first, mean over the seeds; "
                    "a flat line is even use."
                )
                figures.append(CaptionedFigure(f"codes-{file_name(modality)}-{layer}", figure, caption, SMALL))
    return figures


def _code_use_figure(title: str, counts: dict[str, list[np.ndarray]]) -> Figure | None:
    longest = max((len(c) for of_label in counts.values() for c in of_label), default=0)
    if not longest:
        return None
    figure = Figure(title, "code, most used first", "items", [], at=list(range(1, longest + 1)), from_zero=True)
    lines: dict[tuple, str] = {}
    for label, of_label in counts.items():
        padded = [np.pad(c, (0, longest - len(c))) for c in of_label]  # [K] each
        means = tuple(np.mean(padded, axis=0).round(3).tolist()) if padded else (None,) * longest
        same = lines.get(means)
        if padded and same is not None:
            lines[means] = f"{same}, {label}"
            figure.series = {lines[means] if name == same else name: pair for name, pair in figure.series.items()}
            means = (None,) * longest  # the next labels keep their colours
        elif padded:
            lines[means] = label
        figure.series[label] = (list(means), [None] * longest)
    return figure


def sorted_counts(codes: np.ndarray) -> np.ndarray:
    """Return the number of items of each used code, in descending order."""
    return np.sort(np.unique(codes, return_counts=True)[1])[::-1]
