"""Results of finished runs as small JSON files for a repository.

    python -m recbole_macrec.benchmark publish DIR --to=docs/results

writes each finished run of a comparison to docs/results/DATASET/LABEL-seed-SEED.json: its command and settings, its test
metrics by item and by ID, its learning curve, and commit, machine and seconds. The .npz file beside it has the ranks of the
test targets, 0 if greater than the largest topk. The tries of --tune are written to docs/results/tries/DATASET/LABEL.json: for
a row of the comparison those that the best one was chosen from, for an unfinished tuning all tries, with their validations so
far. Existing files are replaced. The table of a study that evaluates finished runs again, such as ranking, is written to
docs/results/studies/STUDY-DATASET.json.

The paired tests of a comparison with several seeds are written to docs/results/tests/DATASET.json. They include all published
rows with ranks of these seeds, also those of other comparisons.
"""
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_macrec.benchmark.arguments import settings_with_output_file
from recbole_macrec.benchmark.compare.ranks import TargetRanks
from recbole_macrec.benchmark.compare.run_files import read_json, write_json
from recbole_macrec.benchmark.compare.runs import (
    BEST,
    COMPARE,
    EXECUTION_SETTINGS,
    FIRST_TRY,
    STUDY,
    TUNE,
    Comparison,
    Run,
    file_name,
    open_comparison,
)
from recbole_macrec.benchmark.compare.statistics import compare_labels
from recbole_macrec.benchmark.compare.table import Row, Table, greatest_k, precisions, test_notes, tested_metrics
from recbole_macrec.config.options import format_value, known_options
from recbole_macrec.utils.arguments import CommandParser

TRIES = "tries"  # folder of the tries of tunings
STUDIES = "studies"  # folder of the tables of studies
TESTS = "tests"  # folder of the paired tests
RANKS_SUFFIX = ".npz"  # suffix of the file with a run's ranks
FIELDS = (
    "model", "dataset", "seed", "test_result", "test_detail", "best_valid_score", "best_valid_result", "epochs", "parameters",
    "precision", "seconds", "users_per_second", "peak_memory_mib", "test_users", "semantic_ids", "versions", "commit",
)  # fmt: skip


def main(argv: list[str]) -> int:
    """The command ``publish``; returns the exit code."""
    parser = CommandParser("python -m recbole_macrec.benchmark publish", __doc__)
    parser.add_argument("folder", nargs="+", help="--output folder of compare or study")
    parser.add_argument("--to", default="docs/results", help="folder to write to (default: docs/results)")
    args = parser.parse(argv)
    for folder in map(Path, args.folder):
        publish(folder, Path(args.to))
    return 0


def publish(folder: Path, to: Path) -> None:
    """Write the results in ``folder``, that of a comparison, a study or an unfinished tuning, to the folder ``to``."""
    if (folder / TUNE).is_dir() and not (folder / COMPARE).is_file():  # --tune has not chosen yet
        publish_tries(folder, None, to)
        return
    comparison = open_comparison(folder)
    publish_tries(folder, comparison, to)
    for run in comparison.runs:
        if run.finished:
            path = to / run.spec.dataset / f"{file_name(run.spec.label)}-seed-{run.spec.seed}.json"
            print(write_json(published_record(run), path))
            run.ranks.of_targets().first(greatest_k(run.result["test_result"])).save(path.with_suffix(RANKS_SUFFIX))
    for dataset in comparison.datasets:
        publish_tests(comparison, dataset, to)
    if (folder / STUDY).is_file() and (study := read_json(folder / STUDY)).get("kind") not in (None, "published"):
        print(write_json(published_study(study), to / STUDIES / f"{study['name']}-{study['dataset']}.json"))


def publish_tries(folder: Path, comparison: Comparison | None, to: Path) -> None:
    """Write the tries in ``folder`` of the rows of ``comparison``; those of all rows if it is None."""
    for path in sorted(path for path in folder.glob(f"{TUNE}/*/*") if path.is_dir()):
        tries = tries_chosen_from(path)
        if not tries:  # their folders were deleted to save space
            continue
        spec = tries[0].spec
        if comparison is None or (spec.dataset in comparison.datasets and spec.label in comparison.labels):
            print(write_json(published_tries(tries), to / TRIES / spec.dataset / f"{path.name}.json"))


def tries_chosen_from(folder: Path) -> list[Run]:
    """The tries that the best one was chosen from; all of them if it is not chosen yet."""
    scores = read_json(folder / BEST)["scores"] if (folder / BEST).is_file() else None
    return [Run(place) for place in sorted(folder.glob("try-*")) if scores is None or place.name in scores]


def publish_tests(comparison: Comparison, dataset: str, folder: Path) -> None:
    """Write the paired tests of the runs on ``dataset`` in ``folder``, after those of ``comparison`` were published there.

    After a comparison with one seed, earlier tests are computed again if they are about runs that it has replaced, and removed
    if that is not possible.
    """
    file, seeds, pairs = folder / TESTS / f"{dataset}.json", comparison.seeds, comparison.pairs
    earlier = read_json(file) if file.is_file() else {"tests": []}
    replaced = {run.spec.label for run in comparison.runs if run.finished and run.spec.dataset == dataset}
    outdated = not replaced.isdisjoint(test[side] for test in earlier["tests"] for side in ("first", "second"))
    if len(seeds) < 2 and outdated:
        seeds, pairs = earlier["seeds"], list(dict.fromkeys((test["first"], test["second"]) for test in earlier["tests"]))
    if record := published_tests(folder / dataset, seeds, pairs):
        print(write_json(record, file))
    elif outdated:
        file.unlink()


def published_tests(folder: Path, seeds: Sequence[int], pairs: Sequence[tuple[str, str]] = ()) -> dict:
    """The published record of paired tests, with the sentences on their method; empty with one seed or fewer than two rows.

    Args:
        folder: the published runs of a dataset. All rows are tested that have runs with these ``seeds``.
        pairs: of labels, see :func:`compare_labels`.
    """
    if len(seeds) < 2:
        return {}
    runs: dict[str, dict[int, tuple[dict, Path]]] = {}  # label -> seed -> record, and file of the ranks
    for path in sorted(folder.glob("*.json")):
        record = read_json(path)
        runs.setdefault(record["label"], {})[record["seed"]] = record, path.with_suffix(RANKS_SUFFIX)
    complete = {label: [own[seed] for seed in seeds] for label, own in runs.items() if own.keys() >= set(seeds)}
    tested = {label: own for label, own in complete.items() if all(file.is_file() for _, file in own)}
    if left_out := [label for label in complete if label not in tested]:
        print(f"Not tested, because they were published without ranks: {', '.join(left_out)}")
    metrics = tested_metrics([record for own in tested.values() for record, _ in own])
    if len(tested) < 2 or not metrics:
        return {}
    ranks = {label: [TargetRanks.load(file) for _, file in own] for label, own in tested.items()}
    rows = [Row(label, {}, precision=precisions([record for record, _ in own])) for label, own in tested.items()]
    table = Table(folder.name, [], metrics, rows, *compare_labels(ranks, metrics, pairs))
    tests = [test.as_dict() for test in table.tests]
    return {"dataset": folder.name, "seeds": list(seeds), "tests": tests, "notes": test_notes(table)}


def published_study(study: dict) -> dict:
    """The published record of the table of a study, without the data of its figures."""
    given = {name: value for name, value in study.get("options", {}).items() if name not in EXECUTION_SETTINGS}
    program = f"python -m recbole_macrec.benchmark study {_quoted(study.get('file') or study['name'])}"
    own = {name: given.pop(name) for name in ("models", "seeds", "tune") if name in given}
    command = _command(program, {"datasets": study["dataset"], "data_path": "data", "output": "DIR"} | own, given)
    return {"command": command} | {name: value for name, value in study.items() if name not in ("figures", "options", "file")}


def published_tries(runs: list[Run]) -> dict:
    """The published record of the tries of one label on one dataset.

    ``settings`` are those that all tries have in common. They are the settings of try-000, even if that failed and is not among
    ``runs``. Each entry of ``tries`` has the settings that it adds, and its validations; an unfinished try has the validations
    that it made so far.
    """
    spec = Run(runs[0].folder.with_name(FIRST_TRY)).spec
    tries = []
    for run in runs:
        result: dict[str, Any] = run.result if run.finished else {}
        tries.append({
            "settings": {name: value for name, value in run.spec.settings_with_effect.items() if name not in spec.settings},
            **{name: result.get(name) for name in ("best_valid_score", "test_result", "epochs", "parameters", "seconds")},
            "curve": [{"epoch": point["epoch"], "valid": point["valid"]} for point in run.curve if point["valid"]],
        })
    finished = next((run.result for run in runs if run.finished), {})
    record = {"label": spec.label, "model": spec.model, "dataset": spec.dataset, "seed": spec.seed}
    record["settings"] = spec.settings_with_effect
    return record | {"commit": finished.get("commit"), "machine": finished.get("hardware"), "tries": tries}


def published_record(run: Run) -> dict:
    """The published record of a finished run. ``settings`` are those of the command line that the model has, without paths and
    devices: a comparison gives all models the options of each, and the command of one model refuses the others.

    The record of a fusion has ``fusion``, with the weights of its models; DIR in its command is the folder of the comparison.
    """
    spec, settings, fusion = run.spec, run.spec.settings_with_effect, run.result.get("fusion")
    if fusion:
        options = {"models": ",".join(fusion["models"]), "top": settings["top"]}
        command = _command("python -m recbole_macrec.benchmark fuse DIR", options, {})
    else:
        known = known_options((spec.model,), spec.dataset)
        settings = {name: value for name, value in settings.items() if name in known}
        options = {"model": spec.model, "dataset": spec.dataset, "data_path": "data", "seed": spec.seed}
        command = _command("python run_recbole_macrec.py", options, settings)
    record = {"label": spec.label, "command": command, **{name: run.result.get(name) for name in FIELDS}}
    if fusion:
        record["fusion"] = {name: value for name, value in fusion.items() if name != "checkpoints"}
    return record | {"settings": settings, "machine": run.result["hardware"], "curve": run.curve}


def _command(program: str, options: dict[str, Any], settings: dict[str, Any]) -> str:
    """The shell command that runs ``program`` with its own ``options``, whose values are read as texts, and the ``settings`` of
    RecBole and the model."""
    write_file, settings = settings_with_output_file(settings)
    texts = {name: str(value) for name, value in options.items()} | {n: format_value(v) for n, v in settings.items()}
    arguments = [f"--{name}={_quoted(text)}" for name, text in texts.items()]
    return " ".join([*([write_file, "&&"] if write_file else []), program, *arguments])


def _quoted(text: str) -> str:
    """``text`` as an argument of a shell command; in double quotes, which are readable around Python lists."""
    return text if re.fullmatch(r"[\w./,:=+@-]+", text) else '"' + re.sub(r'(["$`\\])', r"\\\1", text) + '"'
