"""Callbacks: objects that a trainer calls while it trains and evaluates.

:class:`~recbole_macrec.trainer.GenerativeTrainer` calls them itself, RecBole's trainers through
:mod:`recbole_macrec.trainer.adapter`.

Shapes: B rows of a batch, T targets of these rows, N items with padding.
"""
VALIDATION, TEST = "validation", "test"  # stages of an evaluation


class TrainingCallback:
    """Base class of callbacks. Every hook does nothing unless a subclass overrides it.

    The order of the hooks in training, and in the test after it::

        on_train_begin
          for each epoch:
            on_epoch_begin, on_batch_end (after each batch), on_epoch_end
            with validation: on_evaluation_begin, on_evaluation_batch (after each batch), on_evaluation_end, on_validation_end
        on_train_end
        on_evaluation_begin, on_evaluation_batch (after each batch), on_evaluation_end

    Trainers call their callbacks in the order of ``trainer.callbacks``. If training stops by an exception, no further hook is
    called.
    """

    def on_train_begin(self, trainer, train_data, valid_data) -> None:
        """Called at the start of ``fit``, before a checkpoint is restored; ``trainer.make_resumable`` may be called here.

        Args:
            train_data, valid_data: RecBole's data loaders; ``valid_data`` is None without validation.
        """

    def on_epoch_begin(self, trainer, epoch: int, train_data) -> None:
        """Called before the first batch. ``trainer.epoch_start`` is where the epoch starts in this process."""

    def on_batch_end(self, trainer, epoch: int, batches: int, total: int, loss: float) -> None:
        """Called after the optimizer step of a batch; ``trainer.pause`` may be called here.

        RecBole's trainers with an epoch of their own, such as KGAT's, which passes over the data twice, do not call it.

        Args:
            epoch: from 0.
            batches: number of batches trained in this epoch; 0 between the parts of a long preparation of the model, such as
                InvRL's learning of its mask.
            total: number of batches of the epoch.
            loss: loss of the batch.
        """

    def on_epoch_end(self, trainer, epoch: int, losses) -> None:
        """Called after the last batch, before validation.

        Args:
            losses: sum of the losses of the batches, as RecBole computes it: a number, a tuple for a loss of several parts, or
                None.
        """

    def on_evaluation_begin(self, trainer, stage: str, eval_data) -> None:
        """Called before an evaluation; ``stage`` is "validation" within ``fit`` and "test" otherwise."""

    def on_evaluation_batch(self, trainer, stage: str, scores, interaction, rows, items) -> None:
        """Called with the scores that RecBole computes its metrics from, before it does.

        Args:
            scores: [B, N], -inf for items that are not ranked.
            interaction: the batch.
            rows, items: [T], row and item of every target.
        """

    def on_evaluation_end(self, trainer, stage: str, result: dict) -> None:
        """Called with the metrics of an evaluation. In a validation the best score and checkpoint are not yet updated."""

    def on_validation_end(self, trainer, epoch: int, score: float) -> None:
        """Called after the validation of an epoch, when the best score, the best checkpoint and early stopping are updated."""

    def on_train_end(self, trainer) -> None:
        """Called at the end of ``fit``."""
