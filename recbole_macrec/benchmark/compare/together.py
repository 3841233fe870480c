"""Executes the runs of a comparison one after the other, each in all processes that a launcher started."""
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout

from tqdm import tqdm

from recbole_macrec.benchmark.compare.pool import BAR
from recbole_macrec.benchmark.compare.recorder import RunRecorder
from recbole_macrec.benchmark.compare.run_model import run_model
from recbole_macrec.benchmark.compare.runs import LOG, Run, RunSpec
from recbole_macrec.benchmark.compare.worker import Resources, execute, request_of
from recbole_macrec.utils.distributed import group
from recbole_macrec.utils.failures import user_message
from recbole_macrec.utils.reporting import progress_interval


def run_together(runs: Sequence[Run]) -> None:
    """Execute the unfinished runs of ``runs`` until one fails; those that failed before come last.

    After a failure all processes end, since they may no longer be synchronised. Only the first process reads and writes the
    folders of the runs.

    Args:
        runs: in the first process; the others receive its list.
    """
    with group() as processes:
        unfinished = sorted((run for run in runs if not run.finished), key=lambda run: run.error is not None)
        waiting = processes.by_first(lambda: [(run, run.spec) for run in unfinished])
    done = len(runs) - len(waiting)
    with tqdm(total=len(runs), initial=done, bar_format=BAR, desc="Compare", disable=not (waiting and processes.first),
              mininterval=progress_interval(), miniters=0) as bar:  # fmt: skip
        for run, spec in waiting:
            if not processes.first:
                if not _follow(run, spec):
                    return
                continue
            bar.set_postfix_str(f"{spec.label} {spec.dataset} {spec.seed}")
            with open(run.folder / LOG, "a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
                execute(run.folder, Resources(), lambda share: bar.update(done + share - bar.n))
            done += 1
            bar.update(done - bar.n)
            if run.error:
                bar.write(f"error: {spec.name}: {run.error}", file=sys.stderr)
                return


def _follow(run: Run, spec: RunSpec) -> bool:
    """Take part in ``run``, which the first process executes; returns whether it finished."""
    try:
        with group():
            run_model(spec.model, request_of(spec, run.folder, Resources()), RunRecorder(run))
        return True
    except Exception as error:
        if not getattr(error, "reported", False):
            message = user_message(error) or f"{type(error).__name__}: {error}"
            print(f"error: {spec.name}: {message}", file=sys.stderr)
        return False
