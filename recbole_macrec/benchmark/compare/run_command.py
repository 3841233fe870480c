"""The command ``run_recbole_macrec.py``: runs one model, or compares several."""
import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from recbole_macrec.benchmark.arguments import SETTINGS, comparison_folder, output_file, read_settings
from recbole_macrec.benchmark.compare.comparison import compare, split_names
from recbole_macrec.benchmark.compare.matrix import Matrix, Variant, first_seed, matrix_settings
from recbole_macrec.benchmark.compare.recorder import RunRecorder
from recbole_macrec.benchmark.compare.run_files import write_json
from recbole_macrec.benchmark.compare.run_model import Request, prepare_for_model, run_config, run_model
from recbole_macrec.benchmark.compare.table import build_table
from recbole_macrec.benchmark.compare.table_formats import print_table
from recbole_macrec.benchmark.compare.unfinished import unfinished_run
from recbole_macrec.config.options import check_dataset, check_model, check_options, has_source, read_config_file
from recbole_macrec.config.schema.base import as_list
from recbole_macrec.errors import UserError
from recbole_macrec.utils.arguments import CommandParser
from recbole_macrec.utils.distributed import Group, group, read_launch
from recbole_macrec.utils.files import remove_temporary_files
from recbole_macrec.utils.launcher import DEFAULT_PORT, start_processes
from recbole_macrec.utils.reporting import run_command
from recbole_macrec.utils.unique_names import unique_folder

DEFAULT_MODELS, DEFAULT_DATASET = "MACRec,SASRec,Pop", "arts-toy"


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, sys.argv[1:] if argv is None else argv)


def _run(argv: list[str]) -> int:
    with group() as processes:
        args, settings = parse(argv)
        named = Request("", tuple(args.config_files.split()), settings)
        given = as_list(named.value("model", DEFAULT_MODELS)) if args.model is None else [args.model]
        models = split_names(",".join(map(str, given)))
        dataset = str(named.value("dataset", DEFAULT_DATASET)) if args.dataset is None else args.dataset
        request = replace(named, dataset=dataset)
        check(models, request, args)
        starts = read_launch() is None and _group_size(args) > 1
        if not starts and len(models) == 1 and not args.output:
            return _run_one(models[0], request, args, processes)
        name = Path("results") / f"{request.dataset}-{time.strftime('%Y%m%d-%H%M%S')}"
        output = None if starts else processes.by_first(lambda: args.output or unique_folder(name))
    if output is None:
        return start_processes(_run, (argv,), args.nproc, _group_size(args), args.ip, args.port, args.group_offset)
    return _compare(models, request, output)


def _run_one(model: str, request: Request, args: argparse.Namespace, processes: Group) -> int:
    """Run one model and print its table; an unfinished run of the same command is resumed."""
    request = replace(request, settings=request.settings | {"data_path": request.data_path})
    if processes.first and not request.value("source"):
        check_dataset(request.dataset, request.data_path, request.value("benchmark_filename") is not None)
    if has_source(request.dataset) or request.value("source"):
        prepare_for_model(model, request)
    if processes.first and args.result_file:
        remove_temporary_files(Path(args.result_file).parent, f"{Path(args.result_file).name}.")
    with unfinished_run(run_config(model, request), processes.size, args.fresh) as run:
        record = run_model(model, request, RunRecorder(run))
    if processes.first:
        print_table(build_table(f"{request.dataset}: test results", {model: [record]}))
        if args.result_file:
            print(f"Result: {write_json(record, args.result_file)}")
    return 0


def _compare(models: list[str], request: Request, output: str | Path) -> int:
    """Run a comparison with one seed."""
    variants = [Variant(model, model) for model in models]
    return compare(Matrix(variants, [request.dataset], [first_seed(request)], matrix_settings(request)), output)


def parse(argv: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Parse our own arguments, and RecBole's ``--key=value`` settings."""
    parser = CommandParser("run_recbole_macrec.py", "Train and test one or more models on a dataset with RecBole.",
                           epilog=SETTINGS)
    parser.add_argument("--model", "-m", help=f"one or more models, separated by commas (default: {DEFAULT_MODELS})")
    parser.add_argument("--dataset", "-d", help=f"folder below data_path (default: {DEFAULT_DATASET})")
    parser.add_argument("--config_files", default="", help="YAML files, separated by spaces; later ones take precedence")
    parser.add_argument("--nproc", type=int, default=1, help="processes on this machine (default: 1)")
    parser.add_argument("--ip", default="localhost", help="address of the first machine")
    parser.add_argument(
        "--port", type=int, help=f"port of the first machine (default: a free one; for several machines {DEFAULT_PORT})"
    )
    parser.add_argument("--world_size", type=int, default=-1, help="processes on all machines (default: nproc)")
    parser.add_argument("--group_offset", type=int, default=0, help="rank of this machine's first process")
    parser.add_argument(
        "--output", type=comparison_folder,
        help="folder of the comparison (default for several models: a new folder in results/); the model option of this name "
        "is set in --config_files",
    )  # fmt: skip
    parser.add_argument("--result_file", metavar="F.json", type=output_file("--result_file"),
                        help="one model: settings, results, versions, seconds")
    parser.add_argument(
        "--fresh", action="store_true", help="one model: start from the beginning although this command was interrupted before"
    )
    return read_settings(parser, argv)


def _group_size(args: argparse.Namespace) -> int:
    """Number of processes on all machines."""
    return args.world_size if args.world_size > 0 else args.nproc


def check(models: list[str], request: Request, args: argparse.Namespace) -> None:
    """Raise a UserError for unknown models and options, and for arguments that exclude each other."""
    if not models:
        raise UserError("--model names no model; give one or more, as --model=MACRec,SASRec.")
    if not request.dataset:
        raise UserError("--dataset names no dataset; give the name of a folder below data_path, as --dataset=arts-toy.")
    if args.nproc < 1:
        raise UserError(f"--nproc is {args.nproc}; expected at least 1.")
    if _group_size(args) < args.group_offset + args.nproc or args.group_offset < 0:
        raise UserError(
            f"--world_size is {_group_size(args)} and --group_offset {args.group_offset}; expected a world_size of at least "
            "group_offset + nproc, the number of processes on all machines."
        )
    if args.port is not None and not 0 < args.port < 65536:
        raise UserError(f"--port is {args.port}; expected a port from 1 to 65535.")
    if (launch := read_launch()) and args.nproc not in (1, launch.local_size):
        raise UserError(
            f"--nproc is {args.nproc}, but a launcher has started {launch.local_size} processes on this machine; leave "
            "--nproc out."
        )
    if args.result_file and (len(models) > 1 or args.output):
        raise UserError(
            "--result_file is for one model without --output; leave it out and use --output=DIR, which has all results."
        )
    if args.fresh and (len(models) > 1 or args.output):
        raise UserError("--fresh is for one model without --output; to start from the beginning, name another --output=DIR.")
    for model in models:
        check_model(model)
    check_options(request.settings, models, request.dataset, "the command line", vars(args))
    for path in request.config_files:
        check_options(read_config_file(path), models, request.dataset, path)
