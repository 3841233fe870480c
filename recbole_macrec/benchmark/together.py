"""The runs of a comparison, one after the other, each in all processes that a launcher started."""
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout

from tqdm import tqdm

from recbole_macrec.benchmark.keep import Keeper
from recbole_macrec.benchmark.pool import BAR
from recbole_macrec.benchmark.run import run_model
from recbole_macrec.benchmark.runs import LOG, Asked, Run
from recbole_macrec.benchmark.worker import Resources, execute, request_of
from recbole_macrec.distributed import group
from recbole_macrec.failures import sentence


def run_together(runs: Sequence[Run]) -> None:
    """Do every unfinished one of ``runs``, until one fails. Those that failed before are tried last.

    After a failure the processes can no longer rely on each other, so they end. The first process alone reads and writes the
    folders of the runs.

    Args:
        runs: in the first process; the others receive what to run.
    """
    with group() as processes:
        waiting = sorted((run for run in runs if not run.finished), key=lambda run: run.error is not None)
        waiting = processes.by_first(lambda: [(run, run.asked) for run in waiting])
    done = len(runs) - len(waiting)
    often = 0.5 if sys.stderr.isatty() else 60  # a log needs no moving bar
    with tqdm(total=len(runs), initial=done, bar_format=BAR, desc="Compare", disable=not (waiting and processes.first),
              mininterval=often, miniters=0) as bar:  # fmt: skip
        for run, asked in waiting:
            if not processes.first:
                if not _follow(run, asked):
                    return
                continue
            bar.set_postfix_str(f"{asked.label} {asked.dataset} {asked.seed}")
            with open(run.folder / LOG, "a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
                execute(run.folder, Resources(), lambda share: bar.update(done + share - bar.n))
            done += 1
            bar.update(done - bar.n)
            if run.error:
                bar.write(f"error: {asked.label} on {asked.dataset}, seed {asked.seed}: {run.error}", file=sys.stderr)
                return


def _follow(run: Run, asked: Asked) -> bool:
    """What the other processes do while the first one executes ``run``; returns whether it ended well."""
    try:
        with group():
            run_model(asked.model, request_of(asked, run.folder, Resources()), Keeper(run))
        return True
    except Exception as error:
        if not getattr(error, "reported", False):
            message = sentence(error) or f"{type(error).__name__}: {error}"
            print(f"error: {asked.label} on {asked.dataset}, seed {asked.seed}: {message}", file=sys.stderr)
        return False
