"""Build docs/results.md and its figures from docs/results/**/*.json: ``python docs/build_results.py``.

The files are written by ``python -m recbole_macrec.benchmark publish``. Those in docs/results/DATASET belong to the study
`published`, those in docs/results/STUDY/DATASET to another one. Metrics and published figures come from
properties/study/STUDY.yaml. The rows of MACRec's Table 2 are those of macrec_table2.yaml.
"""
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from recbole.utils import ModelType, get_model

from recbole_macrec.benchmark.compare.publish import STUDIES, TESTS, TRIES
from recbole_macrec.benchmark.compare.statistics import TEST_COLUMNS, PairedTest
from recbole_macrec.benchmark.study.definition import StudyDefinition
from recbole_macrec.benchmark.study.kinds import StudyResult, markdown_rows, over_seeds
from recbole_macrec.benchmark.study.study import read_study

HERE = Path(__file__).resolve().parent
FIRST_STUDY, TABLE2_STUDY = "published", "macrec_table2"
METRICS = ("hit@1", "hit@5", "hit@10", "ndcg@5", "ndcg@10")  # of a study that names none
VALID_METRIC = "NDCG@10"  # likewise
INTRODUCTION = """# Results

This page is generated from the JSON files in `docs/results` by `python docs/build_results.py`; do not edit it. A row is the
mean over seeds. Test metrics rank the whole catalogue, with the leave-one-out split unless the heading names another. **By
item**: a hit is the target item. **By ID**: a hit is any item with the semantic ID of the target, as papers on generative
models count; an ID has the rank of its first item. CPU minutes are those of one run, summed over its threads, for training and
evaluation; of runs on a GPU, which up to 16 runs shared, they say little. users/s is the speed of the test ranking; other runs
shared the machine, so compare it only roughly ([Speed](speed.md)). "Wide" models have `--training_preset=decoder_only`, or
`--training_preset=per_user` if they are encoder-decoders. Other generative models have `--training_preset=narrow`, which is the
default. Features of datasets with "rebuilt" in their name are not the released ones. Sections can show different results of the
same command, from different versions (column commit): compare rows within a section.

§ The items of the user's history are not ranked: by general models, with `--exclude_seen=True`, and by fusions with such a
model (see [Candidates](comparisons.md#candidates)). No target is among them. All other rows rank them too, as the papers do.

‡ Items with the same semantic ID are ranked in item order (`--item_prior=none`), which lowers the metrics by item. In all other
rows they divide its probability by their popularity, so an ID with several items can rank lower than by its own probability,
also in the metrics by ID.
"""

BESIDE = {  # study and dataset -> a dataset of the study `published`, and the rows of it that the table by item shows as well
    ("mmgrec_table2_leave_one_out", "Instruments-rebuilt"): (
        "Instruments",
        (
            "SASRec", "SASRecPerUser", "SASRecPerUser (without seen items)", "SequentialEASE",
            "SequentialEASE (without seen items)", "TIGER", "MACRec",
        ),
    ),
}  # fmt: skip
LEARNT_IDS = """### Semantic IDs

Collisions: 1 - distinct IDs / items, before they are resolved. Reconstruction error: mean squared error of the
standardized features; predicting their mean gives 1. `cid` reads no features.

"""
TABLE2_DATASETS = ("Instruments", "Arts")
TABLE2 = """## MACRec's Table 2

Every row of the table with the published figures, as far as they are recorded in this repository, and with ours if it was
run. Ours are counted by ID and are means over seeds; [Studies](studies.md#published-tables) names reasons for differences.
hit is the papers' HR; P5 is the row P5-CID, and S3Rec the row S3-Rec. The last three rows, which are not in the paper,
compare TIGER with three quantizers of the same rebuilt text features, by one network and training
(`--training_preset=narrow`). Counted by ID, `rqvae` and `letter` are above `cid`. Counted by item, `cid` is above both (see
the tables of further rows), but its IDs are unique, while items share an ID of the others and are ranked in item order (‡).
With the default `item_prior`, `rqvae` has nearly the Hit@10 of `cid`
([Quantizers](#quantizers-judged-by-ranking-instruments-rebuilt)). MISSRec on Arts-rebuilt was trained before its loss was
corrected at version 6f8a4da.

† No data can produce this figure. A user has one target, so hit@1 + 0.387 (hit@5 - hit@1) ≤ ndcg@5 ≤ hit@1 + 0.631 (hit@5 -
hit@1) and ndcg@5 + 0.289 (hit@10 - hit@5) ≤ ndcg@10 ≤ ndcg@5 + 0.356 (hit@10 - hit@5), for every user and therefore for every
mean. For Arts, hit@5 of MQL4GRec and of MACRec is the hit@10 that the paper prints for the model to the left (TIGER and
MQL4GRec).
"""
TABLE2_COMMANDS = """### Commands of the rows not run here

with the dataset imported into `data`. The costs are estimates for Instruments; Arts has 1.3 times as many interactions and 1.5
times as many items.

"""


def main(folder: Path = HERE) -> None:
    """Write results.md and its figures to ``folder``."""
    records = read_records(folder / "results")
    studies = read_studies(records)
    others = [read_all(folder / "results" / place) for place in (TRIES, STUDIES)]  # tunings, evaluations
    text = page(records, studies, *others, read_tests(folder / "results"), read_choices(folder / "results"))
    (folder / "results.md").write_text(text, encoding="utf-8")
    for study, dataset, some in tables(records):
        draw_curves(some, folder / curves_file(study, dataset))


def read_records(folder: Path) -> list[dict]:
    """Read all published results, and add the name of their study."""
    records = []
    for path in sorted(folder.rglob("*.json")):
        if {TRIES, STUDIES, TESTS}.intersection(path.relative_to(folder).parts):
            continue
        *study, _, _ = path.relative_to(folder).parts
        records.append(json.loads(path.read_text(encoding="utf-8")) | {"study": study[0] if study else FIRST_STUDY})
    return records


def read_all(folder: Path) -> list[dict]:
    """Read the published tries of all tunings, or the published tables of all studies."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.json"))]


def read_tests(folder: Path) -> dict[tuple[str, str], dict]:
    """Read the paired tests of each study and dataset."""
    found = {}
    for path in sorted(folder.rglob(f"{TESTS}/*.json")):
        study, record = path.relative_to(folder).parts[0], json.loads(path.read_text(encoding="utf-8"))
        found[FIRST_STUDY if study == TESTS else study, record["dataset"]] = record
    return found


def read_choices(folder: Path) -> dict[tuple[str, str], list[dict]]:
    """Read the published tries of the studies that tune each row, by study and dataset."""
    found: dict[tuple[str, str], list[dict]] = {}
    for path in sorted(folder.glob(f"*/{TRIES}/*/*.json")):
        found.setdefault((path.relative_to(folder).parts[0], path.parent.name), []).append(json.loads(path.read_text("utf-8")))
    return found


def read_studies(records: list[dict]) -> dict[str, StudyDefinition]:
    """Return the studies of the records, and those of MACRec's Table 2, by name."""
    return {name: read_study(name) for name in {FIRST_STUDY, TABLE2_STUDY, *(record["study"] for record in records)}}


def tables(records: list[dict]) -> list[tuple[str, str, list[dict]]]:
    """Return study, dataset and records of each table; the study `published` comes first."""
    keys = sorted({(r["study"] != FIRST_STUDY, r["study"], r["dataset"]) for r in records})
    return [(study, name, [r for r in records if (r["study"], r["dataset"]) == (study, name)]) for _, study, name in keys]


def curves_file(study: str, dataset: str) -> str:
    return f"results/curves-{dataset}.svg" if study == FIRST_STUDY else f"results/{study}/curves-{dataset}.svg"


def page(
    records: list[dict],
    studies: dict[str, StudyDefinition],
    tunings: Sequence[dict] = (),
    evaluations: Sequence[dict] = (),
    tests: dict[tuple[str, str], dict] | None = None,
    choices: dict[tuple[str, str], list[dict]] | None = None,
) -> str:
    """Return the text of results.md.

    Args:
        records: of the runs.
        studies: of the records, by name.
        tunings: the tries of each tuning.
        evaluations: the tables of studies that evaluate finished runs.
        tests: the paired tests of each study and dataset.
        choices: the tries of the studies that tune each row, by study and dataset.
    """
    parts = [INTRODUCTION]
    for name, dataset, some in tables(records):
        study = studies[name]
        metrics, papers = study.metrics or METRICS, study.published.get(dataset, {})
        heading = dataset if name == FIRST_STUDY else f"{study.title}: {dataset}"
        parts.append(f"## {heading}\n\n![Validation NDCG@10 against CPU minutes]({curves_file(name, dataset)})\n")
        added, sentence = beside(records, name, dataset)
        parts.append("### By item\n\n" + sentence + markdown_rows(["model", *metrics, "seeds"], by_item(some + added, metrics)))
        if rows := by_id(some, metrics, papers):
            parts.append("### By ID, with published results\n\n" + markdown_rows(
                ["model", *metrics, "published hit@10", "published ndcg@10"], rows))
        if record := (tests or {}).get((name, dataset)):
            parts.append(tests_section(record))
        if rows := by_modality(some, metrics):
            parts.append("### Each modality, by item\n\n" + markdown_rows(["model", "ranking", *metrics], rows))
        if name != FIRST_STUDY and (rows := learnt_ids(some)):
            parts.append(LEARNT_IDS + markdown_rows(["model", "seed", "modality", "collisions", "reconstruction error"], rows))
        if tried := (choices or {}).get((name, dataset)):
            parts.append(choices_section(tried, study.settings.get("valid_metric", VALID_METRIC)))
        columns = ["model", "seed", "epochs", "CPU minutes", "parameters", "precision", "users/s", "machine", "commit"]
        parts.append("### Training\n\n" + markdown_rows(columns, trained(some)))
        commands = "\n".join(f"    {record['command']}" for record in some)
        parts.append(f"### Commands\n\n{import_hint(dataset, [record['label'] for record in some])}\n\n{commands}\n")
    return "\n".join([*parts, *map(study_section, evaluations), *map(tries_section, tunings), table2(records, studies)])


def beside(records: list[dict], study: str, dataset: str) -> tuple[list[dict], str]:
    """Return the records of another dataset that belong into the table of this one, and the sentence that says so."""
    if (study, dataset) not in BESIDE:
        return [], ""
    source, labels = BESIDE[study, dataset]
    found = [r for r in records if (r["study"], r["dataset"]) == (FIRST_STUDY, source) and r["label"] in labels]
    sentence = (
        f"{', '.join(labels)}: the runs of [{source}](#{source.lower()}), which has the same interactions and semantic IDs.\n\n"
    )
    return found, sentence


def tests_section(record: dict) -> str:
    """Return the section with the paired tests of a comparison with several seeds."""
    tests = [{name: value for name, value in test.items() if name != "verdict"} for test in record["tests"]]
    rows = [PairedTest(**test).texts() for test in tests]
    seeds = ", ".join(map(str, record["seeds"]))
    return f"### Paired tests, seeds {seeds}\n\n" + markdown_rows(TEST_COLUMNS, rows) + f"\n{record['notes'][0]}\n"


def import_hint(dataset: str, labels: Sequence[str]) -> str:
    """Say what the commands expect in the folder ``data``."""
    if dataset.endswith("-rebuilt"):
        return f"with {dataset} imported into `data`, see [Rebuilt features](amazon.md#rebuilt-features)"
    if dataset.endswith("-sample"):
        return f"with {dataset} imported into `data`, see [MMGRec](mmgrec.md)"
    if dataset == "ml-100k":
        return "(ml-100k is part of the recbole package)"
    hint = f"with {dataset} imported into `data`, see [Amazon](amazon.md#the-dataset-instruments-of-our-results)"
    if any("rebuilt features" in label for label in labels):
        hint += (
            ". MISSRec reads features; for it, import the same files with [rebuilt features](amazon.md#rebuilt-features) into "
            f"another folder, under the name {dataset}, because models with semantic IDs learn theirs if a dataset has features"
        )
    return hint


def choices_section(tunings: list[dict], metric: str) -> str:
    """Return the section with the validation scores of the tries of each row, and the settings of the best try."""
    rows = []
    for tuning in tunings:
        tries = [entry for entry in tuning["tries"] if entry["best_valid_score"] is not None]
        if not tries:
            continue
        best = max(tries, key=lambda entry: entry["best_valid_score"])
        chosen = ", ".join(f"{name}={value}" for name, value in best["settings"].items())
        scores = ", ".join(f"{entry['best_valid_score']:.4f}" for entry in tries)
        rows.append([tuning["label"], scores, chosen or "default values"])
    text = f"A row has the settings of its try with the highest {metric} on validation. The first try has the default values."
    return f"### Tries\n\n{text}\n\n" + markdown_rows(["model", f"validation {metric} of the tries", "chosen"], rows)


def study_section(study: dict) -> str:
    """Return the section with the table of a study, without users/s: docs/speed.md has figures of idle machines."""
    result = StudyResult.of_record(study)
    kept = [number for number, column in enumerate(result.columns) if column != "users/s"]
    rows = [[row[number] for number in kept] for row in result.rows]
    columns = ["model", *(result.columns[number] for number in kept[1:])]
    text = f"`{study['command']}`, commit {study['commit']}; see [Studies](studies.md)."
    return f"## {study['title']}: {study['dataset']}\n\n{text}\n\n" + markdown_rows(columns, rows)


def tries_section(tuning: dict) -> str:
    """Return the section with the tries of a model's tuning, in descending order of their validation NDCG@10.

    If all were stopped early, they are compared after the number of epochs that most of them reached.
    """
    tries, names = tuning["tries"], list(dict.fromkeys(name for entry in tuning["tries"] for name in entry["settings"]))
    scores = [{point["epoch"] + 1: point["valid"]["ndcg@10"] for point in entry["curve"] if point["valid"]} for entry in tries]
    finished = [entry["best_valid_score"] is not None for entry in tries]
    if any(finished):
        heading, reached = "best validation ndcg@10", [max(own.values(), default=None) for own in scores]
        text = f"{sum(finished)} of {len(tries)} tries were trained to the end."
    else:
        epochs = [epoch for own in scores for epoch in own]
        after = max(set(epochs), key=lambda epoch: (epochs.count(epoch), epoch))
        planned = tuning["settings"].get("epochs")
        heading, reached = f"validation ndcg@10 after {after} epochs", [own.get(after) for own in scores]
        text = (
            f"The tries were stopped for lack of time and are compared after {after} of {planned} planned epochs; those "
            "without a figure did not get so far."
        )
    rows = [
        [number, *(str(entry["settings"].get(name, "default")) for name in names), score,
         (entry["test_result"] or {}).get("ndcg@10"), entry["epochs"]]
        for number, (entry, score) in enumerate(zip(tries, reached))
    ]  # fmt: skip
    rows.sort(key=lambda row: -(row[-3] or 0))
    options = " ".join(f"--{name}={value}" for name, value in tuning["settings"].items())
    return (
        f"## Tuning of {tuning['label']} on {tuning['dataset']}\n\n"
        f"`--tune={len(tries)}`, options of all tries: `{options}`. {text} Machine: {machine_of(tuning)}; commit "
        f"{tuning['commit']}.\n\n" + markdown_rows(["try", *names, heading, "test ndcg@10", "epochs"], rows)
    )


def table2(records: list[dict], studies: dict[str, StudyDefinition]) -> str:
    """Return the section with MACRec's Table 2: published figures, ours, and the commands of the rows that were not run."""
    study, parts, not_run = studies[TABLE2_STUDY], [TABLE2], []
    for dataset in TABLE2_DATASETS:
        rows: list[list] = []
        for label, plan in study.rows.items():
            published = published_figures(studies, dataset, label)
            ours = table2_runs(records, plan["study"], dataset, label)
            impossible = study.impossible[dataset].get(label, ())
            cells = [_published_cell(published.get(metric), metric in impossible) for metric in METRICS]
            lines = [["published", *cells]] if published else []
            lines += [[name, *counted_by_id(some, METRICS)] for name, some in ours.items()]
            if not ours:
                lines.append(["not run here", *[None] * len(METRICS)])
                not_run.append([dataset, label, f"`{table2_command(plan, dataset, label)}`", plan["cost"]])
            rows += [["" if number else label, *line] for number, line in enumerate(lines)]
        parts.append(f"### Table 2 on {dataset}\n\n" + markdown_rows(["model", "figures", *METRICS], rows))
    if not_run:
        parts.append(TABLE2_COMMANDS + markdown_rows(["dataset", "model", "command", "estimated cost"], not_run))
    return "\n".join(parts)


def published_figures(studies: dict[str, StudyDefinition], dataset: str, label: str) -> dict[str, float]:
    """Return metric -> figure of a row of MACRec's Table 2, which two studies list together."""
    first, second = (studies[name].published[dataset].get(label, {}) for name in (FIRST_STUDY, TABLE2_STUDY))
    return first | second


def table2_runs(records: list[dict], study: str, dataset: str, label: str) -> dict[str, list[dict]]:
    """Return the runs of a row on the released features, and on rebuilt ones if there are any, by their name in the table.

    Runs of the study `published` on rebuilt features have precedence: those of the study `macrec_table2` are older.
    """
    places = [
        ("ours", study, dataset, label),
        ("ours, wide", study, dataset, f"Wide {label}"),
        ("ours, rebuilt features", FIRST_STUDY, dataset, f"{label} (rebuilt features)"),
        ("ours, rebuilt features", study, f"{dataset}-rebuilt", label),
    ]
    runs: dict[str, list[dict]] = {}
    for name, *place in places:
        if some := [r for r in records if [r["study"], r["dataset"], r["label"]] == place]:
            runs.setdefault(name, some)
    return runs


def table2_command(plan: dict, dataset: str, label: str) -> str:
    """Return the command that runs a row."""
    models = f'"{label}"' if " " in label else label
    options = f"--datasets={dataset} --data_path=data --models={models} {plan.get('options', '')}".strip()
    return f"python -m recbole_macrec.benchmark study {plan['study']} {options} --output=DIR"


def _published_cell(figure: float | None, impossible: bool) -> str | None:
    return None if figure is None else f"{figure:.4f}" + ("†" if impossible else "")


def by_label(records: list[dict]) -> dict[str, list[dict]]:
    """Group records by label, in descending order of their ``valid_metric`` by item, by default NDCG@10."""
    grouped: dict[str, list[dict]] = {}
    for record in records:
        grouped.setdefault(record["label"], []).append(record)
    metrics = [r["settings"]["valid_metric"] for r in records if "valid_metric" in r["settings"]]  # a fusion has none
    metric = (metrics or [VALID_METRIC])[0].lower()
    return dict(sorted(grouped.items(), key=lambda entry: -(_mean([r["test_result"].get(metric) for r in entry[1]]) or 0)))


def marked(label: str, records: list[dict]) -> str:
    """Return ``label`` with the marks of its runs and of the models that it fuses: ‡ for ``item_prior: none``, and § for
    rankings without the items of the history, with leave-one-out."""
    fused = {name for r in records if r["label"] == label for name in r.get("fusion", {}).get("models", ())}
    runs = [r for r in records if r["label"] in {label, *fused}]
    in_item_order = any(r["settings"].get("item_prior") == "none" for r in runs)
    single = [r for r in runs if "fusion" not in r and "eval_args" not in r["settings"]]
    unseen = any(r["settings"].get("exclude_seen") or is_general(r["model"]) for r in single)
    return label + " ‡" * in_item_order + " §" * unseen


def is_general(model: str) -> bool:
    """Whether ``model`` is a general recommender of RecBole or of this package."""
    return get_model(model).type != ModelType.SEQUENTIAL


def by_item(records: list[dict], metrics: Sequence[str]) -> list[list]:
    """Return the rows of the table by item."""
    return [
        [marked(label, records), *(_mean([r["test_result"].get(m) for r in some]) for m in metrics), len(some)]
        for label, some in by_label(records).items()
    ]


def by_id(records: list[dict], metrics: Sequence[str], papers: dict[str, dict]) -> list[list]:
    """Return the rows of the table by semantic ID; none if no model counts by ID, or no paper has results."""
    rows = []
    if not papers or not any(r["test_detail"] for r in records):
        return rows
    for label, some in by_label(records).items():
        if "fusion" in some[0]:  # ranked by item alone
            continue
        published = (papers.get(label, {}).get(metric) for metric in ("hit@10", "ndcg@10"))
        rows.append([marked(label, records), *counted_by_id(some, metrics), *published])
    return rows


def counted_by_id(records: list[dict], metrics: Sequence[str]) -> list[float | None]:
    """Return the metrics of runs of one label by semantic ID; by item if the model has no semantic IDs."""
    if records[0]["test_detail"]:
        return [_mean([r["test_detail"]["fused"]["id"].get(m) for r in records]) for m in metrics]
    return [_mean([r["test_result"].get(m) for r in records]) for m in metrics]


def by_modality(records: list[dict], metrics: Sequence[str]) -> list[list]:
    """Return the rows of the table of each modality's ranking."""
    rows = []
    for label, some in by_label(records).items():
        for name in some[0]["test_detail"] or ():
            if len(some[0]["test_detail"]) > 2:
                means = (_mean([r["test_detail"][name]["item"].get(m) for r in some]) for m in metrics)
                rows.append([marked(label, records), name, *means])
    return rows


def learnt_ids(records: list[dict]) -> list[list]:
    """Return the rows of the table of semantic IDs."""
    rows = []
    for label, some in by_label(records).items():
        for r in some:
            rows += [
                [label, r["seed"], m, f"{ids['collision_rate']:.2%}", ids.get("reconstruction_error")]
                for m, ids in (r["semantic_ids"] or {}).items()
            ]
    return rows


def trained(records: list[dict]) -> list[list]:
    """Return the rows of the table of training runs."""
    rows = []
    for label, some in by_label(records).items():
        for r in some:
            minutes = f"{r['seconds']['cpu'] / 60:.1f}"
            rows.append(
                [
                    label,
                    r["seed"],
                    r["epochs"],
                    minutes,
                    f"{r['parameters']:,}",
                    r["precision"]["training"],
                    f"{r['users_per_second']:,.0f}" if r.get("users_per_second") else None,
                    machine_of(r),
                    r["commit"],
                ]
            )
    return rows


def machine_of(record: dict) -> str:
    """Return the processor or the GPU of a run."""
    machine = record["machine"]
    return ", ".join(machine["gpus"]) or f"{machine['threads']} thread(s) of {machine['processor']}"


def _mean(values: Sequence[float | None]) -> float | None:
    return over_seeds(values).mean


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
            axes.plot(*zip(*points), marker=".", label=f"{label} (GPU)" if record["machine"]["gpus"] else label)
    axes.set(xlabel="CPU minutes, validation included", ylabel="validation ndcg@10 by item", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
