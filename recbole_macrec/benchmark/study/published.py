"""Compare our results with published ones, and report how long each model was trained."""
import statistics
from collections.abc import Sequence

from recbole_macrec.benchmark.compare.runs import Comparison, Run, file_name, shown_epochs
from recbole_macrec.benchmark.figures import Figure
from recbole_macrec.benchmark.study.definition import StudyDefinition
from recbole_macrec.benchmark.study.kinds import StudyResult, means_and_deviations, over_seeds
from recbole_macrec.errors import UserError


def check_published(study: StudyDefinition, dataset: str) -> None:
    """Raise a UserError if the study has neither published results on ``dataset`` nor metrics of its own."""
    if dataset not in study.published and not study.metrics:
        known = f"; it has on {', '.join(study.published)}" if study.published else ""
        raise UserError(
            f"The study has no published results on {dataset}{known}. Name such a dataset, or add 'metrics' or the "
            "dataset's results to a copy of its YAML file."
        )


def published(comparison: Comparison, study: StudyDefinition) -> StudyResult:
    """Return test metrics by item, by semantic ID (as papers on generative models count hits), and as published.

    The metrics are those of the key ``metrics``, by default the published ones. Unfinished runs are listed too.
    """
    (dataset,) = comparison.datasets
    papers = study.published.get(dataset, {})
    metrics = study.metrics or list(dict.fromkeys(metric for figures in papers.values() for metric in figures))
    result = StudyResult(["", "trained"], [[label, trained(comparison, label)] for label in comparison.labels])
    for metric in metrics:
        runs = [comparison.of(dataset, label) for label in comparison.labels]
        items = [over_seeds([run.result["test_result"].get(metric) for run in own]) for own in runs]
        ids = [over_seeds([id_level(run, metric) for run in own]) for own in runs]
        paper = [papers.get(label, {}).get(metric) for label in comparison.labels]
        bars = {"items": means_and_deviations(items)}
        _add(result, metric, items)
        if any(mean is not None for mean, _ in ids):
            bars["IDs"] = means_and_deviations(ids)
            _add(result, f"{metric} of IDs", ids)
        if any(value is not None for value in paper):
            bars["published"] = paper, [None] * len(paper)
            _add(result, f"published {metric}", paper)
        title = f"{study.title}: {dataset}"
        result.figures[f"published-{file_name(metric)}"] = Figure(title, "", metric, comparison.labels, bars)
    return result


def _add(result: StudyResult, column: str, values: Sequence) -> None:
    """Add a column to a study, with the value of each row."""
    result.columns.append(column)
    for row, value in zip(result.rows, values):
        row.append(value)


def id_level(run: Run, metric: str) -> float | None:
    """Return the metric where the right semantic ID is a hit, even if several items share it; None for a model without IDs."""
    detail = run.result["test_detail"]
    return detail["fused"]["id"].get(metric) if detail else None


def trained(comparison: Comparison, label: str) -> str:
    """Say how long the runs of a label were trained."""
    runs = [run for run in comparison.runs if run.spec.label == label]
    done = [run for run in runs if run.finished]
    epochs = [run.result["epochs"] for run in done if run.result["epochs"] is not None]  # a fusion has none
    words = [f"{shown_epochs(statistics.fmean(epochs))} epochs"] if epochs else []
    return "; ".join(words + [run.error or f"unfinished: {run.progress}" for run in runs if not run.finished])
