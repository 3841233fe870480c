"""Trainer of the general recommenders."""
from recbole_macrec.trainer.trainer import GenerativeTrainer


class PairwiseTrainer(GenerativeTrainer):
    """Calls ``before_epoch`` of the model before each epoch; otherwise like :class:`GenerativeTrainer`."""

    def begin_epoch(self, epoch, train_data):
        super().begin_epoch(epoch, train_data)
        self.model.before_epoch(epoch)
