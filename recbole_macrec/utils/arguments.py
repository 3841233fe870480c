"""Parsing of command lines."""
import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from recbole_macrec.errors import UserError, nearest


class _StoreOnce(argparse.Action):
    """Stores a value, as by default; a second, different one is an error instead of replacing the first."""

    def __call__(self, parser, namespace, values, option_string=None):
        if self.dest in parser.given and parser.given[self.dest] != values:
            raise UserError(f"{option_string} is given twice, as {parser.given[self.dest]!r} and {values!r}; give it once.")
        parser.given[self.dest] = values
        setattr(namespace, self.dest, values)


class CommandParser(argparse.ArgumentParser):
    """A parser that raises a UserError for wrong arguments; abbreviated options and a second value of an option are wrong.

    It has the option ``--verbose`` of :func:`~recbole_macrec.utils.reporting.run_command`.

    Args:
        prog: the command, as a user types it.
        description: text of ``--help``; double backquotes are removed.
        verbose: description of ``--verbose``.
        options: further arguments of ``ArgumentParser``.
    """

    def __init__(self, prog: str, description: str, verbose: str = "show the traceback of an error", **options: Any):
        super().__init__(prog, description=description.replace("``", ""), allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self.register("action", None, _StoreOnce)
        self.given: dict[str, Any] = {}  # destination -> value
        self.add_argument("--verbose", action="store_true", help=verbose)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help.")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Like ``parse_args``; the error of an unknown option names a similar one."""
        known = sorted(option for option in self._option_string_actions if option.startswith("--"))
        for option in (argument.partition("=")[0] for argument in argv):
            if option.startswith("--") and option not in known:
                raise UserError(f"unknown option '{option}'; expected one of {', '.join(known)}.{nearest(option, known)}")
        return self.parse_args(argv)


def modality_files(option: str, values: Iterable[str], suffix: str) -> dict[str, Path]:
    """Convert ``["text=a.npy"]``, the values of a command-line option, to ``{"text": Path("a.npy")}``.

    Raises:
        UserError: a value has another form, or a modality is repeated.
    """
    files: dict[str, Path] = {}
    for value in values:
        modality, _, file = value.partition("=")
        if not (modality and file):
            raise UserError(f"{option} {value} is not valid; expected {option} MODALITY=FILE{suffix}")
        if modality in files:
            raise UserError(f"{option} names modality '{modality}' twice ({files[modality]} and {file}); keep one")
        files[modality] = Path(file)
    return files
