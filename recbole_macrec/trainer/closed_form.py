"""Trainer of models whose weights a formula gives."""
from time import time

from recbole_macrec.trainer.trainer import GenerativeTrainer


class ClosedFormTrainer(GenerativeTrainer):
    """Computes the weights in a single epoch without batches: the model's method ``solve`` gets the training interactions."""

    def __init__(self, config, model):
        super().__init__(config, model)
        self.precision = "fp32"
        self.epochs, self.eval_step = 1, min(config["eval_step"], 1)

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False) -> float:
        began = time()
        self.begin_epoch(epoch_idx, train_data)
        self.model.solve(train_data.dataset.training_interactions())
        self.epoch_seconds.append(time() - began)
        self.end_epoch(epoch_idx, 0.0)
        return 0.0
