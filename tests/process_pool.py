"""Processes that a test starts because it needs several, or one to kill.

They are forked, so that they start at once, but not from the process of the tests: its threads, of torch and of web servers,
may hold locks that a fork inherits without the threads that would release them. They are forked from one that has no threads.
"""
import importlib
import multiprocessing
import os
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
    """The process that forks the others; to be closed."""

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
        """Run every ``(function, *arguments)`` in a process of its own, all at the same time, in this working directory.

        Returns:
            Their exit codes once all have ended, the number of the signal below zero; None of one that did not end in time.
        """
        self._connection.send((os.getcwd(), dict(os.environ), works))
        return self._connection.recv()

    def close(self) -> None:
        """End it; to leave of its own accord would take it seconds."""
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
