"""End a command with one line on Ctrl-C, even while libraries are being imported. This module imports none itself."""
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

EXIT_CODE = 130  # exit code of shells for SIGINT


def end_commands_at_once() -> None:
    """End this process on Ctrl-C until :func:`commands_have_started` is called, if it is one of our commands."""
    if _is_command(sys.orig_argv) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def commands_have_started() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C in the block. A process that is started in it inherits this, and so prints no traceback while it imports
    its libraries; the process that started it has to end it."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set handlers
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(number, frame) -> None:
    os.write(2, b"interrupted\n")
    os._exit(EXIT_CODE)  # a library could catch an exception, or print a traceback


def _is_command(argv: Sequence[str]) -> bool:
    """Whether the command line ``argv`` is one of our commands, and not that of a worker process."""
    module = argv[argv.index("-m") + 1] if "-m" in argv[:-1] else ""
    return module.partition(".")[0] == __package__.partition(".")[0] or any(
        Path(argument).stem == "run_recbole_macrec" for argument in argv[1:]
    )
