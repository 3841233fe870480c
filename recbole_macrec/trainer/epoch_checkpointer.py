"""Epochs in parts: one can be left between two batches, and another process takes it up there with the same end."""
import time
from collections.abc import Callable, Iterator
from functools import partial

from recbole_macrec.errors import UserError
from recbole_macrec.trainer.randomness import randomness, restore_randomness

SAVE_SECONDS = 300  # the most training that a killed process loses


class Paused(Exception):
    """The run was asked to stop at a checkpoint, from which it can go on."""


class EpochCheckpointer:
    """Lets ``trainer`` write checkpoints within an epoch, and go on from there.

    Args:
        trainer: one whose ``_train_epoch`` takes batch after batch and shows each loss to ``_check_nan``.
        save: ``save(epoch, part)`` writes a checkpoint of a run that has ended ``epoch`` and, of the one after it, ``part``;
            the random generators have to be in it.

    Attributes:
        saves: whether anything is written.
        after_batch: told the epochs done, such as 2.25; True leaves the epoch there.
        part: of the checkpoint that the run goes on from: batches trained and their number in an epoch, the sum of their
            losses, their seconds and CPU seconds, and the state of the loader's shuffling before the epoch. None: it begins
            with an epoch.
        seconds_before, cpu_seconds_before: of the epoch's training, in processes that have ended.
        train_data: the loader of the newest epoch.
    """

    def __init__(self, trainer, save: Callable[[int, dict], None]):
        self.saves = False
        self.after_batch: Callable[[float], bool] = lambda epochs: False
        self.part: dict | None = None
        self.seconds_before = self.cpu_seconds_before = 0.0
        self.train_data = None
        self._save = save
        self._saved = time.perf_counter()
        self._loss = 0.0
        self._train_epoch, self._check_nan = trainer._train_epoch, trainer._check_nan
        trainer._train_epoch, trainer._check_nan = self._train_in_parts, self._count

    def _count(self, loss) -> None:
        self._check_nan(loss)
        self._loss += loss.item()

    def _train_in_parts(self, train_data, epoch: int, *args, **kwargs):
        part, self.part, self.train_data = self.part, None, train_data
        if part and part["of"] != len(train_data):
            raise UserError(
                f"The checkpoint was left within an epoch of {part['of']} batches, but there are {len(train_data)} now; resume "
                "with the same data, train_batch_size and number of processes."
            )
        self._loss = part["loss"] if part else 0.0
        self.seconds_before = part["seconds"] if part else 0.0
        self.cpu_seconds_before = part.get("cpu_seconds", 0.0) if part else 0.0
        left = _Batches(train_data, part, partial(self._between, epoch))
        losses = self._train_epoch(left, epoch, *args, **kwargs)
        return self._loss if part and not isinstance(losses, tuple) else losses

    def _between(self, epoch: int, batches: "_Batches", done: int) -> None:
        """Behind ``done`` batches."""
        stop = self.after_batch(epoch + done / len(batches))
        ended = done == len(batches)
        if not self.saves or not (stop or ended or time.perf_counter() - self._saved > SAVE_SECONDS):
            return
        seconds = self.seconds_before + time.perf_counter() - batches.began
        cpu_seconds = self.cpu_seconds_before + time.process_time() - batches.cpu_began
        part = {"batches": done, "of": len(batches), "loss": self._loss, "seconds": seconds, "cpu_seconds": cpu_seconds}
        part["shuffle"] = batches.order
        self._save(epoch - 1, part)
        self._saved = time.perf_counter()
        if stop and not ended:
            raise Paused


class _Batches:
    """What is left of an epoch's batches; in everything else the loader itself."""

    def __init__(self, loader, part: dict | None, between: Callable[["_Batches", int], None]):
        self._loader, self._part, self._between = loader, part, between
        self.order = part["shuffle"].cpu() if part else loader.generator.get_state()
        self.began, self.cpu_began = time.perf_counter(), time.process_time()

    def __getattr__(self, name: str):
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator:
        done = self._part["batches"] if self._part else 0
        if done == len(self):
            return
        batches = iter(self._loader) if not done else self._again(done)
        for batch in batches:
            yield batch
            done += 1
            self._between(self, done)

    def _again(self, done: int) -> Iterator:
        """The loader's batches in the order that was dealt before, without the first ``done``; they draw as if they had
        been trained, and then the generators are where they were left."""
        left = randomness(self._loader)
        self._loader.generator.set_state(self.order)
        batches = iter(self._loader)
        for _ in range(done):
            next(batches)
        restore_randomness(left, self._loader)
        return batches
