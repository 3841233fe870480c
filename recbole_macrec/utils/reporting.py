"""Runs a command, and reports errors that a user can correct in one line."""
import sys
import traceback
from collections.abc import Callable

from recbole_macrec.utils.distributed import RESUME, Terminated, first_to_report
from recbole_macrec.utils.failures import sentence
from recbole_macrec.utils.interrupts import EXIT, commands_have_started


def reporting(command: Callable[[list[str]], int], argv: list[str]) -> int:
    """Run ``command``; what the user can mend becomes one line on stderr and exit code 1."""
    try:
        commands_have_started()
        return command(argv)
    except KeyboardInterrupt:
        if first_to_report():
            print("interrupted", file=sys.stderr)
        return EXIT
    except Terminated as ended:
        if first_to_report():
            print(f"error: this process was ended by its launcher, as another one has ended. {RESUME}.", file=sys.stderr)
        return ended.code
    except Exception as error:
        if getattr(error, "reported", False):  # by another process
            return 1
        message = sentence(error)
        if message is None:
            raise
        if "--verbose" in argv:
            traceback.print_exc()
        print(f"error: {message}", file=sys.stderr)
        return 1
