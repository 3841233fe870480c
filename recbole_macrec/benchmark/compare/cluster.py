"""Execute the runs of a comparison on the machines of a Ray cluster.

All machines share the folders of the runs. A run whose worker, machine or process ends unexpectedly is started once more, from
its newest checkpoint. A failed run does not affect the others.
"""
import multiprocessing
import os
import socket
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from recbole_macrec.benchmark.compare.runs import Run
from recbole_macrec.benchmark.compare.worker import Resources, start
from recbole_macrec.errors import UserError
from recbole_macrec.utils.interrupts import interrupts_ignored

POLL_SECONDS = 2.0  # seconds between two checks of the progress
CONNECT_SECONDS = 20  # seconds to wait for a connection to the cluster
ANSWER_SECONDS = 120  # seconds in which every machine has to check the folders; its first task also imports the libraries
INSTALL_HINT = (
    "--ray needs Ray 2.9 or later: pip install 'ray[default]>=2.9' (pip may warn that RecBole requires an older version; "
    "ignore the warning)."
)


class TaskFailed(Exception):
    """A task on the cluster ended without a result; the message says why."""


class Cluster(Protocol):
    """Machines that execute tasks."""

    def machines(self) -> dict[str, str]:
        """Return ID -> name of every machine that can execute runs."""

    def submit(self, function, *arguments, machine: str | None = None) -> Any:
        """Call ``function(*arguments)`` on the cluster and return the task.

        Args:
            machine: ID of the machine that starts it at once; None: any machine, as soon as it has free CPUs.
        """

    def wait(self, tasks: Sequence, seconds: float) -> Sequence:
        """Wait until a task has ended, for at most ``seconds``, and return the tasks that have ended."""

    def result(self, task) -> Any:
        """Return what the function of an ended task returned; raise :class:`TaskFailed` if it failed."""


def run_on_cluster(cluster: Cluster, waiting: Sequence[Run], resources: Resources, bar: tqdm) -> None:
    """Execute all runs of ``waiting``. A run that ends unexpectedly twice gets a failure.json.

    Raises:
        UserError: before the first run, if a machine cannot access the folders of the runs.
    """
    waiting = [Run(run.folder.absolute()) for run in waiting]
    check_folders(cluster, waiting)
    share_before = {run.folder: run.fraction_complete for run in waiting}
    tasks = {cluster.submit(execute_run, run, resources): run for run in waiting}
    retried: set[Path] = set()
    ended = bar.n  # number of ended runs; a paused run counts as the fraction of it that is complete
    while tasks:
        for task in cluster.wait(list(tasks), POLL_SECONDS):
            run = tasks.pop(task)
            try:
                cluster.result(task)
            except TaskFailed as error:
                if run.folder not in retried and not resources.deadline_passed:
                    retried.add(run.folder)
                    bar.write(f"{run.spec.name}: {error}; starting it again")
                    tasks[cluster.submit(execute_run, run, resources)] = run
                    continue
                if not run.finished and not run.error:
                    run.fail(f"The run ended unexpectedly: {error}; see {run.folder}.")
            if run.error:
                bar.write(f"error: {run.spec.name}: {run.error}")
            ended += 1 if run.finished or run.error else run.fraction_complete
        shares = {run.folder: run.fraction_complete for run in tasks.values()}
        active = [run.spec.name for run in tasks.values() if shares[run.folder] != share_before[run.folder]]
        bar.set_postfix_str(", ".join(active), refresh=False)
        bar.update(ended + sum(shares.values()) - bar.n)


def execute_run(run: Run, resources: Resources) -> None:
    """Execute a run on this machine of the cluster, in its own process.

    Raises:
        RuntimeError: if that process ends without a result and without a message.
    """
    if resources.deadline_passed or run.finished:
        return
    process, _ = start(run.folder, resources)
    process.join()
    if process.exitcode and not run.finished and not run.error:
        raise RuntimeError(f"its process ended with exit code {process.exitcode}, perhaps for lack of memory")


def check_folders(cluster: Cluster, runs: Sequence[Run]) -> None:
    """Raise a UserError if a machine cannot read and write the folders of the runs; the message names the machine."""
    if not runs:
        return
    top = Path(os.path.commonpath([run.folder for run in runs]))
    token = top / f".shared-{uuid.uuid4().hex}"
    datasets = {Path(run.spec.settings["data_path"], run.spec.dataset) for run in runs if "data_path" in run.spec.settings}
    token.touch()
    try:
        paths = [token, *sorted(path for path in datasets if path.exists())]
        tasks = {
            cluster.submit(inaccessible_paths, paths, machine=machine): name for machine, name in cluster.machines().items()
        }
        end = time.monotonic() + ANSWER_SECONDS
        while tasks and time.monotonic() < end:
            for task in cluster.wait(list(tasks), end - time.monotonic()):
                _check_answer(cluster, task, tasks.pop(task))
        if tasks:
            raise UserError(
                f"Machine {next(iter(tasks.values()))} of the Ray cluster has not answered within {ANSWER_SECONDS} s: check "
                "its Ray logs, or restart Ray there."
            )
    finally:
        token.unlink()


def _check_answer(cluster: Cluster, task, machine: str) -> None:
    try:
        missing = cluster.result(task)
    except TaskFailed as error:
        raise UserError(f"Machine {machine} of the Ray cluster can't execute runs ({error}): install the same recbole_macrec "
                        "there as on this machine.") from None
    if missing:
        raise UserError(
            f"Machine {machine} of the Ray cluster cannot read or write {missing[0].parent}, "
            "but this machine can: put --output and data_path on a file system that all machines mount at the same path."
        )


def inaccessible_paths(paths: Sequence[Path]) -> list[Path]:
    """Return those of ``paths`` that this machine cannot see. The folder of the first path must also be writable."""
    return [path for i, path in enumerate(paths) if not path.exists() or (i == 0 and not os.access(path.parent, os.W_OK))]


class RayCluster:
    """The :class:`Cluster` of a running Ray.

    Args:
        address: as in ``ray.init``: HOST:PORT of the head, ``auto`` for the Ray on this machine, or ``ray://HOST:PORT``.
        threads: CPUs per run.

    Raises:
        UserError: within 30 s, if Ray is not installed or there is no cluster at ``address``.
    """

    def __init__(self, address: str, threads: int):
        check_address(address)
        try:
            import ray
        except ImportError:
            raise UserError(INSTALL_HINT) from None
        _check_connection(address)
        self.ray = ray
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        self._run = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)(_on_own_gpu)
        self._check = ray.remote(num_cpus=0, max_retries=0)(_call)

    def machines(self) -> dict[str, str]:
        """Return the machines, see :class:`Cluster`. A head node that was started without CPUs is left out, as it executes no
        runs."""
        return {
            node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            for node in self.ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU")
        }

    def submit(self, function, *arguments, machine: str | None = None):
        if machine is None:
            return self._run.remote(function, *arguments)
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        strategy = NodeAffinitySchedulingStrategy(machine, soft=False)
        return self._check.options(scheduling_strategy=strategy).remote(function, *arguments)

    def wait(self, tasks: Sequence, seconds: float) -> Sequence:
        return self.ray.wait(list(tasks), num_returns=1, timeout=max(0.0, seconds))[0]

    def result(self, task):
        try:
            return self.ray.get(task)
        except self.ray.exceptions.RayTaskError as error:
            raise TaskFailed(_first_line(error.cause)) from None
        except self.ray.exceptions.RayError as error:
            raise TaskFailed(_first_line(error)) from None


def _call(function, *arguments):
    return function(*arguments)


def _on_own_gpu(function, run: Run, resources: Resources):
    """Use the GPU that Ray reserved for this task; by default RecBole uses the first one of the machine."""
    import ray

    gpus = ray.get_gpu_ids()
    if gpus and "gpu_id" not in run.spec.settings:
        resources = replace(resources, gpu=str(gpus[0]))
    return function(run, resources)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def check_address(address: str) -> None:
    """Raise a UserError if nothing listens at HOST:PORT. Other forms of addresses are checked by Ray."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not port.isdecimal() or not host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS / 2).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--ray={address}: no connection ({error}); give the address that `ray start --head` printed, "
                        "such as 10.0.0.1:6379, or auto on a machine of the cluster.") from None


def _check_connection(address: str) -> None:
    """Connect in a separate process, since Ray may try a wrong address for minutes, or exit its process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_connect, args=(address, sender), daemon=True)
    with interrupts_ignored():
        process.start()
    sender.close()
    try:
        reason = receiver.recv() if receiver.poll(CONNECT_SECONDS) else f"no connection within {CONNECT_SECONDS} s"
    except EOFError:
        reason = "Ray ended the attempt"
    process.kill()
    process.join()
    if reason is not None:
        raise UserError(
            f"--ray={address}: there is no Ray cluster ({reason}); give the address that `ray start --head` printed, "
            "such as 10.0.0.1:6379, or auto on a machine of the cluster."
        )


def _connect(address: str, sender) -> None:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    import ray

    try:
        ray.init(address=address, log_to_driver=False)
    except Exception as error:  # whatever the reason, the address is unusable
        sender.send(_first_line(error))
    else:
        sender.send(None)
        ray.shutdown()
