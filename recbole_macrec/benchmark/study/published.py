"""Compare our results with published ones, and report how long each model was trained."""
import statistics

from recbole_macrec.benchmark.compare.runs import Comparison, Run, file_name
from recbole_macrec.benchmark.figures import Figure
from recbole_macrec.benchmark.study.kinds import Study, over_seeds
from recbole_macrec.errors import UserError


def check_published(study: dict, dataset: str) -> None:
    """Raise a UserError if the study has no published results on ``dataset``."""
    if dataset not in study["published"]:
        raise UserError(
            f"The study has no published results on {dataset}, but on {', '.join(study['published'])}; name one of these with "
            "--datasets, or add the dataset to a copy of its YAML file."
        )


def published(comparison: Comparison, study: dict) -> Study:
    """Return test metrics by item, by semantic ID (as papers on generative models count hits), and as published.

    Unfinished runs are listed too.
    """
    (dataset,) = comparison.datasets
    papers = study["published"][dataset]
    metrics = list(dict.fromkeys(metric for figures in papers.values() for metric in figures))
    columns = [name for m in metrics for name in (m, f"{m} std", f"{m} of IDs", f"{m} of IDs std", f"published {m}")]
    result = Study(["", "trained", *columns])
    plotted: dict[str, dict[str, list]] = {m: {"items": [], "IDs": [], "published": []} for m in metrics}
    for label in comparison.labels:
        runs, figures = comparison.of(dataset, label), []
        for metric in metrics:
            items = over_seeds([run.result["test_result"][metric] for run in runs])
            ids = over_seeds([id_level(run, metric) for run in runs])
            paper = papers.get(label, {}).get(metric)
            figures += [*items, *ids, paper]
            for name, pair in (("items", items), ("IDs", ids), ("published", (paper, None))):
                plotted[metric][name].append(pair)
        result.rows.append([label, trained(comparison, label), *figures])
    for metric, series in plotted.items():
        bars = {name: tuple(map(list, zip(*pairs))) for name, pairs in series.items()}
        title = f"{study['title']}: {dataset}"
        result.figures[f"published-{file_name(metric)}"] = Figure(title, "", metric, comparison.labels, bars)
    return result


def id_level(run: Run, metric: str) -> float | None:
    """Return the metric where the right semantic ID is a hit, even if several items share it; None for a model without IDs."""
    detail = run.result["test_detail"]
    return detail["fused"]["id"][metric] if detail else None


def trained(comparison: Comparison, label: str) -> str:
    """Say how long the runs of a label were trained."""
    runs = [run for run in comparison.runs if run.spec.label == label]
    done = [run for run in runs if run.finished]
    epochs = [run.result["epochs"] for run in done if run.result["epochs"] is not None]  # a fusion has none
    words = [f"{statistics.fmean(epochs):.3g} epochs"] if epochs else []
    return "; ".join(words + [run.error or f"unfinished: {run.progress}" for run in runs if not run.finished])
