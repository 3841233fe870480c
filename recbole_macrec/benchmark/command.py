"""``run_recbole_macrec.py``: its command line, and what it prints and writes."""
import argparse
import sys
import traceback
from pathlib import Path

from recbole_macrec.benchmark.failures import sentence
from recbole_macrec.benchmark.run import Processes, Request, prepare, run_model
from recbole_macrec.benchmark.table import print_table, write_json, write_table
from recbole_macrec.errors import UserError, nearest
from recbole_macrec.options import check_dataset, check_model, check_options, has_source, read_config_file

OWN = ("config_files", "nproc", "ip", "port", "world_size", "group_offset", "output", "result_file", "verbose", "help")
REPOSITORY_DATA = Path(__file__).parents[2] / "dataset"


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; see --help.")


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks for; what the user can mend becomes one line on stderr and exit code 1."""
    argv = sys.argv[1:] if argv is None else argv
    verbose = "--verbose" in argv
    try:
        return _run(argv, verbose)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        message = sentence(error)
        if message is None:
            raise
        if verbose:
            traceback.print_exc()
        print(f"error: {message}", file=sys.stderr)
        return 1


def _run(argv: list[str], verbose: bool) -> int:
    args, settings = parse(argv)
    models = [name.strip() for name in args.model.split(",") if name.strip()]
    request = Request(
        dataset=args.dataset,
        config_files=tuple(args.config_files.split()),
        settings=settings,
        processes=Processes(args.nproc, args.world_size, args.ip, args.port, args.group_offset),
    )
    check(models, request, args)
    if request.value("data_path") is None:
        settings["data_path"] = default_data_path()
    if has_source(request.dataset) or request.value("source"):
        prepare(models, request)
    else:
        check_dataset(request.dataset, request.value("data_path"), request.value("benchmark_filename") is not None)

    records = []
    for model in models:
        try:
            records.append(run_model(model, request))
        except Exception as error:
            message = sentence(error)
            if message is None or len(models) == 1:
                raise
            if verbose:
                traceback.print_exc()
            print(f"error: {model}: {message}", file=sys.stderr)
            records.append({"model": model, "dataset": request.dataset, "error": message})

    title = f"{request.dataset}: test results"
    print_table(records, title)
    if args.result_file:
        print(f"Result: {write_json(records[0], args.result_file)}")
    if len(models) > 1 or args.output:
        print("Table:", *write_table(records, title, args.output or "results"))
    return 1 if any("error" in record for record in records) else 0


def default_data_path() -> str:
    """``dataset/`` of the checkout, or of the working directory where the package is installed from a wheel."""
    return str(REPOSITORY_DATA if REPOSITORY_DATA.is_dir() else "dataset")


def parse(argv: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Our own arguments, and RecBole's ``--key=value`` settings as texts."""
    parser = _Parser(
        prog="run_recbole_macrec.py",
        description="Train and test one or more models on a dataset with RecBole.",
        epilog="Every other --key=value is an option of RecBole, the model or the dataset, such as --epochs=10.",
        allow_abbrev=False,
    )
    parser.add_argument("--model", "-m", default="MACRec", help="one or more, as MACRec,TIGER,SASRec (default: MACRec)")
    parser.add_argument("--dataset", "-d", default="arts-toy", help="folder below data_path (default: arts-toy)")
    parser.add_argument("--config_files", default="", help="YAML files, separated by spaces; later ones win")
    parser.add_argument("--nproc", type=int, default=1, help="processes on this machine (default: 1)")
    parser.add_argument("--ip", default="localhost", help="address of the first machine")
    parser.add_argument("--port", default="5678", help="port of the first machine")
    parser.add_argument("--world_size", type=int, default=-1, help="processes on all machines (default: nproc)")
    parser.add_argument("--group_offset", type=int, default=0, help="rank of this machine's first process")
    parser.add_argument("--output", help="folder of the written table (default for several models: results)")
    parser.add_argument("--result_file", metavar="F.json", help="one model: settings, results, versions, seconds")
    parser.add_argument("--verbose", action="store_true", help="show the traceback of an error")
    args, rest = parser.parse_known_args(argv)
    settings: dict[str, str] = {}
    for word in rest:
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not equals:
            raise UserError(f"Can't read '{word}'; options are written --key=value.{_own_hint(word)}")
        if settings.get(key, value) != value:
            raise UserError(f"--{key} is given twice, as '{settings[key]}' and '{value}'; give it once.")
        settings[key] = value
    return args, settings


def _own_hint(word: str) -> str:
    return nearest(word.removeprefix("--"), OWN) if word.startswith("--") else ""


def check(models: list[str], request: Request, args: argparse.Namespace) -> None:
    """Raise a UserError for anything that nobody knows or that does not go together."""
    if not models:
        raise UserError("--model names no model; give one or more, as --model=MACRec,SASRec.")
    if args.nproc < 1:
        raise UserError(f"--nproc is {args.nproc}; expected at least 1.")
    if args.result_file and len(models) > 1:
        raise UserError(f"--result_file is for one model, but --model names {len(models)}; use --output=DIR.")
    for model in models:
        check_model(model)
    check_options(request.settings, models, request.dataset, "the command line", OWN)
    for path in request.config_files:
        check_options(read_config_file(path), models, request.dataset, path)
