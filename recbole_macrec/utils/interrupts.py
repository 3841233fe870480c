"""Ctrl-C ends a command with one line, also in the seconds in which its libraries are imported; needs none itself."""
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

EXIT = 130  # as shells give it for SIGINT


def end_commands_at_once() -> None:
    """From now until :func:`commands_have_started`, end this process on Ctrl-C, if it is one of our commands."""
    if _is_command(sys.orig_argv) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def commands_have_started() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number, frame) -> None:
    os.write(2, b"interrupted\n")
    os._exit(EXIT)  # an exception would end in a library that catches it, or in a traceback


def _is_command(words: Sequence[str]) -> bool:
    """Whether ``words`` start one of our commands; a process that another one starts for itself is none."""
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    return module.partition(".")[0] == __package__.partition(".")[0] or any(Path(word).stem == "run_recbole_macrec" for word in words[1:])
