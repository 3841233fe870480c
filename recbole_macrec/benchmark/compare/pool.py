"""Executes many runs in parallel, on the processors and GPUs of this machine or on the machines of a Ray cluster."""
import multiprocessing.connection
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from tqdm import tqdm

from recbole_macrec.benchmark.compare.cluster import Cluster, run_on_cluster
from recbole_macrec.benchmark.compare.runs import Run
from recbole_macrec.benchmark.compare.worker import Resources, start
from recbole_macrec.utils.reporting import progress_interval

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f} of {total} runs, {elapsed}, {remaining} left{postfix}"
POLL = 0.5  # seconds between two updates of the progress


def run_all(
    runs: Sequence[Run], jobs: int, resources: Resources, cluster: Cluster | None = None, title: str = "Compare"
) -> None:
    """Execute the unfinished runs of ``runs``, including those that failed before.

    Args:
        jobs: number of runs at a time. The threads, and the GPUs if there are several, are shared among them.
        resources: of one run; ``threads`` and ``gpu`` are set here. After ``deadline`` no further run is started.
        cluster: machines that execute the runs and share their folders; None for this machine.
        title: of the progress bar.
    """
    waiting = [run for run in runs if not run.finished]
    done = len(runs) - len(waiting)
    with tqdm(
        total=len(runs), initial=done, bar_format=BAR, desc=title, disable=not waiting, mininterval=progress_interval(),
        miniters=0,
    ) as bar:
        if cluster:
            run_on_cluster(cluster, waiting, resources, bar)
        else:
            _run_locally(waiting, jobs, resources, bar)


def _run_locally(waiting: list[Run], jobs: int, resources: Resources, bar: tqdm) -> None:
    threads = max(1, torch.get_num_threads() // jobs)
    gpus = visible_gpus()
    free = list(range(jobs))
    active: dict[int, tuple] = {}  # slot -> run, process, fraction of its epochs that is complete
    ended, started = bar.n, False  # number of ended runs; a paused run counts as the fraction of it that is complete
    try:
        while waiting or active:
            while waiting and free and not (started and resources.deadline_passed):  # each call starts at least one
                started = True
                slot = free.pop(0)
                gpu = gpus[slot % len(gpus)] if len(gpus) > 1 and "gpu_id" not in waiting[0].spec.settings else None
                active[slot] = (waiting[0], *start(waiting.pop(0).folder, replace(resources, threads=threads, gpu=gpu)))
            if not active:
                return
            multiprocessing.connection.wait([process.sentinel for _, process, _ in active.values()], timeout=POLL)
            for slot, (run, process, share) in list(active.items()):
                if not process.is_alive():
                    _report_end(run, process, bar.write)
                    del active[slot]
                    free.append(slot)
                    ended += 1 if run.finished or run.error else share.value
            bar.set_postfix_str(", ".join(run.spec.name for run, *_ in active.values()), refresh=False)
            bar.update(ended + sum(share.value for *_, share in active.values()) - bar.n)
    finally:
        for _, process, _ in active.values():
            process.terminate()


def visible_gpus() -> list[str]:
    """The names of this machine's GPUs, such as "0", or those in the environment variable CUDA_VISIBLE_DEVICES."""
    count, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return (list(map(str, range(count))) if visible is None else visible.split(","))[:count]


def _report_end(run: Run, process, write: Callable[[str], None]) -> None:
    """Write failure.json if the process ended without a result, and print the error of a failed run."""
    if process.exitcode and not run.finished and not run.error:
        run.fail(f"The process ended with exit code {process.exitcode}, possibly for lack of memory; see {run.folder}.")
    if run.error:
        write(f"error: {run.spec.name}: {run.error}")
