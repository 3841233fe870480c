"""Processes that train one model together: joining, sharing data, and reporting failures.

A launcher describes the group in environment variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT): torchrun, or
launcher.py, which the option ``--nproc`` uses. torch.distributed does the communication. Inside :func:`group` every process can
call the methods of :class:`Group`; all processes have to call them in the same order.
"""
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar, overload

import torch.distributed as dist

from recbole_macrec.errors import UserError
from recbole_macrec.utils.failures import user_message

T = TypeVar("T")

JOIN_TIMEOUT = timedelta(minutes=5)  # timeout until all processes have joined
EXCHANGE_TIMEOUT = timedelta(minutes=30)  # timeout of an exchange in training; a process that has ended is noticed at once
PREPARATION_TIMEOUT = timedelta(days=1)  # timeout while the first process prepares data
NOTICE_SECONDS = 10  # after this time, print what a process waits for
REASON_SECONDS = 3  # time for the error message of another process to arrive
REPORT_SECONDS = 3.0  # longest time that the first process waits for the others to fail as well
RESUME_HINT = "Finished work is kept: give the same command again to continue, or resume from a checkpoint with --resume=FILE"
_LOST = re.compile(
    r"gloo|Connection (closed|reset|refused) by|Connection reset|Broken pipe|remote process exited|NCCL.*timed? ?out"
)


class ProcessLost(UserError):
    """Another process of the group has ended."""

    reported = False  # whether another process reports the failure


class Terminated(SystemExit):
    """The launcher terminated this process, usually because another one failed."""

    code: int


class Launch(NamedTuple):
    """The launcher's description of its group and of this process in it."""

    rank: int
    size: int
    local_rank: int
    local_size: int  # processes on this machine
    address: str  # of the machine of the first process
    port: int


@dataclass(frozen=True)
class Group:
    """The group of processes, seen from this one. With one process the methods return at once."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the first process, which alone prints and writes shared files."""
        return self.rank == 0

    @overload
    def share(self, value: T, doing: str = ...) -> T: ...

    @overload
    def share(self, *, doing: str = ...) -> Any: ...

    def share(self, value: Any = None, doing: str = "prepares the data") -> Any:
        """Return the first process's ``value`` in every process.

        Args:
            doing: completes the message "Waiting for the first process, which ...".
        """
        if self.size == 1:
            return value
        box = [value]
        with _detecting_loss(None if self.first else f"the first process, which {doing}"):
            dist.broadcast_object_list(box, src=0, group=_control)
        return box[0]

    def by_first(self, work: Callable[[], T], doing: str = "prepares the data") -> T:
        """Call ``work`` in the first process only and return its result in every process."""
        return self.share(work(), doing) if self.first else self.share(doing=doing)

    def gather(self, value: T) -> list[T]:
        """Return the ``value`` of every process, in the order of the ranks, in every process."""
        if self.size == 1:
            return [value]
        values: list = [None] * self.size
        with _detecting_loss("the other processes"):
            dist.all_gather_object(values, value, group=_control)
        return values

    def wait(self) -> None:
        """Wait until every process has called this method."""
        if self.size > 1:
            with _detecting_loss("the other processes"):
                dist.barrier(group=_control)

    def check_same(self, parts: Mapping[str, str]) -> None:
        """Check that ``parts`` (name -> checksum) are the same in all processes.

        Raises:
            UserError: in every process; the message names the first part that differs and the machine.
        """
        everywhere = self.gather((socket.gethostname(), dict(parts)))
        for rank, (host, checksums) in enumerate(everywhere):
            for name, checksum in everywhere[0][1].items():
                if checksums.get(name) != checksum:
                    raise UserError(
                        f"{name} of process {rank + 1} on {host} differ from those of process 1 on {everywhere[0][0]}; use "
                        "the same data, options and library versions on both."
                    )


ALONE = Group()
_control: Any = None  # a gloo process group with the timeout PREPARATION_TIMEOUT instead of EXCHANGE_TIMEOUT
_store: Any = None  # the key-value store through which the processes of this run meet
_group_store: Any = None  # the part of it for the newest group
_groups = 0  # number of groups joined so far
_inside_group = False  # within the block of group()


def read_launch() -> Launch | None:
    """Read the launcher's environment variables; return None if this process runs alone."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if any(name not in os.environ for name in names) or os.environ["WORLD_SIZE"] == "1":
        return None
    env = os.environ
    local = int(env.get("LOCAL_RANK", "0")), int(env.get("LOCAL_WORLD_SIZE", "1"))
    return Launch(int(env["RANK"]), int(env["WORLD_SIZE"]), *local, env["MASTER_ADDR"], int(env["MASTER_PORT"]))


def current_group() -> Group:
    """Return the group that this process has joined."""
    return Group(dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else ALONE


@contextmanager
def group() -> Iterator[Group]:
    """Join the launcher's group within the block. Without a launcher, or inside another such block, use the current group.

    Only the first process prints to standard output.

    Raises:
        ProcessLost: if another process ends or fails.
    """
    global _inside_group
    if _inside_group or read_launch() is None:
        yield current_group()
        return
    _inside_group = True
    try:
        with _raising_terminated(), open(os.devnull, "w") as null:
            joined = join()
            with nullcontext() if joined.first else redirect_stdout(null):
                yield joined
    except Exception as error:
        failure = _failure(error)
        _wait_for_reports()
        if failure is error:
            raise
        raise failure from error
    finally:
        _inside_group = False
        leave()


def join(device_type: str = "cpu") -> Group:
    """Join the launcher's group. Repeated calls do nothing, unless the device needs another backend.

    Raises:
        UserError: if the port is in use, or processes have not joined after ``JOIN_TIMEOUT``.
    """
    global _control, _group_store, _groups
    backend = "nccl" if device_type == "cuda" else "gloo"
    if dist.is_initialized() and (backend == "gloo" or dist.get_backend() == "nccl"):
        return current_group()
    if dist.is_initialized():
        dist.destroy_process_group()
    launch = read_launch()
    if launch is None:
        raise RuntimeError(
            "join needs the environment variables of a launcher: RANK, WORLD_SIZE above 1, MASTER_ADDR and MASTER_PORT"
        )
    _group_store = dist.PrefixStore(f"group-{_groups}", _open_store(launch))
    _groups += 1
    _meet(launch, _group_store)
    dist.init_process_group(backend, store=_group_store, rank=launch.rank, world_size=launch.size, timeout=EXCHANGE_TIMEOUT)
    _control = dist.new_group(backend="gloo", timeout=PREPARATION_TIMEOUT)
    return current_group()


def leave() -> None:
    """Leave the group, except inside the block of :func:`group`."""
    global _control
    if not _inside_group and dist.is_initialized():
        dist.destroy_process_group()
        _control = None


def first_to_report() -> bool:
    """Whether this process is the first of its group to report a failure; True if that is unknown."""
    with suppress(RuntimeError):  # the process that serves the store has ended
        if _group_store is not None:
            return _group_store.add("reports", 1) == 1
    return True


def _wait_for_reports() -> None:
    """Keep the store of the first process alive until the others know that the failure is reported.

    Otherwise a process that fails slightly later cannot reach the store, and reports the same failure again.
    """
    launch, ends = read_launch(), time.monotonic() + REPORT_SECONDS
    with suppress(RuntimeError):
        while launch is not None and launch.rank == 0 and _group_store is not None and time.monotonic() < ends:
            if _group_store.add("reports", 0) >= launch.size:
                return
            time.sleep(0.05)


# -- joining ---------------------------------------------------------------------------------------------------------------


def _open_store(launch: Launch):
    """Connect to the store of the launcher or of the first process."""
    global _store
    if _store is None:
        host = launch.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        with _notice(launch, f"the first process at {launch.address}:{launch.port}"), port_errors(launch.port):
            try:
                _store = dist.TCPStore(
                    launch.address, launch.port, is_master=host, timeout=JOIN_TIMEOUT, wait_for_workers=False
                )
            except dist.DistError as error:
                if host:
                    raise
                raise UserError(
                    f"process {launch.rank + 1} of {launch.size} could not connect to the first one at "
                    f"{launch.address}:{launch.port} within {JOIN_TIMEOUT.seconds} s; start the first one as well, and check "
                    "--ip and --port (torchrun: --master_addr and --master_port)."
                ) from error
    return dist.PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", _store)


def _meet(launch: Launch, store) -> None:
    """Wait until every process has joined."""
    keys = [f"process-{rank}" for rank in range(launch.size)]
    store.set(keys[launch.rank], socket.gethostname())
    with _notice(launch, f"all {launch.size} processes to join at {launch.address}:{launch.port}"):
        try:
            store.wait(keys, JOIN_TIMEOUT)
        except dist.DistError as error:
            missing = [str(rank + 1) for rank, key in enumerate(keys) if not store.check([key])]
            raise UserError(
                f"of {launch.size} processes, number {', '.join(missing)} did not join at {launch.address}:{launch.port} "
                f"within {JOIN_TIMEOUT.seconds} s; start the command on every machine, with the same --world_size (torchrun: "
                "--nnodes and --nproc_per_node)."
            ) from error


@contextmanager
def port_errors(port: int) -> Iterator[None]:
    """Raise a UserError if the block fails because ``port`` is in use."""
    try:
        yield
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error) and "already in use" not in str(error):
            raise
        raise UserError(f"port {port} of this machine is in use by another program; name a free one with --port (torchrun: "
                        "--master_port), the same on all machines.") from error


# -- waiting and failing ---------------------------------------------------------------------------------------------------


@contextmanager
def _notice(launch: Launch | None, what: str | None) -> Iterator[None]:
    """Print once per machine that this process waits for ``what``, if the block takes longer than NOTICE_SECONDS."""
    if what is None or (launch is not None and launch.local_rank and launch.rank != 1):
        yield
        return
    limit = f"; it gives up after {JOIN_TIMEOUT.seconds} s" if launch and not dist.is_initialized() else ""
    timer = threading.Timer(NOTICE_SECONDS, print, [f"Waiting for {what}{limit}."], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _detecting_loss(what: str | None) -> Iterator[None]:
    """As :func:`_notice`; also raise ProcessLost if a connection is closed."""
    try:
        with _notice(read_launch(), what):
            yield
    except RuntimeError as error:
        failure = _failure(error)
        if failure is error:
            raise
        raise failure from error


@contextmanager
def _raising_terminated() -> Iterator[None]:
    """Let SIGTERM raise :class:`Terminated` in the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number, frame):
        raise Terminated(1)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _failure(error: Exception) -> Exception:
    """Return the exception to raise for ``error``: ProcessLost for a closed connection, otherwise ``error`` itself.

    All failures of the group but the first get the attribute ``reported``.
    """
    if isinstance(error, ProcessLost):
        return error
    if isinstance(error, RuntimeError) and _LOST.search(str(error)):
        reason = _reason(REASON_SECONDS)
        lost = ProcessLost(f"another process of this run ended: {reason}" if reason else
                           f"another process of this run ended unexpectedly; its own output may say "
                           f"why. {RESUME_HINT}.")
        lost.reported = reason is not None or not first_to_report()
        return lost
    if first_to_report():
        _publish_reason(error)
    else:
        vars(error)["reported"] = True
    return error


def _publish_reason(error: Exception) -> None:
    with suppress(RuntimeError):
        if _group_store is not None:
            _group_store.set(
                "reason", f"{user_message(error) or f'{type(error).__name__}: {error}'} (on {socket.gethostname()})"
            )


def _reason(seconds: float) -> str | None:
    """Return the message of the process that failed first; None if it does not arrive within ``seconds``."""
    ends = time.monotonic() + seconds
    with suppress(RuntimeError):
        while _group_store is not None:
            if _group_store.check(["reason"]):
                return _group_store.get("reason").decode()
            if time.monotonic() >= ends:
                break
            time.sleep(0.05)
    return None
