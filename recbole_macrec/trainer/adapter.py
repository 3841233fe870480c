"""Callbacks and exact resume for RecBole's own trainers, whose training loop has no hooks.

Only this module and the package compat wrap methods of RecBole's trainers. :func:`with_callbacks` derives a subclass, so
RecBole's classes and objects stay unchanged.
"""
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path

import numpy as np
from recbole.quick_start import quick_start
from recbole.trainer import S3RecTrainer, Trainer

from recbole_macrec.trainer.callback_trainer import CallbackTrainer
from recbole_macrec.trainer.callbacks import TrainingCallback
from recbole_macrec.trainer.checkpoint import best_beside, load_checkpoint, read_together, save_checkpoint
from recbole_macrec.trainer.epoch_checkpointer import EpochCheckpointer, EpochPosition, remaining_batches
from recbole_macrec.trainer.randomness import randomness_of_all, restore_own_randomness
from recbole_macrec.utils.distributed import current_group

# RecBole's models with a state of the training beside their weights: a number of updates, a random graph, an order of users,
# past losses.
STATEFUL = ("DiffRec", "LDiffRec", "LINE", "MacridVAE", "MultiVAE", "SGL")
PROGRESS_ATTRIBUTES = ("cur_step", "best_valid_score", "best_valid_result", "train_loss_dict")  # in checkpoints


@cache
def with_callbacks(trainer_class: type) -> type:
    """The subclass of a trainer class that calls callbacks; the class itself if it calls them already.

    ``on_batch_end`` is called if the class has the training loop of RecBole's ``Trainer``. Exact resume is limited to
    ``Trainer`` and ``S3RecTrainer``, since other trainers may keep state that no checkpoint of RecBole contains, and to models
    that keep none.
    """
    if issubclass(trainer_class, CallbackTrainer):
        return trainer_class
    attributes = {
        "resumable": trainer_class in (Trainer, S3RecTrainer),
        "has_standard_loop": getattr(trainer_class, "_train_epoch", None) is Trainer._train_epoch,
        "__module__": __name__,
    }
    return type(trainer_class.__name__, (_RecBoleTrainer, trainer_class), attributes)


class _RecBoleTrainer(CallbackTrainer):
    """Mixin before a trainer class of RecBole.

    Attributes:
        has_standard_loop: whether ``_train_epoch`` is that of RecBole's ``Trainer``: one pass over the data, which shows the
            loss of each batch to ``_check_nan``.
    """

    has_standard_loop: bool
    batch_loss = 0.0

    def __init__(self, config, model):
        super().__init__(config, model)
        self.resumable = self.resumable and config["model"] not in STATEFUL
        self._resume_file: Path | None = None
        self._train_data = None

    def make_resumable(self, file=None):
        if self.resumable:
            self.checkpointer = EpochCheckpointer()
            self._resume_file = file and Path(file)

    def restore(self, train_data):
        if self._resume_file is None:
            return False
        state = read_together(self._resume_file, self.device, load_checkpoint)
        self.model.load_state_dict(state["state_dict"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["progress"].items():
            setattr(self, name, value)
        self.start_epoch = state["epoch"] + 1
        self.saved_model_file = best_beside(state["best_file"], self._resume_file, self.best_valid_result)
        self.epoch_start = EpochPosition.from_state(state.get("part"))
        restore_own_randomness(state["randomness"], train_data)
        return True

    def save_newest(self, epoch, position=None):
        state = {
            "epoch": epoch,
            "progress": {name: _plain(getattr(self, name)) for name in PROGRESS_ATTRIBUTES},
            "best_file": str(self.saved_model_file),
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "randomness": randomness_of_all(self._train_data),
            "part": position and position.state(),
        }
        if current_group().first:
            save_checkpoint(state, self.newest_model_file)

    def _train_epoch(self, train_data, epoch_idx, *args, **kwargs):
        self._train_data, start = train_data, self.epoch_start
        self.begin_epoch(epoch_idx, train_data)
        batches = _ObservedBatches(train_data, self, epoch_idx) if self.has_standard_loop else train_data
        losses = super()._train_epoch(batches, epoch_idx, *args, **kwargs)
        if start.resumed and not isinstance(losses, tuple):
            losses = batches.loss
        self.end_epoch(epoch_idx, losses)
        return losses

    def _check_nan(self, loss, *args):
        super()._check_nan(loss, *args)
        self.batch_loss = loss.item()


class _ObservedBatches:
    """The remaining batches of an epoch; calls ``on_batch_end`` after each. Otherwise the loader itself.

    Attributes:
        loss: sum of the losses of the epoch so far.
    """

    def __init__(self, loader, trainer: _RecBoleTrainer, epoch: int):
        self._loader, self._trainer, self._epoch = loader, trainer, epoch
        self.loss = trainer.epoch_start.loss

    def __getattr__(self, name: str):
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator:
        trainer, start = self._trainer, self._trainer.epoch_start
        for batches, batch in enumerate(remaining_batches(self._loader, start), start.batches + 1):
            yield batch  # RecBole's loop returns here after the optimizer step
            self.loss += trainer.batch_loss
            trainer.end_batch(self._epoch, batches, len(self), trainer.batch_loss)


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return value.item() if isinstance(value, np.generic) else value


@dataclass
class RecBoleRun:
    """A run of RecBole with callbacks.

    Attributes:
        trainer: None until RecBole has created it.
        data_seconds: time that creating and splitting the dataset took.
    """

    trainer: CallbackTrainer | None = None
    data_seconds: float = 0.0


@contextmanager
def callbacks_in_runs(callbacks: Sequence[TrainingCallback]) -> Iterator[RecBoleRun]:
    """Let the trainer that ``recbole.quick_start.run`` creates within the ``with`` block call ``callbacks``."""
    run = RecBoleRun()
    originals = {name: getattr(quick_start, name) for name in ("create_dataset", "data_preparation", "get_trainer")}

    def timed(function):
        @wraps(function)
        def wrapped(*args):
            began = time.perf_counter()
            try:
                return function(*args)
            finally:
                run.data_seconds += time.perf_counter() - began

        return wrapped

    def get_trainer(*kind):
        def create(config, model):
            run.trainer = with_callbacks(originals["get_trainer"](*kind))(config, model)
            run.trainer.callbacks.extend(callbacks)
            return run.trainer

        return create

    quick_start.create_dataset = timed(originals["create_dataset"])
    quick_start.data_preparation = timed(originals["data_preparation"])
    quick_start.get_trainer = get_trainer
    try:
        yield run
    finally:
        for name, function in originals.items():
            setattr(quick_start, name, function)
