"""Checkpoints within an epoch, from which another process resumes and ends as an uninterrupted run."""
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from recbole_macrec.trainer.callbacks import TrainingCallback
from recbole_macrec.trainer.randomness import randomness, restore_randomness

SAVE_SECONDS = 300  # the most training that a killed process loses


class Paused(Exception):
    """Training stopped at a checkpoint, from which it can resume, because a callback called ``trainer.pause``."""


@dataclass(frozen=True)
class EpochPosition:
    """A position between two batches of an epoch; by default its start.

    Attributes:
        batches: number of batches trained.
        total: number of batches of the epoch.
        loss: sum of the losses of these batches.
        seconds, cpu_seconds: training time of these batches; CPU seconds are those of all threads.
        shuffle: state of the data loader's random generator before the epoch; None unless training resumes here.
    """

    batches: int = 0
    total: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    shuffle: torch.Tensor | None = None

    @property
    def resumed(self) -> bool:
        """Whether this is the position of a checkpoint."""
        return self.shuffle is not None

    @classmethod
    def from_state(cls, state: dict | None) -> "EpochPosition":
        """The position in a checkpoint, see :meth:`state`; the start of an epoch for None."""
        if not state:
            return cls()
        seconds, cpu_seconds = state["seconds"], state.get("cpu_seconds", 0.0)  # older checkpoints have no CPU seconds
        return cls(state["batches"], state["of"], state["loss"], seconds, cpu_seconds, state["shuffle"].cpu())

    def state(self) -> dict:
        """Return tensors and plain values for a checkpoint."""
        return {"batches": self.batches, "of": self.total, "loss": self.loss, "seconds": self.seconds,
                "cpu_seconds": self.cpu_seconds, "shuffle": self.shuffle}  # fmt: skip


class EpochCheckpointer(TrainingCallback):
    """Writes the newest checkpoint: after the last batch of an epoch, every :data:`SAVE_SECONDS` before it, when another
    callback pauses training, and after each validation.

    A trainer calls it after its other callbacks, as ``trainer.checkpointer``. With several processes only the checkpoint after
    a validation is written.
    """

    def __init__(self):
        self._saved = time.perf_counter()

    def on_epoch_begin(self, trainer, epoch, train_data):
        start = trainer.epoch_start
        self._began, self._cpu_began = time.perf_counter() - start.seconds, time.process_time() - start.cpu_seconds
        self._loss = start.loss
        self._shuffle = start.shuffle if start.resumed else train_data.generator.get_state()

    def on_batch_end(self, trainer, epoch, batches, total, loss):
        self._loss += loss
        ended = batches == total
        if not trainer.saves or not trainer.config["single_spec"]:
            return
        if trainer.pausing or ended or time.perf_counter() - self._saved > SAVE_SECONDS:
            seconds, cpu_seconds = time.perf_counter() - self._began, time.process_time() - self._cpu_began
            trainer.save_newest(epoch - 1, EpochPosition(batches, total, self._loss, seconds, cpu_seconds, self._shuffle))
            self._saved = time.perf_counter()
        if trainer.pausing and not ended:
            raise Paused

    def on_validation_end(self, trainer, epoch, score):
        if trainer.saves:
            trainer.save_newest(epoch)


def remaining_batches(loader, start: EpochPosition) -> Iterator:
    """The batches of an epoch from ``start`` on.

    If training resumes there, the loader shuffles as it did before the epoch and the first batches are skipped. Drawing them
    does not change the random generators, which are those of the checkpoint. An iterator without further batches
    is returned too and must be exhausted: torch draws another shuffle at its end if the last batch was full.
    """
    if start.batches == 0:  # a checkpoint before the first batch has the loader's generator as it is then
        return iter(loader)
    current = randomness(loader)
    loader.generator.set_state(start.shuffle)
    batches = iter(loader)
    for _ in range(start.batches):
        next(batches)
    restore_randomness(current, loader)
    return batches
