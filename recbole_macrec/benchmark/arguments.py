"""What the command lines share: ``--key=value`` settings."""
import argparse
from pathlib import Path

from recbole_macrec.errors import UserError, nearest

REPOSITORY_DATA = Path(__file__).parents[2] / "dataset"


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; see --help.")


def new_parser(prog: str, description: str) -> argparse.ArgumentParser:
    return _Parser(
        prog=prog,
        description=description,
        epilog="Every other --key=value is an option of RecBole, the model or the dataset, such as --epochs=10.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def read_settings(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The parser's own arguments, and RecBole's ``--key=value`` settings as texts."""
    args, rest = parser.parse_known_args(argv)
    own = vars(args)
    settings: dict[str, str] = {}
    for word in rest:
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not equals:
            hint = nearest(word.removeprefix("--"), own) if word.startswith("--") else ""
            raise UserError(f"Can't read '{word}'; options are written --key=value.{hint}")
        if settings.get(key, value) != value:
            raise UserError(f"--{key} is given twice, as '{settings[key]}' and '{value}'; give it once.")
        settings[key] = value
    return args, settings


def default_data_path() -> str:
    """``dataset/`` of the checkout, or of the working directory where the package is installed from a wheel."""
    return str(REPOSITORY_DATA if REPOSITORY_DATA.is_dir() else "dataset")
