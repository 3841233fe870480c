"""Compares models: each run in its own process, then tables with significance tests.

    python -m recbole_macrec.benchmark compare --models=MACRec,TIGER,SASRec --datasets=arts-toy --seeds=3 --output=DIR

Every other --key=value is an option of RecBole, the models or the dataset, for every run. The same command with the same folder
continues: finished runs are not repeated, and a killed run resumes from its newest checkpoint, with the same results as an
uninterrupted run (models whose trainer cannot resume start again). Within an epoch a checkpoint is written every five minutes.

--minutes=N stops the command in time: between two batches, or before a validation or test that would take longer than the time
left. It does not interrupt reading the data, learning semantic IDs, a validation or test, S3Rec's pre-training, and models that
cannot resume. Each call makes some progress, however short.

The seed of the semantic IDs is the run's seed, so the deviation over seeds includes that of the quantizer;
--semantic_id_seed=2020 gives all runs the same IDs. IDs of the same features, settings and seed are learnt once and shared.

--tune=N gives every model N tries with the options of properties/hyper/MODEL.hyper, on the first seed, before the comparison.
The best try by validation is the run of the first seed.
"""
import argparse
import math
import time
from pathlib import Path
from typing import Any

from recbole_macrec.benchmark.arguments import SETTINGS, comparison_folder, read_settings
from recbole_macrec.benchmark.compare.cluster import RayCluster
from recbole_macrec.benchmark.compare.matrix import Matrix, Variant, matrix_settings, parse_seeds
from recbole_macrec.benchmark.compare.pool import run_all
from recbole_macrec.benchmark.compare.run_model import Request
from recbole_macrec.benchmark.compare.runs import Comparison, fusions_in
from recbole_macrec.benchmark.compare.statistics import compare_labels
from recbole_macrec.benchmark.compare.table import Table, build_table, tested_metrics
from recbole_macrec.benchmark.compare.table_formats import print_table, write_tables
from recbole_macrec.benchmark.compare.together import run_together
from recbole_macrec.benchmark.compare.tune import choose, copy_chosen_tries, tries_to_run, write_tries
from recbole_macrec.benchmark.compare.worker import Resources
from recbole_macrec.errors import UserError
from recbole_macrec.utils.arguments import CommandParser
from recbole_macrec.utils.distributed import group, read_launch


def main(argv: list[str]) -> int:
    """The command ``compare``; returns the exit code."""
    with group():  # one process reports errors
        args, settings = parse(argv)
        request = Request("", tuple(args.config_files.split()), settings)
        matrix = Matrix(
            [Variant(name, name) for name in split_names(args.models)],
            split_names(args.datasets),
            parse_seeds(args.seeds, request),
            matrix_settings(request),
            parse_pairs(args.pairs),
            fusions_in(args.output),
        )
        matrix.check(vars(args), request.config_files)
        matrix.check_pairs()
    return compare(matrix, args.output, args.jobs, args.minutes, args.ray, tries=args.tune)


def parse(argv: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Parse our own arguments, and RecBole's ``--key=value`` settings."""
    parser = CommandParser("python -m recbole_macrec.benchmark compare", __doc__, epilog=SETTINGS)
    parser.add_argument("--models", "--model", required=True, help="such as MACRec,TIGER,SASRec")
    parser.add_argument("--datasets", "--dataset", default="arts-toy", help="such as Instruments,Arts (default: arts-toy)")
    parser.add_argument(
        "--pairs",
        default="",
        help="pairs to test, such as MACRec:TIGER,MACRec:SASRec (default: the best model against each other model)",
    )
    add_matrix_options(parser)
    return read_settings(parser, argv)


def add_matrix_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that ``compare`` and ``study`` share."""
    parser.add_argument(
        "--output", type=comparison_folder, required=True,
        help="folder of the comparison, new or unfinished; the model option of this name is set in --config_files",
    )  # fmt: skip
    parser.add_argument("--seeds", default="1", help="number of seeds, or the seeds, such as 1,7,42 (default: 1)")
    parser.add_argument("--config_files", default="", help="YAML files, separated by spaces; later ones take precedence")
    parser.add_argument("--tune", type=int, metavar="N", help="choose each model's settings from N tries by validation")
    parser.add_argument("--jobs", type=int, default=1, help="number of runs at a time (default: 1)")
    parser.add_argument(
        "--minutes", type=float, help="stop at a checkpoint after this many minutes; give the same command again to continue"
    )
    parser.add_argument("--ray", metavar="ADDRESS", help="run on the machines of this Ray cluster, such as auto")


def split_names(text: str) -> list[str]:
    """Split ``text`` at commas; empty names are dropped."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_pairs(text: str) -> list[tuple[str, str]]:
    """Parse ``--pairs``.

    Raises:
        UserError: for anything but pairs of labels.
    """
    pairs: list[tuple[str, str]] = []
    for pair in split_names(text):
        if pair.count(":") != 1:
            raise UserError(f"--pairs has '{pair}'; expected two labels, such as MACRec:TIGER.")
        first, second = pair.split(":")
        if first == second or {first, second} in map(set, pairs):
            raise UserError(f"--pairs has '{pair}'; expected each pair of different labels once.")
        pairs.append((first, second))
    return pairs


def compare(
    matrix: Matrix, output: str | Path, jobs: int = 1, minutes: float | None = None, ray: str | None = None,
    tries: int | None = None,
) -> int:  # fmt: skip
    """Execute the unfinished runs of ``matrix`` in the folder ``output`` and write the tables.

    The processes of a launcher execute each run together, and the first one writes.

    Args:
        jobs: number of runs at a time.
        minutes: stop at a checkpoint before this time is over; None for no limit.
        ray: address of a Ray cluster whose machines execute the runs; None for this machine.
        tries: number of tries when tuning each model; None for no tuning.

    Returns:
        The exit code: 1 if a run has failed, otherwise 0.
    """
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}; expected at least 1.")
    if minutes is not None and not 0 <= minutes < math.inf:
        raise UserError(f"--minutes is {minutes}; expected a number of minutes.")
    if ray and jobs > 1:
        raise UserError(f"--jobs is {jobs}, with --ray; leave it out: every free CPU of the cluster executes a run.")
    if read_launch():
        with group():
            if jobs > 1 or minutes is not None or ray or tries is not None:
                raise UserError(
                    "With a launcher, all processes execute one run after the other; leave out --jobs, --minutes, --ray and "
                    "--tune, or start the command without torchrun."
                )
        return _compare_together(matrix, output)
    deadline = time.time() + 60 * minutes if minutes is not None else None
    matrix.check()
    resources = Resources(deadline=deadline)
    cluster = RayCluster(ray, resources.threads) if ray else None  # fails before anything is downloaded
    matrix.prepare_datasets()
    tuned, runs_of = None, {}
    if tries is not None:
        runs_of = write_tries(matrix, Path(output), tries)
        run_all(tries_to_run(runs_of), jobs, resources, cluster, "Tune")
        tuned = choose(matrix, Path(output), runs_of)
        if tuned is None:
            print("The tuning is not finished; give the same command again to continue.")
            return 0
    comparison = write_matrix(matrix, output, tuned)
    copy_chosen_tries(comparison, runs_of)
    run_all(comparison.runs, jobs, resources, cluster)
    return write_and_print_tables(comparison)


def _compare_together(matrix: Matrix, output: str | Path) -> int:
    with group() as processes:
        if processes.first:
            matrix.check()
        matrix.prepare_datasets()
        comparison = processes.by_first(lambda: write_matrix(matrix, output))
    run_together(comparison.runs)
    return write_and_print_tables(comparison) if processes.first else 0


def write_matrix(
    matrix: Matrix, output: str | Path, tuned: dict[tuple[str, str], dict[str, Any]] | None = None
) -> Comparison:
    """Write the folder of the comparison, see :meth:`Matrix.write`, and print which results of the folder it leaves out."""
    comparison = matrix.write(output, tuned)
    if names := comparison.other_results():
        print(
            f"{output} also has results of {', '.join(names)}; they are left out of the tables, because this command does not "
            "name them."
        )
    return comparison


def write_and_print_tables(comparison: Comparison) -> int:
    """Write and print the tables of a comparison; returns 1 if a run has failed, otherwise 0."""
    tables = comparison_tables(comparison)
    for table in tables:
        print_table(table)
        print(*table.remarks, sep="\n", end="\n" if table.remarks else "")
    print("Tables:", *write_tables(tables, comparison.folder))
    if waiting := len(comparison.waiting):
        print(f"{waiting} of {len(comparison.runs)} runs are not finished; give the same command again to continue.")
    return 1 if any(run.error for run in comparison.runs) else 0


def comparison_tables(comparison: Comparison) -> list[Table]:
    """One table per dataset, from the finished runs."""
    tables = []
    for dataset in comparison.datasets:
        groups = {label: [run.result for run in comparison.of(dataset, label)] for label in comparison.labels}
        table = build_table(f"{dataset}: test results", groups, _notes(comparison, dataset))
        table.tests, table.untested = _tests(comparison, dataset)
        records = [record for some in groups.values() for record in some]
        table.remarks = list(filter(None, [candidates_remark(groups), *map(fusion_remark, records)]))
        tables.append(table)
    return tables


def candidates_remark(groups: dict[str, list[dict]]) -> str:
    """A sentence that names the rows that do not rank the items of the history, if others do; empty if all rows have the same
    candidates, or if that is unknown, as in results of older versions."""
    ranked = {label: records[0].get("history_ranked") for label, records in groups.items() if records}
    if None in ranked.values() or len(set(ranked.values())) < 2:
        return ""
    without = [label for label, history in ranked.items() if not history]
    return (
        f"Ranked without the items of the user's history: {', '.join(without)}. The other models rank these items, too; "
        "--exclude_seen=True leaves them out of the rankings of all models."
    )


def fusion_remark(record: dict) -> str:
    """Sentences with the weights of a fused run and the overlap of its models' hits; empty for any other run."""
    if not (fusion := record.get("fusion")):
        return ""
    overlap, models = fusion["overlap"], fusion["models"]
    weights = ", ".join(f"{weight:.3g} {model}" for model, weight in zip(models, fusion["weights"]))
    hits = ", ".join(f"{share:.4f} {model}" for model, share in overlap["hit"].items())
    general, sentence = fusion.get("general", []), ""  # missing in results of older versions
    if 0 < len(general) < len(models):
        sentence = (
            f" Unlike the other models, {' and '.join(general)} cannot read the validation items of the test users, so the "
            "weight chosen on validation may be too high."
        )
    return (
        f"{record['model']}, seed {record['seed']}: weights {weights}, chosen on validation. Hit@{overlap['k']} of the models "
        f"among the candidates: {hits}; of at least one of them: {overlap['oracle']:.4f}.{sentence}"
    )


def _notes(comparison: Comparison, dataset: str) -> dict[str, str]:
    """Label -> a note on its failed, unfinished or missing runs."""
    notes = {}
    for label in comparison.labels:
        runs = [run for run in comparison.runs if (run.spec.dataset, run.spec.label) == (dataset, label)]
        errors = [run.error for run in runs if run.error]
        missing = [run for run in runs if not run.finished]
        if errors:
            notes[label] = f"failed: {errors[0]}"
        elif missing:
            notes[label] = f"{len(missing)} of {len(runs)} runs unfinished ({missing[0].progress})"
        elif label in comparison.fusions and len(runs) < len(comparison.seeds):
            notes[label] = f"fused for {len(runs)} of {len(comparison.seeds)} seeds; run fuse again"
    return notes


def _tests(comparison: Comparison, dataset: str) -> tuple[list, list]:
    """Paired tests of the metrics with the largest k that all runs have, between labels whose runs are all finished; and the
    pairs that cannot be tested."""
    complete = [label for label in comparison.labels if len(comparison.of(dataset, label)) == len(comparison.seeds)]
    metrics = tested_metrics([run.result for label in complete for run in comparison.of(dataset, label)])
    if len(complete) < 2 or not metrics:
        return [], []
    ranks = {label: [run.ranks.of_targets() for run in comparison.of(dataset, label)] for label in complete}
    return compare_labels(ranks, metrics, comparison.pairs)
