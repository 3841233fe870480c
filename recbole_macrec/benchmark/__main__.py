"""Compare models, or measure the speed of one stage.

    python -m recbole_macrec.benchmark compare|study|fuse|report|publish|quantizers --help
    python -m recbole_macrec.benchmark decode|train|exact|text|quantize|scale|whole|peer --help

compare trains and compares models; study runs a prepared comparison; fuse combines trained models; report writes an HTML page;
publish copies results into docs/results; quantizers compares quantizers.

The second form measures one stage. decode (beam search), train, exact (exact rankings) and text (P5, VIP5, LC-Rec) measure the
speed of our code and of a reference, and how far their results agree. quantize and scale (catalogues of several sizes) and
whole (a whole run) measure time and memory. peer compares the metrics of VBPR with those of cornac. Speeds are medians of
several runs, except where a run takes minutes. The last line is a JSON object with the results, the hardware and the library
versions.
"""
import sys
from collections.abc import Callable
from functools import partial

import recbole_macrec  # noqa: F401  registers the models
from recbole_macrec.benchmark import quantizers, report
from recbole_macrec.benchmark.compare import comparison as compare, publish
from recbole_macrec.benchmark.fuse import command as fuse
from recbole_macrec.benchmark.speed.stages import STAGES, measure
from recbole_macrec.benchmark.study import study
from recbole_macrec.errors import UserError, nearest
from recbole_macrec.utils.arguments import CommandParser
from recbole_macrec.utils.reporting import run_command

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "compare": compare.main,
    "study": study.main,
    "report": report.main,
    "publish": publish.main,
    "fuse": fuse.main,
    "quantizers": quantizers.main,
    **{name: partial(measure, name) for name in STAGES},
}


def main(argv: list[str] | None = None) -> int:
    """Run the command that the first argument names; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        return run_command(COMMANDS[argv[0]], argv[1:])
    return run_command(_explain, argv)


def _explain(argv: list[str]) -> int:
    """Print the help, or raise a UserError for an unknown command."""
    parser = CommandParser("python -m recbole_macrec.benchmark", __doc__)
    parser.add_argument("command", help=", ".join(COMMANDS))
    command = parser.parse_known_args(argv)[0].command
    raise UserError(f"Unknown command '{command}'.{nearest(command, COMMANDS)} Expected one of {', '.join(COMMANDS)}.")


if __name__ == "__main__":
    sys.exit(main())
