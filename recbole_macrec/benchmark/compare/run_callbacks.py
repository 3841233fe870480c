"""Callbacks that follow a run: its learning curve, its progress, its time limit, and the time of its stages."""
import math
import time
from collections.abc import Callable

from recbole_macrec.benchmark.compare.run_files import write_json
from recbole_macrec.benchmark.compare.runs import CURVE, PROGRESS, Run
from recbole_macrec.config.plain import plain
from recbole_macrec.trainer.callbacks import VALIDATION, TrainingCallback
from recbole_macrec.trainer.epoch_checkpointer import Paused
from recbole_macrec.utils.distributed import current_group

PROGRESS_SECONDS = 10  # between two writings of progress.json


class LearningCurve(TrainingCallback):
    """Writes curve.json of a run after each epoch and each validation.

    Attributes:
        resumes: whether the run resumes from a checkpoint; the epochs before it are then read from curve.json.
        epochs: entries of curve.json, see :mod:`recbole_macrec.benchmark.compare.runs`.
        earlier: stage -> seconds that earlier processes spent on this run; ``cpu`` are those of all threads.
    """

    def __init__(self, run: Run):
        self.run = run
        self.resumes = False
        self.epochs: list[dict] = []
        self.earlier = {"training": 0.0, "validation": 0.0, "cpu": 0.0}
        self._trained = False  # whether an epoch was trained in this process

    def on_epoch_begin(self, trainer, epoch, train_data):
        if not self._trained:
            self._read_earlier(before=epoch)
        self._train_data = train_data
        self._start_clock()

    def on_epoch_end(self, trainer, epoch, losses):
        start, (seconds, cpu_seconds) = trainer.epoch_start, self._elapsed()
        self.earlier["training"] += start.seconds
        self.earlier["cpu"] += start.cpu_seconds
        total = sum(losses) if isinstance(losses, tuple) else losses
        self.epochs.append({
            "epoch": epoch,
            "loss": round(float(total) / max(1, len(self._train_data)), 6) if total is not None else None,
            "seconds": round(start.seconds + seconds, 3),
            "cpu_seconds": round(start.cpu_seconds + cpu_seconds, 3),
            "valid": None,
            "valid_seconds": None,
        })  # fmt: skip
        self._trained = True
        self._write()

    def on_evaluation_begin(self, trainer, stage, eval_data):
        self._start_clock()

    def on_evaluation_end(self, trainer, stage, result):
        if stage != VALIDATION or not self.epochs:
            return
        entry, (seconds, cpu_seconds) = self.epochs[-1], self._elapsed()
        cpu_seconds = round(entry["cpu_seconds"] + cpu_seconds, 3)
        entry |= {"valid": plain(result), "valid_seconds": round(seconds, 3), "cpu_seconds": cpu_seconds}
        self._write()

    def on_train_end(self, trainer):
        if not self._trained:
            self._read_earlier(before=math.inf)

    def _start_clock(self) -> None:
        self._began, self._cpu_began = time.perf_counter(), time.process_time()

    def _elapsed(self) -> tuple[float, float]:
        return time.perf_counter() - self._began, time.process_time() - self._cpu_began

    def _read_earlier(self, before: float) -> None:
        """Read the epochs that earlier processes trained up to the checkpoint."""
        old = self.run.curve if self.resumes and current_group().first else []
        self.epochs = [entry for entry in old if entry["epoch"] < before]
        for entry in self.epochs:
            self.earlier["training"] += entry["seconds"]
            self.earlier["validation"] += entry["valid_seconds"] or 0
            self.earlier["cpu"] += entry.get("cpu_seconds", 0.0)

    def _write(self) -> None:
        if current_group().first:
            write_json(self.epochs, self.run.folder / CURVE)


class PauseAtDeadline(TrainingCallback):
    """Pauses a run before its deadline: after a batch, or before an evaluation, if the next step would end after the deadline.

    Every process completes at least one batch or evaluation. Trainers that cannot resume are not paused.

    Args:
        deadline: in seconds as of ``time.time()``; None for no limit.
        curve: times of the validations so far.
    """

    def __init__(self, deadline: float | None, curve: LearningCurve):
        self.deadline, self.curve = deadline, curve
        self._began = self._last = time.time()
        self._active = False  # whether this process has trained a batch or validated
        self._validated_rows: int | None = None  # rows of a validation; None without one

    def on_train_begin(self, trainer, train_data, valid_data):
        self._validated_rows = valid_data.sample_size if valid_data is not None else None

    def on_epoch_begin(self, trainer, epoch, train_data):
        self._last = time.time()

    def on_batch_end(self, trainer, epoch, batches, total, loss):
        now, self._active = time.time(), True
        if self.deadline is not None and trainer.resumable and now + (now - self._last) > self.deadline:
            trainer.pause()
        self._last = now

    def on_evaluation_begin(self, trainer, stage, eval_data):
        """Pause if the evaluation would end after the deadline.

        It is expected to take as long per row as the longest validation so far, or, before the first, as long as this process
        has run. After a pause the next process begins with this evaluation. It never pauses before its first step, so the time
        is then known.
        """
        if self.deadline is None or not trainer.resumable or not self._active:
            return
        known = [entry["valid_seconds"] for entry in self.curve.epochs if entry["valid_seconds"]]
        if known and self._validated_rows:
            expected = max(known) * eval_data.sample_size / self._validated_rows
        else:
            expected = time.time() - self._began
        if time.time() + expected > self.deadline:
            raise Paused

    def on_evaluation_end(self, trainer, stage, result):
        self._active = True


class ProgressWriter(TrainingCallback):
    """Reports how many epochs are complete: in progress.json, at most every :data:`PROGRESS_SECONDS`, and to a function.

    Args:
        report: called with the fraction of complete epochs, from 0 to 1.
    """

    def __init__(self, run: Run, report: Callable[[float], None]):
        self.run, self.report = run, report
        self._written = -math.inf

    def on_batch_end(self, trainer, epoch, batches, total, loss):
        self.update(trainer, epoch + batches / total, always=trainer.pausing)

    def on_epoch_end(self, trainer, epoch, losses):
        self.update(trainer, epoch + 1)

    def update(self, trainer, epochs: float, always: bool = False) -> None:
        """Report the number of complete epochs, such as 2.25. With ``always`` the file is written at once."""
        self.report(epochs / max(1, trainer.epochs))
        if always or time.perf_counter() - self._written > PROGRESS_SECONDS:
            self._written = time.perf_counter()
            if current_group().first:
                write_json({"epochs": round(epochs, 3), "of": trainer.epochs}, self.run.folder / PROGRESS)


class StageTimer(TrainingCallback):
    """Measures the time of the stages of a run in this process.

    Attributes:
        seconds: ``training`` (without validation), ``validation`` and ``test``.
    """

    def __init__(self):
        self.seconds = {"training": 0.0, VALIDATION: 0.0, "test": 0.0}
        self._stages: list[str] = []  # the current stage, after those that it interrupts
        self._since = 0.0

    def on_train_begin(self, trainer, train_data, valid_data):
        self._enter("training")

    def on_evaluation_begin(self, trainer, stage, eval_data):
        self._enter(stage)

    def on_evaluation_end(self, trainer, stage, result):
        self._leave()

    def on_train_end(self, trainer):
        self._leave()

    def _enter(self, stage: str) -> None:
        self._count()
        self._stages.append(stage)

    def _leave(self) -> None:
        self._count()
        self._stages.pop()

    def _count(self) -> None:
        now = time.perf_counter()
        if self._stages:
            self.seconds[self._stages[-1]] += now - self._since
        self._since = now
