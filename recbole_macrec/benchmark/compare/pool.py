"""Many runs: as many at once as asked, on the processors and GPUs there are, or on the machines of a Ray cluster."""
import multiprocessing.connection
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from tqdm import tqdm

from recbole_macrec.benchmark.cluster import Cluster, run_on_cluster
from recbole_macrec.benchmark.compare.runs import FAILURE, Run, write_json
from recbole_macrec.benchmark.compare.worker import Resources, start

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f} of {total} runs, {elapsed}, {remaining} left{postfix}"
POLL = 0.5  # seconds between two looks at the progress


def run_all(runs: Sequence[Run], jobs: int, resources: Resources, cluster: Cluster | None = None, what: str = "Compare") -> None:
    """Do every unfinished one of ``runs``; failed ones are tried again.

    Args:
        jobs: runs at once; each gets its share of the threads, and GPUs in turn where there are several.
        resources: of one run; ``threads`` and ``gpu`` are decided here. Behind ``deadline`` no further run is begun.
        cluster: machines that do the runs and see the same folders; None for this machine.
        what: name of the progress bar.
    """
    waiting = [run for run in runs if not run.finished]
    often = 0.5 if sys.stderr.isatty() else 60  # a log needs no moving bar
    done = len(runs) - len(waiting)
    with tqdm(total=len(runs), initial=done, bar_format=BAR, desc=what, disable=not waiting, mininterval=often, miniters=0) as bar:
        if cluster:
            run_on_cluster(cluster, waiting, resources, bar)
        else:
            _here(waiting, jobs, resources, bar)


def _here(waiting: list[Run], jobs: int, resources: Resources, bar: tqdm) -> None:
    threads = max(1, torch.get_num_threads() // jobs)
    gpus = torch.cuda.device_count()
    free = list(range(jobs))
    active: dict[int, tuple] = {}  # slot -> run, process, share of its epochs done
    ended, before, begun_here = bar.n, bar.n, False
    try:
        while waiting or active:
            while waiting and free and not (begun_here and resources.late):  # every call gets somewhere
                begun_here = True
                slot = free.pop(0)
                gpu = slot % gpus if gpus > 1 and "gpu_id" not in waiting[0].spec.settings else None
                active[slot] = (waiting[0], *start(waiting.pop(0).folder, replace(resources, threads=threads, gpu=gpu)))
            if not active:
                return
            multiprocessing.connection.wait([process.sentinel for _, process, _ in active.values()], timeout=POLL)
            for slot, (run, process, share) in list(active.items()):
                if not process.is_alive():
                    _ended(run, process, bar.write)
                    del active[slot]
                    free.append(slot)
                    ended += 1 if run.finished or run.error else share.value  # a paused one is where it is
            done = ended + sum(share.value for *_, share in active.values())
            bar.set_postfix_str(", ".join(run.spec.name for run, *_ in active.values()), refresh=False)
            bar.update(done - before)
            before = done
    finally:
        for _, process, _ in active.values():
            process.terminate()


def _ended(run: Run, process, say: Callable[[str], None]) -> None:
    if process.exitcode and not run.finished and not run.error:
        write_json(
            {"error": f"The process ended with exit code {process.exitcode}, perhaps for lack of memory; see {run.folder}."},
            run.folder / FAILURE,
        )
    if run.error:
        say(f"error: {run.spec.name}: {run.error}")
