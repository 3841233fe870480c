"""Start the processes of a group on this machine, for the option ``--nproc``; torchrun is the other launcher."""
import os
import signal
import time
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from recbole_macrec.errors import UserError
from recbole_macrec.utils.distributed import REASON_SECONDS, REPORT_SECONDS, RESUME_HINT, ProcessLost, port_errors
from recbole_macrec.utils.interrupts import interrupts_ignored

DEFAULT_PORT = 5678  # for several machines, which must use the same port
INTERRUPT_SECONDS = 1.0  # time for the processes to end by themselves after Ctrl-C


def start_processes(
    work: Callable[..., int], arguments: tuple, processes: int, size: int, address: str, port: int | None, offset: int
) -> int:
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
        with port_errors(port):
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
        with interrupts_ignored():  # a second Ctrl-C would leave the processes to themselves
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
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))


def local_device() -> torch.device:
    """Return the GPU with the number LOCAL_RANK (0 without a launcher), or the CPU if there is no GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def _end_after_interrupt(processes: Iterable) -> None:
    """End processes after Ctrl-C: those that have started end by themselves, others ignore Ctrl-C and are terminated."""
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
    """Entry point of a process created by :func:`start_processes`.

    Args:
        on_interrupt: handles Ctrl-C from here on.
        interrupted: set if Ctrl-C was pressed before, while this process ignored it.
    """
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
