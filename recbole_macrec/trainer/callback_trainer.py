"""Base class of our trainer and of the adapted trainers of RecBole: calls callbacks and resumes from checkpoints."""
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_macrec.errors import UserError
from recbole_macrec.trainer.callbacks import TEST, VALIDATION, TrainingCallback
from recbole_macrec.trainer.epoch_checkpointer import EpochCheckpointer, EpochPosition
from recbole_macrec.utils.hardware import keep_freed_memory

if TYPE_CHECKING:  # the class after it in the method resolution order
    from recbole.trainer import Trainer as _RecBoleTrainer
else:
    _RecBoleTrainer = object


class CallbackTrainer(_RecBoleTrainer):
    """Mixin before a RecBole trainer class: calls callbacks, and resumes from a checkpoint.

    A subclass calls :meth:`begin_epoch`, :meth:`end_batch` and :meth:`end_epoch` in its ``_train_epoch``, and defines
    :meth:`make_resumable`, :meth:`restore` and :meth:`save_newest`.

    Attributes:
        callbacks: called in this order.
        checkpointer: called after the callbacks; None if no checkpoints to resume from are written.
        resumable: whether the trainer can write checkpoints from which training resumes exactly.
        saves: whether ``fit`` saves checkpoints (its argument ``saved``).
        epoch_start: where the current epoch starts in this process: after some of its batches if training was resumed there.
        pausing: whether :meth:`pause` was called after the current batch.
    """

    resumable = True

    def __init__(self, config, model):
        super().__init__(config, model)
        if config["device"].type == "cpu":
            keep_freed_memory()
        self.callbacks: list[TrainingCallback] = []
        self.checkpointer: EpochCheckpointer | None = None
        self.saves = False
        self.epoch_start = EpochPosition()
        self.pausing = False
        self._stage = TEST

    @property
    def newest_model_file(self) -> str:
        """Path of the newest checkpoint, beside that of the best epoch."""
        best = Path(self.saved_model_file)
        return str(best.with_name(f"{best.stem}.last{best.suffix}"))

    # -- for subclasses ----------------------------------------------------------------------------------------------

    def make_resumable(self, file=None) -> None:
        """Write checkpoints to resume from during ``fit``, and let it resume from the checkpoint ``file`` if given.

        Does nothing if the trainer is not ``resumable``.
        """
        raise NotImplementedError

    def restore(self, train_data) -> bool:
        """Restore the checkpoint that ``fit`` resumes from, random generators included; returns whether there is one."""
        raise NotImplementedError

    def save_newest(self, epoch: int, position: EpochPosition | None = None) -> None:
        """Write the newest checkpoint, random generators included.

        Args:
            epoch: last epoch that is complete, -1 for none.
            position: within the epoch after it; None at its start.
        """
        raise NotImplementedError

    def training_data(self, train_data):
        """The data loader to train on."""
        return train_data

    def begin_epoch(self, epoch: int, train_data) -> None:
        """Call ``on_epoch_begin``.

        Raises:
            UserError: if the epoch was interrupted with another number of batches.
        """
        total = self.epoch_start.total
        if self.epoch_start.resumed and total != len(train_data):
            raise UserError(
                f"The checkpoint was written within an epoch of {total} batches, but this run has {len(train_data)}; resume "
                "with the same data, train_batch_size and number of processes."
            )
        self._notify("on_epoch_begin", epoch, train_data)

    def end_batch(self, epoch: int, batches: int, total: int, loss: float) -> None:
        """Call ``on_batch_end``."""
        self.pausing = False
        self._notify("on_batch_end", epoch, batches, total, loss)

    def end_epoch(self, epoch: int, losses) -> None:
        """Call ``on_epoch_end``."""
        self._notify("on_epoch_end", epoch, losses)
        self.epoch_start = EpochPosition()

    # -- for callbacks and users -------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Within ``on_batch_end``: write a checkpoint and stop training with :class:`Paused`.

        Ignored after the last batch of an epoch, and if no checkpoints are written within epochs.
        """
        self.pausing = True

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """Like RecBole's method, with callbacks; resumes from the checkpoint of :meth:`make_resumable`."""
        self.saves = saved
        self._stage = VALIDATION
        try:
            self._notify("on_train_begin", train_data, valid_data)
            train_data = self.training_data(train_data)
            ended = self.restore(train_data) and (self.start_epoch >= self.epochs or self.cur_step > self.stopping_step)
            if ended:  # before the checkpoint was written, by the number of epochs or by early stopping
                self.eval_collector.data_collect(train_data)
                result = self.best_valid_score, self.best_valid_result
            else:
                result = self._fit(train_data, valid_data, verbose, saved, show_progress, callback_fn)
            self._notify("on_train_end")
        finally:
            self._stage = TEST
        return result

    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """Like RecBole's method, with callbacks."""
        if not eval_data:
            return None
        stage = self._stage
        self._notify("on_evaluation_begin", stage, eval_data)
        result = self._evaluate(eval_data, load_best_model, model_file, show_progress)
        self._notify("on_evaluation_end", stage, result)
        return result

    # -- calls of RecBole's methods ----------------------------------------------------------------------------------

    def _notify(self, hook: str, *arguments) -> None:
        for callback in [*self.callbacks, *([self.checkpointer] if self.checkpointer else [])]:
            getattr(callback, hook)(self, *arguments)

    def _fit(self, train_data, valid_data, verbose, saved, show_progress, callback_fn):
        def after_validation(epoch, score):
            self._notify("on_validation_end", epoch, score)
            if callback_fn:
                callback_fn(epoch, score)

        fit = super().fit
        # not decision trees
        options = {"callback_fn": after_validation} if "callback_fn" in inspect.signature(fit).parameters else {}
        return fit(train_data, valid_data, verbose, saved, show_progress, **options)

    def _evaluate(self, eval_data, load_best_model, model_file, show_progress):
        return super().evaluate(eval_data, load_best_model, model_file, show_progress)

    def _full_sort_batch_eval(self, batched_data):
        return self._scored(super()._full_sort_batch_eval(batched_data))

    def _neg_sample_batch_eval(self, batched_data):
        return self._scored(super()._neg_sample_batch_eval(batched_data))

    def _scored(self, batch: tuple) -> tuple:
        interaction, scores, rows, items = batch
        self._notify("on_evaluation_batch", self._stage, scores, interaction, rows, items)
        return batch
