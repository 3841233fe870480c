"""One run of a comparison in its own process."""
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock
from threadpoolctl import threadpool_limits

from recbole_macrec.benchmark.compare.recorder import RunRecorder
from recbole_macrec.benchmark.compare.run_files import write_json
from recbole_macrec.benchmark.compare.run_model import Request, run_model
from recbole_macrec.benchmark.compare.runs import FAILURE, LOG, PROGRESS, RESULT, SAVED, Run, RunSpec
from recbole_macrec.benchmark.machine import git_commit
from recbole_macrec.trainer.epoch_checkpointer import Paused
from recbole_macrec.utils.distributed import group
from recbole_macrec.utils.failures import user_message
from recbole_macrec.utils.files import remove_temporary_files
from recbole_macrec.utils.interrupts import interrupts_ignored
from recbole_macrec.utils.unique_names import remove_if_empty

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext


@dataclass(frozen=True)
class Resources:
    """Resources of a run.

    Attributes:
        threads: number of CPU threads.
        gpu: number of the GPU; None for that of the settings.
        deadline: ``time.time()`` at which the run should pause at a checkpoint; None for never.
        commit: the Git commit of the code, which the process of the run imports when the command begins.
    """

    threads: int = 1
    gpu: str | None = None
    deadline: float | None = None
    commit: str | None = field(default_factory=git_commit)

    @property
    def deadline_passed(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.time() > self.deadline


def start(folder: Path, resources: Resources):
    """Start the run of ``folder``; returns the process and a shared number, the fraction of its epochs that is complete."""
    context: ForkServerContext | SpawnContext
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "torch._dynamo"])  # imported once for all runs; optimizers need it
        with interrupts_ignored():
            forkserver.ensure_running()  # otherwise started below, where Ctrl-C has to end this process
    else:
        context = multiprocessing.get_context("spawn")
    share = context.Value("d", 0.0)
    process = context.Process(target=_child, args=(folder, resources, share))
    process.start()
    return process, share


def _child(folder: Path, resources: Resources, share) -> None:
    """Entry point of the process: it writes all output to the run's log, and ends when its parent ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its runs
    sys.stdout.flush()
    sys.stderr.flush()
    with open(folder / LOG, "a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.stdout, sys.stderr = (open(fd, "w", encoding="utf-8", buffering=1, closefd=False) for fd in (1, 2))
    torch.set_num_threads(resources.threads)
    with threadpool_limits(resources.threads):
        execute(folder, resources, lambda complete: setattr(share, "value", complete))


def _end_with(sentinel) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def execute(folder: Path, resources: Resources, progress: Callable[[float], None] = lambda share: None) -> None:
    """Execute the run of ``folder`` in this process, or in all processes of a launcher, resuming from its newest checkpoint.

    Writes result.json, or failure.json, or, if the deadline comes first, a checkpoint.
    """
    with FileLock(folder / ".lock"):
        run = Run(folder)
        if run.finished:
            return
        (folder / FAILURE).unlink(missing_ok=True)
        for place in (folder, folder / SAVED):
            remove_temporary_files(place)
        try:
            with group():
                record = run_model(
                    run.spec.model, request_of(run.spec, folder, resources), RunRecorder(run, resources.deadline, progress)
                )
        except Paused:
            return
        except Exception as error:
            traceback.print_exc()
            run.fail(user_message(error) or f"{type(error).__name__}: {error} (see {folder / LOG})")
            return
        finally:
            for file in (folder / SAVED).glob("*.pth"):  # no best epoch was saved
                remove_if_empty(file)
        write_json(record | {"commit": resources.commit}, folder / RESULT)
        for file in (folder / SAVED).glob("*.last.pth"):
            file.unlink()
        (folder / PROGRESS).unlink(missing_ok=True)


def request_of(spec: RunSpec, folder: Path, resources: Resources) -> Request:
    """The request for ``spec``, with checkpoints in ``folder``."""
    settings = {"show_progress": False, **spec.settings, "seed": spec.seed}
    settings["checkpoint_dir"] = str((folder / SAVED).absolute())
    if resources.gpu is not None:
        settings["gpu_id"] = resources.gpu
    return Request(spec.dataset, settings=settings)
