"""Command-line parsing that all commands share: ``--key=value`` settings."""
import argparse
from typing import Any

from recbole_macrec.config.options import settings_of_words
from recbole_macrec.errors import UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; see --help.")


def new_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """Return a parser that raises a UserError for wrong arguments."""
    return _Parser(
        prog=prog,
        description=description,
        epilog="Every other --key=value is an option of RecBole, the model or the dataset, such as --epochs=10.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def read_settings(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Parse ``argv`` into the arguments of ``parser`` and RecBole's ``--key=value`` settings."""
    args, rest = parser.parse_known_args(argv)
    return args, settings_of_words(rest, vars(args))
