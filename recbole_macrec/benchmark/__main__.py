"""Compare models, or measure the speed of one stage against a common implementation.

    python -m recbole_macrec.benchmark compare|study|fuse|report|publish|quantizers --help
    python -m recbole_macrec.benchmark decode|train|exact|text|quantize|scale|whole|peer [--dataset=Instruments --data_path=DIR]

The second form checks first that both implementations compute the same, then measures the median of several runs after a
warm-up. The last line is a JSON object with the results, the hardware and the library versions.
"""
import argparse
import json
import sys

import recbole_macrec  # noqa: F401  registers the models
from recbole_macrec.benchmark import quantizers, report
from recbole_macrec.benchmark.compare import comparison as compare, publish
from recbole_macrec.benchmark.fuse import command as fuse
from recbole_macrec.benchmark.machine import hardware, library_versions
from recbole_macrec.benchmark.peer import peer
from recbole_macrec.benchmark.speed.decode import decode
from recbole_macrec.benchmark.speed.exact import exact
from recbole_macrec.benchmark.speed.graph import MODELS
from recbole_macrec.benchmark.speed.quantize import quantize
from recbole_macrec.benchmark.speed.scale import scale
from recbole_macrec.benchmark.speed.text import TEXT_MODELS, text
from recbole_macrec.benchmark.speed.train import train
from recbole_macrec.benchmark.speed.whole import whole
from recbole_macrec.benchmark.study import study
from recbole_macrec.config.options import check_dataset
from recbole_macrec.config.validation import check_whole
from recbole_macrec.data import DATA_PATH
from recbole_macrec.errors import UserError, nearest
from recbole_macrec.utils.reporting import run_command

COMMANDS = {
    "compare": compare.main,
    "study": study.main,
    "report": report.main,
    "publish": publish.main,
    "fuse": fuse.main,
    "quantizers": quantizers.main,
}
STAGES = {stage.__name__: stage for stage in (decode, train, exact, text, quantize, scale, whole, peer)}


def main(argv: list[str] | None = None) -> int:
    """Run the command or measure the stage that the first argument names; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        return run_command(COMMANDS[argv[0]], argv[1:])
    return run_command(measure, argv)


def check_name(name: str) -> None:
    """Raise a UserError unless ``name`` is a command, a stage or an option."""
    known = [*COMMANDS, *STAGES]
    if name not in known and not name.startswith("-"):
        raise UserError(f"Unknown command '{name}'.{nearest(name, known)} Expected one of {', '.join(known)}.")


def measure(argv: list[str]) -> int:
    """Measure one stage and print the results."""
    if argv:
        check_name(argv[0])
    args = parse(argv)
    counts = {name: value for name, value in vars(args).items() if isinstance(value, int) and name != "exact_users"}
    check_whole(1, **counts, **{"items": min(args.items)} if args.items else {})
    if args.stage not in ("quantize", "scale"):
        check_dataset(args.dataset, args.data_path, False)
    results = STAGES[args.stage](args)
    for name, value in results.items():
        for line in value if isinstance(value, list) else [value]:
            print(f"{name}: {line}")
    record = {"stage": args.stage, **results, "arguments": vars(args), "hardware": hardware(), "versions": library_versions()}
    print(json.dumps(record))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line of a stage."""
    parser = argparse.ArgumentParser(
        prog="python -m recbole_macrec.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=STAGES, help="stage to measure, or one of the commands above")
    parser.add_argument("--dataset", default="arts-toy", help="name of a dataset (default: arts-toy)")
    parser.add_argument("--data_path", default=DATA_PATH, help=f"folder of the datasets (default: {DATA_PATH})")
    parser.add_argument("--modality", default="text", help="modality whose IDs are used (default: text)")
    parser.add_argument("--batch", type=int, default=256, help="decode, train, exact: training batch size of T5 (default: 256)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of this package (default: 3)")
    parser.add_argument("--reference_repeats", type=int, default=1, help="timed runs of the reference (default: 1)")
    parser.add_argument("--backbone", default="tiny", help="text: backbone of P5, VIP5 and LCRec (default: tiny)")
    parser.add_argument(
        "--training_steps", type=int, default=40, help="decode, exact, text: training steps before measuring (default: 40)"
    )
    parser.add_argument(
        "--users",
        type=int,
        default=2048,
        help="decode, exact, text: users ranked by beam search and certified ranking (default: 2048)",
    )
    parser.add_argument(
        "--reference_users", type=int, default=128, help="decode, text: users ranked by the reference (default: 128)"
    )
    parser.add_argument(
        "--reference_batch", type=int, default=32, help="decode, text: users per call of generate (default: 32)"
    )
    parser.add_argument(
        "--parity_steps", type=int, default=50, help="train: steps over which losses are compared (default: 50)"
    )
    parser.add_argument(
        "--timed_steps", type=int, default=5, help="train, text, scale --part=graph: steps per timed run (default: 5)"
    )
    parser.add_argument(
        "--exact_users", type=int, default=32, help="exact, whole: users ranked exactly, 0 for all (default: 32)"
    )
    parser.add_argument("--modalities", nargs="+", help="whole, quantize --items: modalities to use")
    parser.add_argument("--epochs", type=int, default=2, help="whole, peer: training epochs (default: 2)")
    parser.add_argument("--seeds", type=int, default=3, help="peer: runs of each model, with different seeds (default: 3)")
    parser.add_argument("--features", nargs="+", metavar="MODALITY=FILE.npy", help="quantize: feature files")
    parser.add_argument(
        "--items",
        type=int,
        nargs="+",
        help="quantize, scale: catalogue sizes (default of scale: 10000 100000 1000000; of --part=graph: 10000 100000 "
        "and TikTok)",
    )
    parser.add_argument("--part", choices=("decoding", "graph"), default="decoding",
                        help="scale: tries and decoding, or the general recommenders on graphs (default: decoding)")
    parser.add_argument("--interactions", type=int, default=10**6, help="scale --part=graph: interactions (default: 1000000)")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=[*MODELS, *TEXT_MODELS],
        help="text, scale --part=graph: models to measure (default: all)",
    )
    parser.add_argument("--scale_users", type=int, default=64, help="scale: users decoded at once (default: 64)")
    parser.add_argument("--plot", metavar="FILE.svg", help="scale: plot the time per user against the catalogue size")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
