"""The kinds of studies: each turns a comparison into a table and figures.

Shapes: R test rows.
"""
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from recbole_macrec.benchmark.compare.ranks import Ranks
from recbole_macrec.benchmark.compare.runs import Comparison, Run, file_name
from recbole_macrec.benchmark.compare.statistics import row_values
from recbole_macrec.benchmark.compare.table import tested_metrics
from recbole_macrec.benchmark.compare.table_formats import cell_text, markdown_lines
from recbole_macrec.benchmark.figures import Figure
from recbole_macrec.benchmark.study.definition import StudyDefinition
from recbole_macrec.benchmark.study.rankings import rank_with
from recbole_macrec.errors import UserError

DEFAULT = "default"  # label of a sweep's runs with default settings


class Spread(NamedTuple):
    """Mean and sample standard deviation over the seeds; None if there are too few values."""

    mean: float | None
    deviation: float | None


@dataclass
class StudyResult:
    """Result of a study.

    Attributes:
        columns: column names.
        rows: texts, numbers and :class:`Spread`, one per column; None if there is no value.
        figures: file name -> figure.
    """

    columns: list[str]
    rows: list[list] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)

    def record(self) -> dict:
        """Columns and rows as JSON values. A column NAME of :class:`Spread` becomes the two columns NAME and ``NAME std``."""
        record: dict = {"columns": [], "rows": [[] for _ in self.rows]}
        for name, *values in zip(self.columns, *self.rows):
            spread = any(isinstance(value, Spread) for value in values)
            record["columns"] += [name, f"{name} std"] if spread else [name]
            for row, value in zip(record["rows"], values):
                row += value if spread else [value]
        return record

    @classmethod
    def of_record(cls, record: dict) -> "StudyResult":
        """Columns and rows of a :meth:`record`."""
        columns, rows = record["columns"], record["rows"]
        result = cls([name for name in columns if not name.endswith(" std")])
        for row in rows:
            cells = dict(zip(columns, row, strict=True))
            result.rows.append([
                Spread(cells[name], cells[f"{name} std"]) if f"{name} std" in cells else cells[name] for name in result.columns
            ])
        return result


def over_seeds(values: Sequence[float | None]) -> Spread:
    """Return mean and sample standard deviation of the values that are not None."""
    known = [value for value in values if value is not None]
    return Spread(statistics.fmean(known) if known else None, statistics.stdev(known) if len(known) > 1 else None)


def means_and_deviations(pairs: Iterable[tuple[float | None, float | None]]) -> tuple[list[float | None], list[float | None]]:
    """Return the first and the second entries of pairs (mean, deviation), as :class:`Figure` reads them."""
    means, deviations = [], []
    for mean, deviation in pairs:
        means.append(mean)
        deviations.append(deviation)
    return means, deviations


def as_markdown(result: StudyResult, title: str) -> str:
    """Return title and table of a study as Markdown."""
    rows = [[cell_text(value) if isinstance(value, str) else value for value in row] for row in result.rows]
    return f"# {title}\n\n" + markdown_rows(result.columns, rows)


def markdown_rows(columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    """A Markdown table of rows as in :class:`StudyResult`."""
    return "\n".join(markdown_lines(columns, [list(map(_text, row)) for row in rows])) + "\n"


def _text(value) -> str:
    if isinstance(value, Spread):
        return _text(value.mean) if value.deviation is None else f"{_text(value.mean)} ± {_text(value.deviation)}"
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _metrics(comparison: Comparison) -> list[str]:
    """Return the metrics with the largest k that all runs have, usually hit@10 and ndcg@10."""
    return tested_metrics([run.result for run in comparison.runs if run.finished])


def _test_means(runs: Sequence[Run], metrics: Sequence[str]) -> list[Spread]:
    return [over_seeds([run.result["test_result"][metric] for run in runs]) for metric in metrics]


def _modalities(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(m for run in comparison.runs if run.finished for m in run.result["semantic_ids"]))


def _collision_rates(runs: Sequence[Run], modality: str) -> Spread:
    return over_seeds([run.result["semantic_ids"].get(modality, {}).get("collision_rate") for run in runs])


def variants(comparison: Comparison, study: StudyDefinition) -> StudyResult:
    """Return metrics and collision rates of each variant; the first row is the full model."""
    metrics, (dataset,) = _metrics(comparison), comparison.datasets
    collisions = [f"collisions, {m}" for m in _modalities(comparison)]
    result = StudyResult(["", *metrics, *collisions])
    for label in comparison.labels:
        runs = comparison.of(dataset, label)
        rates = [_collision_rates(runs, m) for m in _modalities(comparison)]
        result.rows.append([label, *_test_means(runs, metrics), *rates])
    series = {m: _series(result, m) for m in metrics}
    result.figures["metrics"] = Figure(study.title, "", "test", comparison.labels, series)
    if collisions:
        series = {m: _series(result, f"collisions, {m}") for m in _modalities(comparison)}
        result.figures["collisions"] = Figure(study.title, "", "collision rate", comparison.labels, series)
    return result


def _series(result: StudyResult, column: str) -> tuple[list, list]:
    """Return means and deviations of a column."""
    i = result.columns.index(column)
    return means_and_deviations(row[i] for row in result.rows)


def collisions(comparison: Comparison, study: StudyDefinition) -> StudyResult:
    """Return the collision rate (1 - distinct IDs / items, before resolution) per modality."""
    (dataset,) = comparison.datasets
    result = StudyResult(["", "modality", "collision rate", "items", "distinct IDs", "perplexity by layer"])
    for label in comparison.labels:
        runs = comparison.of(dataset, label)
        for modality in _modalities(comparison):
            by_seed = [run.result["semantic_ids"][modality] for run in runs if modality in run.result["semantic_ids"]]
            if by_seed:
                perplexity = " ".join(f"{statistics.fmean(p):.0f}" for p in zip(*(values["perplexity"] for values in by_seed)))
                distinct = round(statistics.fmean(values["distinct"] for values in by_seed))
                rate = _collision_rates(runs, modality)
                result.rows.append([label, modality, rate, by_seed[0]["items"], distinct, perplexity])
    series = {
        m: means_and_deviations(_collision_rates(comparison.of(dataset, label), m) for label in comparison.labels)
        for m in _modalities(comparison)
    }
    result.figures["collisions"] = Figure(study.title, "", "collision rate", comparison.labels, series)
    return result


def code_distribution(comparison: Comparison, study: StudyDefinition) -> StudyResult:
    """Return the number of items per bucket of ``bucket`` neighbouring codes of layer ``layer``, mean over the seeds."""
    (dataset,) = comparison.datasets
    result = StudyResult(["", "modality", "codes", "items"])
    for modality in _modalities(comparison):
        ticks: list[str] = []
        series = {}
        for label in comparison.labels:
            by_run = [bucket_counts(run, modality, study.layer, study.bucket) for run in comparison.of(dataset, label)]
            counts = [c for c in by_run if c is not None]
            if not counts:
                continue
            own = [f"{i * study.bucket}-{(i + 1) * study.bucket - 1}" for i in range(len(counts[0]))]
            ticks = max(ticks, own, key=len)
            pairs = [over_seeds(column) for column in zip(*counts)]
            series[label] = means_and_deviations(pairs)
            result.rows += [[label, modality, tick, items] for tick, items in zip(own, pairs)]
        title = f"{study.title}: {modality}, layer {study.layer}"
        result.figures[f"codes-{file_name(modality)}"] = Figure(title, "codes", "items", ticks, series)
    return result


def bucket_counts(run: Run, modality: str, layer: int, bucket: int) -> list[float] | None:
    """Return the number of items per bucket of codes, before resolution; None if the model does not use the modality."""
    codes = run.codes["raw_codes"].get(modality)
    if codes is None:
        return None
    if not 0 <= layer < codes.shape[1]:
        raise UserError(f"layer of the study is {layer}; expected 0 to {codes.shape[1] - 1}, the layers of the IDs.")
    size = max(int(run.result["settings"]["codebook_size"]), int(codes[:, layer].max()) + 1)
    return np.bincount(codes[:, layer] // bucket, minlength=-(-size // bucket)).astype(float).tolist()


def sweeps(comparison: Comparison, study: StudyDefinition) -> StudyResult:
    """Return the metrics for every value of every swept option with finished runs, and one figure per option."""
    metrics, (dataset,) = _metrics(comparison), comparison.datasets
    result = StudyResult(["option", "value", *metrics])
    for option, values in study.sweeps.items():
        points = []
        for value in values:
            label = f"{option}={value}"
            missing = label not in comparison.labels
            runs = comparison.of(dataset, DEFAULT if missing else label)
            if not runs or (missing and option == "first_con_layer" and value >= _levels(runs[0])):
                continue
            points.append((str(value) + (" (default)" if missing else ""), _test_means(runs, metrics)))
        if not points:
            continue
        result.rows += [[option, value, *means] for value, means in points]
        series = {m: means_and_deviations(means[i] for _, means in points) for i, m in enumerate(metrics)}
        result.figures[file_name(option)] = Figure(
            study.title, option, "test", [value for value, _ in points], series, lines=True
        )
    return result


def _levels(run: Run) -> int:
    return int(run.result["settings"]["codebook_levels"])


def beams(comparison: Comparison, study: StudyDefinition) -> StudyResult:
    """Return the metrics of the same trained models with each number of beams, and with exact decoding."""
    metrics, (dataset,) = _metrics(comparison), comparison.datasets
    # exact ranking keeps the number of beams, as fusion = official combines lists of this length
    decodings = {str(number): {"decode": "beam", "num_beams": number} for number in study.beams}
    decodings["exact"] = {"decode": "exact"}
    result = StudyResult(["", "beams", *metrics, *(f"{m} less than exact" for m in metrics)])
    series: dict[str, dict[str, list]] = {m: {} for m in metrics}
    for label in comparison.trained_labels:
        by_run = [rank_with(run, decodings, comparison.data_path) for run in comparison.of(dataset, label)]
        for decoding in decodings:
            means = [over_seeds([ranked[decoding].metrics[m] for ranked in by_run]) for m in metrics]
            gaps = [
                over_seeds([ranked["exact"].metrics[m] - ranked[decoding].metrics[m] for ranked in by_run]) for m in metrics
            ]
            result.rows.append([label, decoding, *means, *gaps])
            for metric, mean in zip(metrics, means):
                series[metric].setdefault(label, []).append(mean)
    for metric, lines in series.items():
        plotted = {label: means_and_deviations(pairs) for label, pairs in lines.items()}
        result.figures[f"beams-{file_name(metric)}"] = Figure(study.title, "beams", metric, list(decodings), plotted, True)
    return result


def rankings(comparison: Comparison, study: StudyDefinition) -> StudyResult:
    """Return the metrics of the same trained models with each set of ranking options in ``study.rankings``.

    ``gained`` and ``lost`` are the shares of test rows that have a target among the first ``max(topk)`` items with these
    options and not with the first ones, and the reverse.
    """
    metrics, (dataset,) = _metrics(comparison), comparison.datasets
    columns = [*metrics, "gained", "lost"]
    result = StudyResult(["", "ranking", *columns, "users/s"])
    for label in comparison.trained_labels:
        by_run = [rank_with(run, study.rankings, comparison.data_path) for run in comparison.of(dataset, label)]
        if not by_run:
            continue
        first = next(iter(by_run[0]))
        for name in by_run[0]:
            values = []
            for ranked in by_run:
                own, hits, before = ranked[name], set(ranked[name].hits), set(ranked[first].hits)
                changed = {"gained": len(hits - before) / own.rows, "lost": len(before - hits) / own.rows}
                values.append(own.metrics | changed)
            means = [over_seeds([value[column] for value in values]) for column in columns]
            speed = round(statistics.fmean(ranked[name].rows / ranked[name].seconds for ranked in by_run))
            result.rows.append([label, name, *means, speed])
    return result


def groups(comparison: Comparison, study: StudyDefinition) -> StudyResult:
    """Return the metrics of each group of test rows, by training count of the target or length of the history."""
    metrics, (dataset,) = _metrics(comparison), comparison.datasets
    ticks = range_texts(study.bounds)
    result = StudyResult(["", study.by, "users", *metrics])
    series: dict[str, dict[str, list]] = {metric: {} for metric in metrics}
    for label in comparison.labels:
        runs = [grouped_rows(run, study.by) for run in comparison.of(dataset, label)]
        for number, tick in enumerate(ticks):
            inside = [group_of(ranks, study.by, study.bounds) == number for ranks in runs]
            users = len(np.unique(runs[0].users[inside[0][runs[0].rows]])) if inside else 0
            means = [
                over_seeds([float(row_values(r.ranks, r.rows, metric)[i].mean()) for r, i in zip(runs, inside) if i.any()])
                for metric in metrics
            ]
            result.rows.append([label, tick, users, *means])
            for metric, mean in zip(metrics, means):
                series[metric].setdefault(label, []).append(mean)
    for metric, bars in series.items():
        plotted = {label: means_and_deviations(pairs) for label, pairs in bars.items()}
        result.figures[f"{study.by}-{file_name(metric)}"] = Figure(
            study.title, study.by.replace("_", " "), metric, ticks, plotted
        )
    return result


def grouped_rows(run: Run, by: str) -> Ranks:
    """Return the test rows to divide into groups; a row has a single target if groups are by target."""
    return run.ranks.single() if by == "target_count" else run.ranks


def group_of(ranks: Ranks, by: str, bounds: Sequence[int]) -> np.ndarray:
    """Return the group number of each row of :func:`grouped_rows`, -1 below the first bound; [R].

    Args:
        by: ``target_count`` or ``history_length``.
    """
    if by == "target_count":
        values = ranks.counts[ranks.targets]
    else:
        values = np.array([len(history) for history in ranks.histories])
    return np.searchsorted(bounds, values, side="right") - 1


def range_texts(bounds: Sequence[int]) -> list[str]:
    """Return the range of each group as text, from its lower bound up to, but not including, that of the next."""
    ranges = [str(low) if high == low + 1 else f"{low}-{high - 1}" for low, high in pairwise(bounds)]
    return [*ranges, f"{bounds[-1]}+"]


FINISHED_KINDS: dict[str, Callable[[Comparison, StudyDefinition], StudyResult]] = {
    kind.__name__: kind for kind in (variants, collisions, code_distribution, sweeps, beams, rankings, groups)
}
