"""Recommend items to one history: ``python -m recbole_macrec.recommend --model_file=saved/X.pth --history=i1,i2``."""
import argparse
import csv
import logging
import sys
from pathlib import Path

import pandas as pd

from recbole_macrec.errors import UserError
from recbole_macrec.recommend import Recommender
from recbole_macrec.recommend.input import read_candidates
from recbole_macrec.utils.arguments import CommandParser
from recbole_macrec.utils.reporting import hidden_log, run_command


def main(argv: list[str] | None = None) -> int:
    """Print the recommendations. A user error is printed as one line on stderr, with exit code 1."""
    return run_command(_run, sys.argv[1:] if argv is None else argv)


def _run(argv: list[str]) -> int:
    print(table(parse(argv)).to_string(index=False, justify="left"))
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = CommandParser("python -m recbole_macrec.recommend", "Recommend items to one history.",
                           verbose="show RecBole's log, and the traceback of an error")
    parser.add_argument("--model_file", required=True, help="a checkpoint, or a pretrained folder")
    parser.add_argument("--data_path", metavar="DIR", help="directory of the checkpoint's dataset folder, if not found")
    parser.add_argument(
        "--history", required=True, help="item tokens, oldest first, e.g. i1,i2; double-quote those with a comma"
    )
    parser.add_argument("--k", type=int, default=10, help="items to recommend (default: 10)")
    parser.add_argument("--exclude_seen", action="store_true", default=None,
                        help="do not recommend items of the history (default: the option of the training)")
    parser.add_argument("--candidates", metavar="FILE", help="recommend only these items; one item token per line")
    return parser.parse(argv)


def table(args: argparse.Namespace) -> pd.DataFrame:
    """Recommendations as columns rank, item and score, and title if the catalogue has titles."""
    if len(args.history.splitlines()) > 1:
        raise UserError("--history has a line break; expected item tokens on one line, separated by commas.")
    (fields,) = csv.reader([args.history], skipinitialspace=True)
    history = [token.strip() for token in fields if token.strip()]
    if not history:
        raise UserError(f"--history={args.history} names no item; give item tokens, oldest first, such as --history=i1,i2.")
    candidates = read_candidates(Path(args.candidates)) if args.candidates else None
    with hidden_log(logging.NOTSET if args.verbose else logging.WARNING):
        recommender = Recommender.load(args.model_file, args.data_path)
    result = recommender.recommend([history], args.k, args.exclude_seen, candidates)[["rank", "item", "score"]]
    if recommender.titles:
        result["title"] = [recommender.titles.get(item, "") for item in result["item"]]
    return result


if __name__ == "__main__":
    sys.exit(main())
