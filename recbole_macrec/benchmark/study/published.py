"""Our figures beside those that papers published, and how far each model got."""
import statistics

from recbole_macrec.benchmark.compare.runs import Comparison, Run, file_name
from recbole_macrec.benchmark.figures import Figure
from recbole_macrec.benchmark.study.kinds import Study, over_seeds
from recbole_macrec.errors import UserError


def check_published(study: dict, dataset: str) -> None:
    """Raise a UserError where the study knows no published figures of ``dataset``."""
    if dataset not in study["published"]:
        raise UserError(
            f"The study has no published figures of {dataset}, but of {', '.join(study['published'])}; give --datasets one of "
            "these, or add it to a copy of its YAML file."
        )


def published(comparison: Comparison, study: dict) -> Study:
    """Test metrics by item, by ID as papers of generative models count, and as published; also of what is unfinished."""
    (dataset,) = comparison.datasets
    papers = study["published"][dataset]
    metrics = list(dict.fromkeys(metric for figures in papers.values() for metric in figures))
    columns = [name for m in metrics for name in (m, f"{m} std", f"{m} of IDs", f"{m} of IDs std", f"published {m}")]
    made = Study(["", "trained", *columns])
    drawn: dict[str, dict[str, list]] = {m: {"items": [], "IDs": [], "published": []} for m in metrics}
    for label in comparison.labels:
        runs, figures = comparison.of(dataset, label), []
        for metric in metrics:
            items = over_seeds([run.result["test_result"][metric] for run in runs])
            ids = over_seeds([id_level(run, metric) for run in runs])
            paper = papers.get(label, {}).get(metric)
            figures += [*items, *ids, paper]
            for name, pair in (("items", items), ("IDs", ids), ("published", (paper, None))):
                drawn[metric][name].append(pair)
        made.rows.append([label, trained(comparison, label), *figures])
    for metric, series in drawn.items():
        bars = {name: tuple(map(list, zip(*pairs))) for name, pairs in series.items()}
        title = f"{study['title']}: {dataset}"
        made.figures[f"published-{file_name(metric)}"] = Figure(title, "", metric, comparison.labels, bars)
    return made


def id_level(run: Run, metric: str) -> float | None:
    """The metric when a hit is the right ID, whichever of its items was meant; None for a model without semantic IDs."""
    detail = run.result["test_detail"]
    return detail["fused"]["id"][metric] if detail else None


def trained(comparison: Comparison, label: str) -> str:
    """How long the runs of a label were trained."""
    runs = [run for run in comparison.runs if run.spec.label == label]
    done = [run for run in runs if run.finished]
    words = [f"{statistics.fmean(run.result['epochs'] for run in done):.3g} epochs"] if done else []
    return "; ".join(words + [run.error or f"unfinished: {run.progress}" for run in runs if not run.finished])
