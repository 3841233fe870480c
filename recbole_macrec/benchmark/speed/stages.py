"""The stages that ``benchmark`` measures, and their options."""
import json
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any, NamedTuple

from recbole_macrec.benchmark.arguments import figure_file
from recbole_macrec.benchmark.machine import hardware, library_versions
from recbole_macrec.benchmark.speed.catalogues import measure_catalogues
from recbole_macrec.benchmark.speed.decode import decode
from recbole_macrec.benchmark.speed.exact import exact
from recbole_macrec.benchmark.speed.graph import MODELS
from recbole_macrec.benchmark.speed.peer import peer
from recbole_macrec.benchmark.speed.scale import scale
from recbole_macrec.benchmark.speed.text import TEXT_MODELS, text
from recbole_macrec.benchmark.speed.train import train
from recbole_macrec.benchmark.speed.whole import whole
from recbole_macrec.config.options import check_dataset
from recbole_macrec.config.validation import check_whole
from recbole_macrec.data import DATA_PATH
from recbole_macrec.utils.arguments import CommandParser

Options = dict[str, dict[str, Any]]  # name -> arguments of add_argument; the help is completed by the default


class Stage(NamedTuple):
    """A measurement. ``measure`` returns JSON values; the docstring of its module is the description in ``--help``."""

    measure: Callable[[Namespace], dict]
    options: Options


def whole_number(default: int, text: str) -> dict[str, Any]:
    """An option whose value is a whole number."""
    return {"type": int, "default": default, "help": text}


DATASET: Options = {
    "dataset": {"default": "arts-toy", "help": "name of a dataset"},
    "data_path": {"default": DATA_PATH, "help": "folder of the datasets"},
}
PUBLISHED: Options = DATASET | {"modality": {"default": "text", "help": "modality whose IDs are used"}}
T5: Options = {"batch": whole_number(256, "training batch size of T5")}
TRAINED: Options = {"training_steps": whole_number(40, "training steps before measuring")}
REPEATS: Options = {"repeats": whole_number(3, "timed runs of this package")}
REFERENCE: Options = REPEATS | {"reference_repeats": whole_number(1, "timed runs of the reference")}
RANKED: Options = {
    "users": whole_number(2048, "users ranked"),
    "reference_users": whole_number(128, "users ranked by the reference"),
    "reference_batch": whole_number(32, "users per call of generate"),
}
EXACT: Options = {"exact_users": whole_number(32, "users ranked exactly, 0 for all")}
TIMED: Options = {"timed_steps": whole_number(5, "training steps per timed run")}

STAGES = {
    "decode": Stage(decode, PUBLISHED | T5 | TRAINED | RANKED | REFERENCE),
    "train": Stage(
        train,
        PUBLISHED | T5 | TIMED | REFERENCE | {"parity_steps": whole_number(50, "steps over which losses are compared")},
    ),
    "exact": Stage(
        exact,
        PUBLISHED | T5 | TRAINED | EXACT | REPEATS
        | {"users": whole_number(2048, "users ranked by beam search and certified ranking")},
    ),
    "text": Stage(
        text,
        DATASET | TIMED | RANKED | REFERENCE | {
            "modality": {"default": "text", "help": "modality of the IDs of LCRec"},
            "batch": whole_number(256, "training batch size"),
            "training_steps": whole_number(40, "training steps before ranking"),
            "backbone": {"default": "tiny", "help": "backbone of P5, VIP5 and LCRec"},
            "models": {"nargs": "+", "choices": TEXT_MODELS, "default": list(TEXT_MODELS), "help": "models to measure"},
        },
    ),
    "quantize": Stage(
        measure_catalogues,
        {
            "items": {"nargs": "+", "type": int, "default": [10**5, 10**6], "help": "catalogue sizes"},
            "modalities": {"nargs": "+", "default": ["text", "image"], "help": "names of the modalities"},
        },
    ),
    "scale": Stage(
        scale,
        REPEATS | TIMED | {
            "part": {"choices": ("decoding", "graph"), "default": "decoding",
                     "help": "tries and decoding, or the general recommenders on graphs"},
            "items": {"nargs": "+", "type": int, "help": "catalogue sizes (default: 10000 100000 1000000; of the part graph "
                                                         "10000 100000 and TikTok)"},
            "scale_users": whole_number(64, "users decoded at once"),
            "plot": {"metavar": "FILE.svg", "type": figure_file,
                     "help": "plot the time per user of the part decoding against the catalogue size"},
            "interactions": whole_number(10**6, "interactions of the part graph"),
            "models": {"nargs": "+", "choices": MODELS, "default": list(MODELS), "help": "models of the part graph"},
        },
    ),
    "whole": Stage(
        whole,
        DATASET | EXACT | {
            "modalities": {"nargs": "+", "help": "modalities to use (default: all)"},
            "epochs": whole_number(2, "training epochs"),
        },
    ),
    "peer": Stage(
        peer,
        DATASET | {
            "epochs": whole_number(2, "training epochs"),
            "batch": whole_number(256, "training batch size"),
            "seeds": whole_number(3, "runs of each model, with different seeds"),
        },
    ),
}  # fmt: skip


def measure(name: str, argv: list[str]) -> int:
    """Measure the stage ``name`` and print the results; returns the exit code."""
    stage = STAGES[name]
    args = parse(name, argv)
    values = vars(args)
    counts = {option: value for option, value in values.items() if type(value) is int and option != "exact_users"}
    check_whole(1, **counts, items=min(values.get("items") or [1]))
    check_whole(0, exact_users=values.get("exact_users", 0))
    if "dataset" in args:
        check_dataset(args.dataset, args.data_path, False)
    results = stage.measure(args)
    for result, value in results.items():
        for line in value if isinstance(value, list) else [value]:
            print(f"{result}: {line}")
    record = {"stage": name, **results, "arguments": values, "hardware": hardware(), "versions": library_versions()}
    print(json.dumps(record))
    return 0


def parse(name: str, argv: list[str]) -> Namespace:
    """Parse the command line of a stage."""
    stage = STAGES[name]
    description = sys.modules[stage.measure.__module__].__doc__ or ""
    parser = CommandParser(f"python -m recbole_macrec.benchmark {name}", description.partition("\n\n")[0])
    for option, arguments in stage.options.items():
        default = arguments.get("default")
        shown = " ".join(map(str, default)) if isinstance(default, list) else default
        text = arguments["help"] if default is None else f"{arguments['help']} (default: {shown})"
        parser.add_argument(f"--{option}", **{**arguments, "help": text})
    return parser.parse(argv)
