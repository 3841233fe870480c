"""Start processes for tests that need several, or one to kill.

Processes are forked, so that they start quickly, but not from the test process: its threads (of torch and web servers) may hold
locks, which a fork would inherit without the threads that release them. They are forked from a process without threads.
"""
import importlib
import multiprocessing
import os
import socket
import sys
from multiprocessing.connection import Connection

import pytest

import recbole_macrec  # noqa: F401  repairs RecBole before the module of any work imports it

PATIENCE = 300  # seconds
NEEDED = (  # imported once; optimizers need the last one
    "recbole_macrec.benchmark.compare.command", "recbole_macrec.commands.prepare", "sklearn.decomposition",
    "sklearn.feature_extraction.text", "torch._dynamo",
)  # fmt: skip


class ProcessPool:
    """The process that forks the others; call :meth:`close` at the end."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,))
        with pytest.MonkeyPatch.context() as patch:
            for library in ("OMP", "OPENBLAS", "MKL"):
                patch.setenv(f"{library}_NUM_THREADS", "1")
            self._process.start()
        theirs.close()

    def exit_codes(self, *works: tuple) -> list[int | None]:
        """Run every ``(function, *arguments)`` in a separate process, all at the same time, in the current working directory.

        Returns:
            The exit codes after all have ended: negative for a signal, None for a process that did not end in time.
        """
        self._connection.send((os.getcwd(), dict(os.environ), works))
        return self._connection.recv()

    def close(self) -> None:
        """Kill the forking process; a normal exit would take seconds."""
        self._process.kill()
        self._process.join()


def _serve(connection: Connection) -> None:
    sys.argv = ["test"]
    for module in NEEDED:
        importlib.import_module(module)
    while True:
        try:
            folder, environment, works = connection.recv()
        except EOFError:
            return
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        processes = [multiprocessing.get_context("fork").Process(target=work, args=arguments) for work, *arguments in works]
        for process in processes:
            process.start()
        connection.send([_exit_code(process) for process in processes])


def _exit_code(process: multiprocessing.Process) -> int | None:
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None
    return process.exitcode


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
