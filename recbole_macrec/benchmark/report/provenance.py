"""The origin of the results: runs, settings, machines, library versions, and the command to repeat them."""
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from recbole_macrec.benchmark.arguments import settings_with_output_file
from recbole_macrec.benchmark.compare.runs import EXECUTION_SETTINGS, Comparison, Run
from recbole_macrec.benchmark.report.grids import Cell, Grid
from recbole_macrec.config.options import format_value
from recbole_macrec.data import DATA_PATH

HIDDEN = (
    *EXECUTION_SETTINGS, "seed", "model", "dataset", "device", "checkpoint_dir", "config_files", "local_rank", "offset", "ip",
    "port",
)  # fmt: skip


def runs(comparison: Comparison, dataset: str, metrics: Sequence[str]) -> Grid:
    """Return the table of all runs, including unfinished ones."""
    numeric = ("seed", "epochs", "best validation", *metrics, "training s")
    grid = Grid("Every run", [("model", False), *((name, True) for name in numeric), ("state", False)])
    for run in comparison.runs:
        if run.spec.dataset != dataset:
            continue
        row = [Cell(run.spec.label), Cell(str(run.spec.seed), run.spec.seed)]
        if run.finished:
            row += [*_run_cells(run, metrics), Cell("finished")]
        else:
            epochs = len(run.curve)
            state = Cell(f"failed: {run.error}", mark="note") if run.error else Cell("unfinished", mark="note")
            row += [Cell(str(epochs), epochs), *(Cell("") for _ in numeric[2:]), state]
        grid.rows.append(row)
    return grid


def _run_cells(run: Run, metrics: Sequence[str]) -> list[Cell]:
    result = run.result
    best = (result["best_valid_result"] or {}).get(str(result["settings"].get("valid_metric")).lower())
    seconds = result["seconds"]["training"]
    tested = [result["test_result"].get(metric) for metric in metrics]
    values = [("{:d}", result["epochs"]), *(("{:.4f}", value) for value in (best, *tested)), ("{:,.1f}", seconds)]
    return [Cell("" if value is None else form.format(value), value) for form, value in values]


def settings(comparison: Comparison, dataset: str) -> tuple[Grid, Grid]:
    """Return the settings that differ between trained labels, and those that all share (of the first finished run of each)."""
    finished = {label: comparison.of(dataset, label) for label in comparison.trained_labels}
    by_label = {label: of_label[0].result["settings"] for label, of_label in finished.items() if of_label}
    shared = Grid("The same for all models", [("option", False), ("value", False)])
    own = Grid("Different between models, or read only by some", [("option", False), *((label, False) for label in by_label)])
    for key in sorted({key for of_label in by_label.values() for key in of_label}, key=str.lower):
        if key in HIDDEN:
            continue
        values = [_shown(of_label[key]) if key in of_label else "–" for of_label in by_label.values()]
        if len(set(values)) == 1:
            shared.rows.append([Cell(key), Cell(values[0])])
        else:
            own.rows.append([Cell(key), *map(Cell, values)])
    return own, shared


def _shown(value) -> str:
    if isinstance(value, str):
        return value.removeprefix("recbole.utils.enum_type:")
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def versions(comparison: Comparison) -> list[dict[str, str]]:
    """Return every combination of machine and library versions that runs used, with the number of its runs."""
    counts: dict[str, int] = {}
    for run in comparison.runs:
        if run.finished:
            machine = run.result["hardware"]
            described = {
                "processor": f"{machine['processor']}, {machine['cores']} cores",
                "memory": f"{machine['memory_gib']} GiB",
                "GPU": ", ".join(machine["gpus"]) or "none",
                **{name: version for name, version in run.result["versions"].items() if version},
            }
            text = json.dumps(described)
            counts[text] = counts.get(text, 0) + 1
    return [{"runs": str(count), **json.loads(text)} for text, count in counts.items()]


def command(comparison: Comparison) -> str:
    """Return the ``compare`` command that repeats the comparison, without fusions; empty for variants of a study.

    Of the path of the datasets it has only the last folder.

    A line before it writes the model option ``output``, which cannot be set on the command line, to a file.
    """
    specs = [run.spec for run in comparison.runs if run.spec.label in comparison.trained_labels]
    settings = {json.dumps(spec.settings_with_effect, sort_keys=True) for spec in specs}
    if len(settings) != 1 or any(spec.label != spec.model for spec in specs):
        return ""
    seeds = comparison.seeds
    arguments = [f"--models={','.join(comparison.trained_labels)}", f"--datasets={','.join(comparison.datasets)}"]
    arguments += [f"--seeds={','.join(map(str, seeds))}"] if len(seeds) > 1 else ["--seeds=1", f"--seed={seeds[0]}"]
    if pairs := [pair for pair in comparison.pairs if set(pair) <= set(comparison.trained_labels)]:
        arguments.append(f"--pairs={','.join(':'.join(pair) for pair in pairs)}")
    if (folder := Path(specs[0].settings.get("data_path") or DATA_PATH).name) != DATA_PATH:
        arguments.append(f"--data_path={folder}")
    first_line, values = settings_with_output_file(json.loads(settings.pop()))
    arguments += [f"--{key}={format_value(value)}" for key, value in values.items()]
    line = " ".join(["python -m recbole_macrec.benchmark compare", *map(shlex.quote, arguments), "--output=DIR"])
    return f"{first_line}\n{line}" if first_line else line
