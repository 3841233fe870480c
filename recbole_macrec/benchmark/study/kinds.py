"""What each kind of study makes of its comparison: rows of figures, and drawings.

Shapes: R test rows.
"""
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from recbole_macrec.benchmark.compare.runs import Comparison, Ranks, Run, file_name
from recbole_macrec.benchmark.compare.statistics import row_values
from recbole_macrec.benchmark.compare.table import largest_k
from recbole_macrec.benchmark.figures import Figure
from recbole_macrec.benchmark.study.beams import rank_with
from recbole_macrec.errors import UserError

DEFAULT = "default"  # the label of a sweep's runs with the settings as they are


@dataclass
class Study:
    """Rows of texts and numbers under ``columns``; a number is followed by its deviation over the seeds, or None."""

    columns: list[str]
    rows: list[list] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)


def over_seeds(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation of what there is."""
    there = [value for value in values if value is not None]
    return (statistics.fmean(there) if there else None), (statistics.stdev(there) if len(there) > 1 else None)


def as_markdown(study: Study, title: str) -> str:
    return f"# {title}\n\n" + markdown_rows(study.columns, study.rows)


def markdown_rows(columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    """A Markdown table of rows as in :class:`Study`; a number and its deviation share a cell."""
    names = [name for name in columns if not name.endswith(" std")]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = dict(zip(columns, row, strict=True))
        lines.append("| " + " | ".join(_text(cells[name], cells.get(f"{name} std")) for name in names) + " |")
    return "\n".join(lines) + "\n"


def _text(value, deviation) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if deviation is None else f"{value:.4f} ± {deviation:.4f}"


def _with_deviations(names: Sequence[str]) -> list[str]:
    return [column for name in names for column in (name, f"{name} std")]


def _metrics(comparison: Comparison) -> list[str]:
    """The tested metrics, hit@10 and ndcg@10 as a rule."""
    done = [run for run in comparison.runs if run.finished]
    if not done:
        raise UserError(f"No run of {comparison.folder} has ended well; the tables say why.")
    return largest_k(list(done[0].result["test_result"]))


def _test_means(runs: Sequence[Run], metrics: Sequence[str]) -> list[tuple[float | None, float | None]]:
    return [over_seeds([run.result["test_result"][metric] for run in runs]) for metric in metrics]


def _modalities(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(m for run in comparison.runs if run.finished for m in run.result["semantic_ids"]))


def _collision_rates(runs: Sequence[Run], modality: str) -> tuple[float | None, float | None]:
    return over_seeds([run.result["semantic_ids"].get(modality, {}).get("collision_rate") for run in runs])


def variants(comparison: Comparison, study: dict) -> Study:
    """Metrics and collisions of each row, best read beside the first one."""
    metrics, (dataset,) = _metrics(comparison), comparison.datasets
    collisions = [f"collisions, {m}" for m in _modalities(comparison)]
    made = Study(["", *_with_deviations([*metrics, *collisions])])
    for label in comparison.labels:
        runs = comparison.of(dataset, label)
        figures = _test_means(runs, metrics) + [_collision_rates(runs, m) for m in _modalities(comparison)]
        made.rows.append([label, *(number for pair in figures for number in pair)])
    series = {m: _series(made, m, comparison.labels) for m in metrics}
    made.figures["metrics"] = Figure(study["title"], "", "test", comparison.labels, series)
    if collisions:
        series = {m: _series(made, f"collisions, {m}", comparison.labels) for m in _modalities(comparison)}
        made.figures["collisions"] = Figure(study["title"], "", "collision rate", comparison.labels, series)
    return made


def _series(made: Study, column: str, firsts: Sequence[str]) -> tuple[list, list]:
    """Means and deviations of a column, for the rows whose first cell is in ``firsts``, in that order."""
    i = made.columns.index(column)
    rows = {row[0]: row for row in made.rows}
    return [rows[first][i] for first in firsts], [rows[first][i + 1] for first in firsts]


def collisions(comparison: Comparison, study: dict) -> Study:
    """The share of items without an ID of their own before resolution, per modality."""
    (dataset,) = comparison.datasets
    made = Study(["", "modality", *_with_deviations(["collision rate"]), "items", "distinct IDs", "perplexity by layer"])
    for label in comparison.labels:
        runs = comparison.of(dataset, label)
        for modality in _modalities(comparison):
            found = [run.result["semantic_ids"][modality] for run in runs if modality in run.result["semantic_ids"]]
            if found:
                perplexity = " ".join(f"{statistics.fmean(p):.0f}" for p in zip(*(f["perplexity"] for f in found)))
                distinct = round(statistics.fmean(f["distinct"] for f in found))
                made.rows.append([label, modality, *_collision_rates(runs, modality), found[0]["items"], distinct, perplexity])
    series = {
        m: tuple(map(list, zip(*(_collision_rates(comparison.of(dataset, label), m) for label in comparison.labels))))
        for m in _modalities(comparison)
    }
    made.figures["collisions"] = Figure(study["title"], "", "collision rate", comparison.labels, series)
    return made


def code_distribution(comparison: Comparison, study: dict) -> Study:
    """Items per bucket of ``bucket`` neighbouring codes of layer ``layer``, mean over the seeds."""
    (dataset,) = comparison.datasets
    made = Study(["", "modality", "codes", *_with_deviations(["items"])])
    for modality in _modalities(comparison):
        series, ticks = {}, []
        for label in comparison.labels:
            counts = [bucket_counts(run, modality, study["layer"], study["bucket"]) for run in comparison.of(dataset, label)]
            counts = [c for c in counts if c is not None]
            if not counts:
                continue
            ticks = [f"{i * study['bucket']}-{(i + 1) * study['bucket'] - 1}" for i in range(len(counts[0]))]
            pairs = [over_seeds(column) for column in zip(*counts)]
            series[label] = tuple(map(list, zip(*pairs)))
            made.rows += [[label, modality, tick, *pair] for tick, pair in zip(ticks, pairs)]
        title = f"{study['title']}: {modality}, layer {study['layer']}"
        made.figures[f"codes-{file_name(modality)}"] = Figure(title, "codes", "items", ticks, series)
    return made


def bucket_counts(run: Run, modality: str, layer: int, bucket: int) -> list[float] | None:
    """Items per bucket of codes before resolution; None for a model without the modality."""
    codes = run.codes["raw_codes"].get(modality)
    if codes is None:
        return None
    if not 0 <= layer < codes.shape[1]:
        raise UserError(f"layer is {layer}, but the IDs have the layers 0 to {codes.shape[1] - 1}.")
    size = max(int(run.result["settings"]["codebook_size"]), int(codes[:, layer].max()) + 1)
    return np.bincount(codes[:, layer] // bucket, minlength=-(-size // bucket)).astype(float).tolist()


def sweeps(comparison: Comparison, study: dict) -> Study:
    """One figure an option: the metrics over its values."""
    metrics, (dataset,) = _metrics(comparison), comparison.datasets
    made = Study(["option", "value", *_with_deviations(metrics)])
    for option, values in study["sweeps"].items():
        points = []
        for value in values:
            label = f"{option}={value}"
            missing = label not in comparison.labels
            if missing and option == "first_con_layer" and value >= _levels(comparison, dataset):
                continue
            runs = comparison.of(dataset, DEFAULT if missing else label)
            points.append((str(value) + (" (default)" if missing else ""), _test_means(runs, metrics)))
        made.rows += [[option, value, *(number for pair in pairs for number in pair)] for value, pairs in points]
        series = {m: tuple(map(list, zip(*(pairs[i] for _, pairs in points)))) for i, m in enumerate(metrics)}
        made.figures[file_name(option)] = Figure(study["title"], option, "test", [value for value, _ in points], series, lines=True)
    return made


def _levels(comparison: Comparison, dataset: str) -> int:
    return int(comparison.of(dataset, DEFAULT)[0].result["settings"]["codebook_levels"])


def beams(comparison: Comparison, study: dict) -> Study:
    """The same trained models ranked with each number of beams, and exactly."""
    metrics, (dataset,) = _metrics(comparison), comparison.datasets
    ways = [*map(str, study["beams"]), "exact"]
    made = Study(["", "beams", *_with_deviations([*metrics, *(f"{m} less than exact" for m in metrics)])])
    series: dict[str, dict[str, list]] = {m: {} for m in metrics}
    for label in comparison.labels:
        found = [rank_with(run, study["beams"]) for run in comparison.of(dataset, label)]
        for way in ways:
            own = [over_seeds([f[way][m] for f in found]) for m in metrics]
            gaps = [over_seeds([f["exact"][m] - f[way][m] for f in found]) for m in metrics]
            made.rows.append([label, way, *(number for pair in own + gaps for number in pair)])
            for metric, pair in zip(metrics, own):
                series[metric].setdefault(label, []).append(pair)
    for metric, lines in series.items():
        drawn = {label: tuple(map(list, zip(*pairs))) for label, pairs in lines.items()}
        made.figures[f"beams-{file_name(metric)}"] = Figure(study["title"], "beams", metric, ways, drawn, lines=True)
    return made


def groups(comparison: Comparison, study: dict) -> Study:
    """Metrics of the test rows of each group, by training count of the target or length of the history."""
    metrics, (dataset,) = _metrics(comparison), comparison.datasets
    bounds = study["from"]
    ticks = [range_text(low, high) for low, high in zip(bounds, [*bounds[1:], None])]
    made = Study(["", study["by"], "users", *_with_deviations(metrics)])
    series: dict[str, dict[str, list]] = {metric: {} for metric in metrics}
    for label in comparison.labels:
        runs = [grouped_rows(run, study["by"]) for run in comparison.of(dataset, label)]
        for number, tick in enumerate(ticks):
            inside = [group_of(ranks, study["by"], bounds) == number for ranks in runs]
            users = len(np.unique(runs[0].users[inside[0][runs[0].rows]])) if inside else 0
            pairs = [
                over_seeds([float(row_values(r.ranks, r.rows, metric)[i].mean()) for r, i in zip(runs, inside) if i.any()])
                for metric in metrics
            ]
            made.rows.append([label, tick, users, *(number for pair in pairs for number in pair)])
            for metric, pair in zip(metrics, pairs):
                series[metric].setdefault(label, []).append(pair)
    for metric, bars in series.items():
        drawn = {label: tuple(map(list, zip(*pairs))) for label, pairs in bars.items()}
        made.figures[f"{study['by']}-{file_name(metric)}"] = Figure(study["title"], study["by"].replace("_", " "), metric, ticks, drawn)
    return made


def grouped_rows(run: Run, by: str) -> Ranks:
    """The test rows that groups divide: each target alone where they are groups of targets."""
    return run.ranks.single() if by == "target_count" else run.ranks


def group_of(ranks: Ranks, by: str, bounds: Sequence[int]) -> np.ndarray:
    """Number of the group of each row of :func:`grouped_rows`, -1 below the first; [R]."""
    if by == "target_count":
        values = ranks.counts[ranks.targets]
    elif by == "history_length":
        values = np.array([len(history) for history in ranks.histories])
    else:
        raise UserError(f"by is '{by}'; expected target_count or history_length.")
    return np.searchsorted(bounds, values, side="right") - 1


def range_text(low: int, high: int | None) -> str:
    """``low`` up to, not including, ``high``."""
    if high is None:
        return f"{low}+"
    return str(low) if high == low + 1 else f"{low}-{high - 1}"


FINISHED_KINDS: dict[str, Callable[[Comparison, dict], Study]] = {
    kind.__name__: kind for kind in (variants, collisions, code_distribution, sweeps, beams, groups)
}
