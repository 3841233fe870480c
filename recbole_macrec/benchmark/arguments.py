"""Command-line parsing for all commands: their own arguments, and ``--key=value`` settings."""
import argparse
from pathlib import Path
from typing import Any

from recbole_macrec.config.options import parse_settings
from recbole_macrec.config.schema.base import choices
from recbole_macrec.config.schema.network import NetworkOptions
from recbole_macrec.errors import UserError


class _StoreOnce(argparse.Action):
    """Stores a value, as by default; a second, different one is an error instead of replacing the first."""

    def __call__(self, parser, namespace, values, option_string=None):
        if self.dest in parser.given and parser.given[self.dest] != values:
            raise UserError(f"{option_string} is given twice, as {parser.given[self.dest]!r} and {values!r}; give it once.")
        parser.given[self.dest] = values
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options):
        super().__init__(**options)
        self.register("action", None, _StoreOnce)
        self.given: dict[str, Any] = {}  # destination -> value

    def error(self, message):
        raise UserError(f"{message}; see --help.")


def new_parser(prog: str, description: str, reads_settings: bool = True) -> argparse.ArgumentParser:
    """Return a parser that raises a UserError for wrong arguments, with the option ``--verbose``.

    Args:
        reads_settings: whether the command also accepts settings, see :func:`read_settings`; ``--help`` then says so.
    """
    settings = "Every other --key=value is an option of RecBole, the model or the dataset, such as --epochs=10."
    parser = _Parser(
        prog=prog,
        description=description.replace("``", ""),
        epilog=settings if reads_settings else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--verbose", action="store_true", help="show the traceback of an error")
    return parser


def comparison_folder(text: str) -> str:
    """The value of ``--output``, a folder. The models have an option of the same name, so its values are not accepted.

    Raises:
        UserError: for a value of the model option, without a name, and for a file.
    """
    path = Path(text)
    if not text:
        raise UserError("--output is empty; expected the folder of the comparison, such as --output=run.")
    if text in choices(NetworkOptions.model_fields["output"]):
        raise UserError(
            f"--output is {text}, a value of the model option 'output', but on the command line --output is the folder of the "
            f"comparison; set the option in a YAML file with the line 'output: {text}' and give --config_files=FILE.yaml (a "
            f"folder of this name is --output=./{text})."
        )
    if file := next((part for part in (path, *path.parents) if part.is_file()), None):
        raise UserError(f"--output is {text}, but {file} is a file; give the name of a folder.")
    return text


def settings_with_output_file(settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Move the model option ``output``, which cannot be set on the command line, to a YAML file.

    Returns:
        The shell command that writes the file, empty without the option; and the settings for the command line.
    """
    if "output" not in settings:
        return "", settings
    others = {name: value for name, value in settings.items() if name != "output"}
    return f"echo 'output: {settings['output']}' > output.yaml", {"config_files": "output.yaml"} | others


def read_settings(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Parse ``argv`` into the arguments of ``parser`` and RecBole's ``--key=value`` settings."""
    args, rest = parser.parse_known_args(argv)
    return args, parse_settings(rest, vars(args))
