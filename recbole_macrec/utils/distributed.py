"""Processes that train one model together: joining, sharing data, and reporting failures.

A launcher describes the group in environment variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT): torchrun, or
:func:`start_processes`, which the option ``--nproc`` uses. torch.distributed does the communication. Inside :func:`group` every
process can call the methods of :class:`Group`; all processes have to call them in the same order.

Shapes: W processes, B rows of a batch, n rows of a process, N samples of the data set.
"""
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar, overload

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from recbole_macrec.errors import UserError
from recbole_macrec.utils.failures import user_message
from recbole_macrec.utils.interrupts import interrupts_ignored

T = TypeVar("T")

JOIN_TIMEOUT = timedelta(minutes=5)  # timeout until all processes have joined
EXCHANGE_TIMEOUT = timedelta(minutes=30)  # timeout of an exchange in training; a process that has ended is noticed at once
PREPARATION_TIMEOUT = timedelta(days=1)  # timeout while the first process prepares data
NOTICE_SECONDS = 10  # after this time, print what a process waits for
REASON_SECONDS = 3  # time for the error message of another process to arrive
INTERRUPT_SECONDS = 1.0  # time for the processes to end by themselves after Ctrl-C
REPORT_SECONDS = 3.0  # longest time that the first process waits for the others to fail as well
DEFAULT_PORT = 5678  # of several machines, which must agree on a port
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
    """Description of this process's place in the launcher's group."""

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


def start_processes(work: Callable[..., int], arguments: tuple, processes: int, size: int, address: str, port: int | None,
          offset: int) -> int:
    """Start processes on this machine that form a group, or part of one, and call ``work(*arguments)`` in each.

    Args:
        processes: number of processes on this machine.
        size: number of processes on all machines.
        address, port: of the machine with ``offset`` 0. Without a port, a free one is used on a single machine, and
            ``DEFAULT_PORT`` on several.
        offset: rank of the first process on this machine.

    Returns:
        The largest value that ``work`` returned.

    Raises:
        UserError: if the port is in use.
    """
    store = None
    if port is None:
        port = DEFAULT_PORT if size > processes else 0
    if offset == 0:
        with _port_errors(port):
            store = dist.TCPStore(address, port, is_master=True, wait_for_workers=False)
        port = store.port
    environment = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": address, "MASTER_PORT": port,
                   "TORCHELASTIC_USE_AGENT_STORE": True}
    results, interrupted = mp.get_context("spawn").SimpleQueue(), mp.get_context("spawn").Event()
    on_interrupt = signal.getsignal(signal.SIGINT)
    handler = signal.SIG_IGN if on_interrupt == signal.SIG_IGN else signal.default_int_handler
    with interrupts_ignored():
        context = mp.spawn(
            _run_in_process, (work, arguments, environment, offset, results, handler, interrupted), nprocs=processes,
            join=False,
        )  # fmt: skip
    try:
        while not context.join():
            pass
    except KeyboardInterrupt:
        interrupted.set()
        _end_after_interrupt(context.processes)
        raise
    except mp.ProcessExitedException as error:
        how = f"by {error.signal_name}" if error.signal_name else f"with exit code {error.exit_code}"
        raise UserError(f"process {offset + error.error_index + 1} of {size} was ended {how}, perhaps for lack of memory. "
                        f"{RESUME_HINT}.") from None
    del store
    return max(results.get() for _ in range(processes))


def limit_threads(processes: int) -> None:
    """Divide the CPU threads among the ``processes`` of this machine, unless OMP_NUM_THREADS is set."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


def local_device() -> torch.device:
    """Return the GPU with the number LOCAL_RANK (0 without a launcher), or the CPU if there is no GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


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
        with _notice(launch, f"the first process at {launch.address}:{launch.port}"), _port_errors(launch.port):
            try:
                _store = dist.TCPStore(
                    launch.address, launch.port, is_master=host, timeout=JOIN_TIMEOUT, wait_for_workers=False
                )
            except dist.DistError as error:
                if host:
                    raise
                raise UserError(
                    f"process {launch.rank + 1} of {launch.size} could not connect to the first one at "
                    f"{launch.address}:{launch.port} "
                    f"within {JOIN_TIMEOUT.seconds} s; start the first one as well, and check --ip and --port (torchrun: "
                    "--master_addr and --master_port)."
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
def _port_errors(port: int) -> Iterator[None]:
    try:
        yield
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error) and "already in use" not in str(error):
            raise
        raise UserError(f"port {port} of this machine is in use by another program; name a free one with --port (torchrun: "
                        "--master_port), the same on all machines.") from error


def _end_after_interrupt(processes: Iterable) -> None:
    """End processes after Ctrl-C: one that works ends by itself, one that still starts ignores it and is terminated."""
    ends = time.monotonic() + INTERRUPT_SECONDS
    for process in processes:
        process.join(max(0.0, ends - time.monotonic()))
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(REPORT_SECONDS)
        process.kill()


def _run_in_process(index: int, work: Callable[..., int], arguments: tuple, environment: dict, offset: int, results,
                    on_interrupt, interrupted) -> None:
    """Entry point of a process created by :func:`start_processes`; ``on_interrupt`` handles Ctrl-C from here on, and
    ``interrupted`` is set if Ctrl-C came before, while this process ignored it."""
    signal.signal(signal.SIGINT, on_interrupt)
    if interrupted.is_set():
        raise KeyboardInterrupt
    os.environ.update({name: str(value) for name, value in environment.items()})
    os.environ.update(RANK=str(offset + index), LOCAL_RANK=str(index))
    limit_threads(environment["LOCAL_WORLD_SIZE"])
    try:
        results.put(work(*arguments))
    except ProcessLost:
        time.sleep(REASON_SECONDS)  # so that the other process ends first: the parent reports the first one
        raise


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


# -- tensors ---------------------------------------------------------------------------------------------------------------


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes, in one exchange."""
    gradients = []
    for p in parameters:
        if p.requires_grad:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            gradients.append(p.grad)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
        gradient.copy_(part.view_as(gradient))


class Share(NamedTuple):
    """The rows of a batch (or of all items) that this process computes."""

    rows: torch.Tensor
    sizes: list[int]  # number of rows of each process

    @classmethod
    def divide(cls, rows: torch.Tensor, group: Group) -> "Share":
        """Divide ``rows`` [B] into parts of nearly equal size. With fewer rows than processes, every process gets all rows."""
        if group.size == 1 or len(rows) < group.size:
            return cls(rows, [len(rows)])
        parts = rows.tensor_split(group.size)
        return cls(parts[group.rank], [len(part) for part in parts])

    @property
    def weight(self) -> float:
        """Weight of the mean over ``rows``, such that the mean over the processes equals the mean over all rows."""
        return len(self.rows) * len(self.sizes) / sum(self.sizes)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values [B, ...] of all rows in every process.

        The backward pass multiplies the gradient of a process's own rows by W. Averaged over the processes, which all compute
        the same loss from all rows, the gradient is exact.

        Args:
            values: [n, ...], the values of ``rows``.
        """
        return values if len(self.sizes) == 1 else _GatherRows.apply(values, self.sizes)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        begin = sum(sizes[: dist.get_rank()])
        ctx.own, ctx.processes = slice(begin, begin + len(values)), len(sizes)
        padded = values.new_zeros(max(sizes), *values.shape[1:])
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes)])

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        return gradient[ctx.own] * ctx.processes, None


def gather_in_order(rows: torch.Tensor, samples: int) -> torch.Tensor:
    """Gather the rows of all processes in the order of the data set.

    ``DistributedSampler`` assigns samples to processes in turn, and repeats the first samples to give every process the same
    number.

    Args:
        rows: [n, ...], rows of this process.
        samples: N; repeated rows beyond it are dropped.

    Returns:
        [N, ...], the same in every process.
    """
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)[:samples]
