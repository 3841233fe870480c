"""Start processes for tests that need several, or one to kill.

A new Python process imports libraries for about seven seconds. Processes are therefore forked, but not from the test process:
its threads (of torch and web servers) may hold locks, which a fork would inherit without the threads that release them. They
are forked from Python's forkserver, which has imported the libraries and has no threads; comparisons use it as well.
"""
import multiprocessing
import os
import socket
import sys
from multiprocessing import forkserver
from multiprocessing.connection import Connection

import pytest

PATIENCE = 300  # seconds
NEEDED = (  # imported once; optimizers need the last one
    "recbole_macrec.benchmark.compare.run_command", "recbole_macrec.benchmark.compare.worker",
    "recbole_macrec.commands.prepare",
    "sklearn.decomposition", "sklearn.feature_extraction.text", "torch._dynamo",
)  # fmt: skip


def server_context(method: str = "forkserver"):
    """The multiprocessing context of the server, which is started if it does not run yet. ``method`` is ignored."""
    context = multiprocessing.get_context("forkserver")
    with pytest.MonkeyPatch.context() as patch:
        for library in ("OMP", "OPENBLAS", "MKL"):
            patch.setenv(f"{library}_NUM_THREADS", "1")
        context.set_forkserver_preload(NEEDED)
        forkserver.ensure_running()
    return context


class ProcessPool:
    """A process that forks the others, so that it imports each test module once; call :meth:`close` at the end."""

    def __init__(self) -> None:
        context = server_context()
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,))
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
