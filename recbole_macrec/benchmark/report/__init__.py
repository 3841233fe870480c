"""Write an HTML page with tables, significance tests, figures and recommendations of a comparison.

    python -m recbole_macrec.benchmark report DIR

writes DIR/report.html, a single file that works without network, and its figures as PNG and PDF to DIR/figures/. DIR is the
--output folder of ``compare`` or ``study``. If that is unfinished, the report shows the finished runs.

The page shows --users random test users with their histories and the recommendations of every model (of the first
seed), with titles and images if the dataset has them.
"""
import argparse
import math
from pathlib import Path

from recbole_macrec.benchmark.arguments import output_file
from recbole_macrec.benchmark.report.page import write_report
from recbole_macrec.benchmark.report.user_view import UserViewOptions
from recbole_macrec.errors import UserError
from recbole_macrec.utils.arguments import CommandParser


def main(argv: list[str]) -> int:
    """The command ``report``; returns the exit code."""
    args = parse(argv)
    output = Path(args.output) if args.output else Path(args.folder) / "report.html"
    options = UserViewOptions(args.users, args.seed, round(args.image_megabytes * 2**20), args.data_path)
    page, figures = write_report(Path(args.folder), output, options)
    print(f"Report: {page} ({page.stat().st_size / 2**20:.1f} MiB)")
    if figures:
        print(f"Figures: {len(figures)} files in {figures[0].parent}")
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = CommandParser("python -m recbole_macrec.benchmark report", __doc__)
    parser.add_argument("folder", help="output folder of a comparison or study")
    parser.add_argument("--output", metavar="FILE.html", type=output_file("--output"),
                        help="default: report.html in the folder")
    parser.add_argument("--users", type=int, default=200, help="number of test users shown of each dataset (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="random seed for choosing these users (default: 0)")
    parser.add_argument(
        "--image_megabytes", type=float, default=3, help="total size of the item images, shrunk to a few KB each (default: 3)"
    )
    parser.add_argument("--data_path", help="folder of the datasets, if they were moved after the runs")
    args = parser.parse(argv)
    if args.users < 0 or not 0 <= args.image_megabytes < math.inf:
        raise UserError(f"--users={args.users} --image_megabytes={args.image_megabytes}: expected numbers of at least 0.")
    return args
