"""Run a command and report errors that the user can correct in one line; log messages and progress bars of a command."""
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from recbole_macrec.utils.distributed import RESUME_HINT, Terminated, first_to_report
from recbole_macrec.utils.failures import user_message
from recbole_macrec.utils.interrupts import EXIT_CODE, commands_have_started


def run_command(command: Callable[[list[str]], int], argv: list[str]) -> int:
    """Call ``command(argv)`` and return its exit code.

    An error that the user can correct is printed as one line on stderr, with exit code 1; ``--verbose`` adds the traceback.
    """
    try:
        commands_have_started()
        return command(argv)
    except KeyboardInterrupt:
        if first_to_report():
            print("interrupted", file=sys.stderr)
        return EXIT_CODE
    except Terminated as ended:
        if first_to_report():
            print(f"error: the launcher ended this process because another one had ended. {RESUME_HINT}.", file=sys.stderr)
        return ended.code
    except Exception as error:
        if getattr(error, "reported", False):  # by another process
            return 1
        message = user_message(error)
        if message is None:
            raise
        if "--verbose" in argv:
            traceback.print_exc()
        print(f"error: {message}", file=sys.stderr)
        return 1


@contextmanager
def hidden_log(level: int) -> Iterator[None]:
    """Hide log messages of ``level`` and below, such as RecBole's description of a dataset that is loaded."""
    before = logging.root.manager.disable
    logging.disable(max(before, level))
    try:
        yield
    finally:
        logging.disable(before)


def progress_interval() -> float:
    """Seconds between two updates of a progress bar; longer in a log file than on a terminal."""
    return 0.5 if sys.stderr.isatty() else 60
