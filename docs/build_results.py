"""Build docs/results.md and its figures from docs/results/**/*.json: ``python docs/build_results.py``.

The files are written by ``python -m recbole_macrec.benchmark publish``. Published figures come from properties/study/published.yaml.
"""
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_macrec.benchmark.study.kinds import markdown_rows, over_seeds
from recbole_macrec.benchmark.study.study import read_study

HERE = Path(__file__).resolve().parent
METRICS = ("hit@1", "hit@5", "hit@10", "ndcg@5", "ndcg@10")
INTRODUCTION = """# Results

This page is generated from the JSON files in `docs/results` by `python docs/build_results.py`; do not edit it. A row is the mean over
seeds. Test metrics rank the whole catalogue, with the leave-one-out split. **By item**: a hit is the target item. **By ID**: a hit is
any item with the semantic ID of the target, as papers on generative models count. CPU minutes are those of one run, summed over its
threads, for training and evaluation.
"""


def main(folder: Path = HERE) -> None:
    """Write results.md and its figures to ``folder``."""
    records = read_records(folder / "results")
    (folder / "results.md").write_text(page(records, read_papers()), encoding="utf-8")
    for dataset in datasets(records):
        draw_curves([r for r in records if r["dataset"] == dataset], folder / "results" / f"curves-{dataset}.svg")


def read_records(folder: Path) -> list[dict]:
    """Read all published results."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.json"))]


def read_papers() -> dict[str, dict]:
    """Return dataset -> model -> metric -> value of the papers."""
    return read_study("published")["published"]


def datasets(records: list[dict]) -> list[str]:
    """Return the names of the datasets, sorted."""
    return sorted({record["dataset"] for record in records})


def page(records: list[dict], papers: dict[str, dict]) -> str:
    """Return the text of results.md."""
    parts = [INTRODUCTION]
    for dataset in datasets(records):
        some = [record for record in records if record["dataset"] == dataset]
        parts.append(f"## {dataset}\n\n![Validation NDCG@10 against CPU minutes](results/curves-{dataset}.svg)\n")
        parts.append("### By item\n\n" + markdown_rows(["model", *METRICS, "seeds"], by_item(some)))
        parts.append("### By ID, with published results\n\n" + markdown_rows(
            ["model", *METRICS, "published hit@10", "published ndcg@10"], by_id(some, papers.get(dataset, {}))))
        if rows := by_modality(some):
            parts.append("### Each modality, by item\n\n" + markdown_rows(["model", "ranking", *METRICS], rows))
        parts.append("### Training\n\n" + markdown_rows(
            ["model", "seed", "epochs", "CPU minutes", "parameters", "precision", "machine", "commit"], trained(some)))
        commands = "\n".join(f"    {record['command']}" for record in some)
        parts.append(f"### Commands\n\nwith {dataset} imported into `data`, see the README\n\n{commands}\n")
    return "\n".join(parts)


def by_label(records: list[dict]) -> dict[str, list[dict]]:
    """Group records by label, in descending order of NDCG@10 by item."""
    grouped: dict[str, list[dict]] = {}
    for record in records:
        grouped.setdefault(record["label"], []).append(record)
    return dict(sorted(grouped.items(), key=lambda entry: -_mean([r["test_result"]["ndcg@10"] for r in entry[1]])))


def by_item(records: list[dict]) -> list[list]:
    """Return the rows of the table by item."""
    return [
        [label, *(_mean([r["test_result"].get(m) for r in some]) for m in METRICS), len(some)]
        for label, some in by_label(records).items()
    ]


def by_id(records: list[dict], papers: dict[str, dict]) -> list[list]:
    """Return the rows of the table by semantic ID."""
    rows = []
    for label, some in by_label(records).items():
        if "fusion" in some[0]:  # ranked by item alone
            continue
        if some[0]["test_detail"]:
            ours = [_mean([r["test_detail"]["fused"]["id"].get(m) for r in some]) for m in METRICS]
        else:
            ours = [_mean([r["test_result"].get(m) for r in some]) for m in METRICS]
        rows.append([label, *ours, *(papers.get(label, {}).get(m) for m in ("hit@10", "ndcg@10"))])
    return rows


def by_modality(records: list[dict]) -> list[list]:
    """Return the rows of the table of each modality's ranking."""
    rows = []
    for label, some in by_label(records).items():
        for name in some[0]["test_detail"] or ():
            if len(some[0]["test_detail"]) > 2:
                rows.append([label, name, *(_mean([r["test_detail"][name]["item"].get(m) for r in some]) for m in METRICS)])
    return rows


def trained(records: list[dict]) -> list[list]:
    """Return the rows of the table of training runs."""
    rows = []
    for label, some in by_label(records).items():
        for r in some:
            machine = r["machine"]
            processor = f"{machine['threads']} thread(s) of {machine['processor']}"
            minutes = f"{r['seconds']['cpu'] / 60:.1f}"
            rows.append([label, r["seed"], r["epochs"], minutes, f"{r['parameters']:,}", r["precision"]["training"], processor, r["commit"]])
    return rows


def _mean(values: Sequence[float | None]) -> float | None:
    return over_seeds(values)[0]


def draw_curves(records: list[dict], path: Path) -> None:
    """Plot validation NDCG@10 against CPU minutes, one line per label (its first run)."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "recbole_macrec"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    first = {label: some[0] for label, some in by_label(records).items()}
    for label, record in first.items():
        minutes, points = 0.0, []
        for entry in record["curve"]:
            minutes += entry["cpu_seconds"] / 60
            if entry["valid"]:
                points.append((minutes, entry["valid"]["ndcg@10"]))
        if points:
            axes.plot(*zip(*points), marker=".", label=label)
    axes.set(xlabel="CPU minutes, validation included", ylabel="validation ndcg@10 by item", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
