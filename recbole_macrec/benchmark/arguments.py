"""Command lines of the benchmarks and of runs: their own arguments, and ``--key=value`` settings of RecBole."""
import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recbole_macrec.config.options import parse_settings
from recbole_macrec.config.schema.base import choices
from recbole_macrec.config.schema.network import NetworkOptions
from recbole_macrec.errors import UserError
from recbole_macrec.utils.arguments import CommandParser

SETTINGS = "Every other --key=value is an option of RecBole, the model or the dataset, such as --epochs=10."  # in --help


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
    if file := _file_in(path):
        raise UserError(f"--output is {text}, but {file} is a file; give the name of a folder.")
    return text


def output_file(option: str) -> Callable[[str], str]:
    """Return the type of ``option``, whose value is the name of a file to write. It raises UserError if that is impossible."""

    def read(text: str) -> str:
        if not text or Path(text).is_dir():
            raise UserError(f"{option} is {text!r}; expected the name of a file, and no folder.")
        if file := _file_in(Path(text).parent):
            raise UserError(f"{option} is {text}, but {file} is a file and no folder.")
        return text

    return read


def figure_file(text: str) -> str:
    """The value of ``--plot``.

    Raises:
        UserError: if there is no folder for the file, or matplotlib does not write files with its suffix.
    """
    from matplotlib.figure import Figure  # imported late: it takes a second, and most commands draw nothing

    path, known = Path(text), Figure().canvas.get_supported_filetypes()
    if path.suffix[1:] not in known or path.is_dir() or not path.parent.is_dir():
        raise UserError(f"--plot is {text!r}; expected a file such as costs.svg in a folder that exists, with one of the "
                        f"suffixes {', '.join(known)}.")
    return text


def _file_in(path: Path) -> Path | None:
    """The part of ``path`` that is a file; None if there is none."""
    return next((part for part in (path, *path.parents) if part.is_file()), None)


def settings_with_output_file(settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Move the model option ``output``, which cannot be set on the command line, to a YAML file.

    Returns:
        The shell command that writes the file, empty without the option; and the settings for the command line.
    """
    if "output" not in settings:
        return "", settings
    others = {name: value for name, value in settings.items() if name != "output"}
    return f"echo 'output: {settings['output']}' > output.yaml", {"config_files": "output.yaml"} | others


def read_settings(parser: CommandParser, argv: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Parse ``argv`` into the arguments of ``parser`` and RecBole's ``--key=value`` settings."""
    args, rest = parser.parse_known_args(argv)
    return args, parse_settings(rest, vars(args))
