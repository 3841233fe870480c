"""RecBole's Trainer with a warm-up and cosine schedule, bf16, exact resume and checkpoints that load safely."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from time import time

import torch
from recbole.trainer import Trainer
from recbole.utils import ModelType, get_gpu_usage, set_color
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from recbole_macrec.config.options import TRAINED_ON
from recbole_macrec.config.plain import plain_config
from recbole_macrec.errors import UserError
from recbole_macrec.generation.decoding.search import Ranking
from recbole_macrec.generation.network.compiled import compile_layers
from recbole_macrec.model.base import GenerativeRecommender
from recbole_macrec.model.windowed import WindowedRecommender
from recbole_macrec.trainer.callback_trainer import CallbackTrainer
from recbole_macrec.trainer.callbacks import VALIDATION
from recbole_macrec.trainer.checkpoint import (
    best_beside,
    check_complete,
    load_checkpoint,
    load_weights,
    read_together,
    relative_folder,
    save_checkpoint,
)
from recbole_macrec.trainer.dense_share import choose_dense_share
from recbole_macrec.trainer.epoch_checkpointer import EpochCheckpointer, EpochPosition, remaining_batches
from recbole_macrec.trainer.evaluation_batches import add_excluded_items
from recbole_macrec.trainer.randomness import randomness_of_all, restore_own_randomness
from recbole_macrec.trainer.ranking_metrics import RankingMetrics
from recbole_macrec.trainer.windows import WindowLoader
from recbole_macrec.utils.cpu_threads import map_in_threads, seeded_bits
from recbole_macrec.utils.distributed import current_group
from recbole_macrec.utils.distributed_tensors import average_gradients, mean_over_processes
from recbole_macrec.utils.hardware import autocast_to, resolve_precision, tf32_products

RESUMED = (
    "state_dict",
    "optimizer",
    "epoch",
    "cur_step",
    "best_valid_score",
    "best_valid_result",
    "best_file",
    "randomness",
)


class GenerativeTrainer(CallbackTrainer, Trainer):
    """Trains and evaluates our models.

    The checkpoint of the best epoch is ``saved_model_file``, as in RecBole. The newest checkpoint is beside it, with ``.last``
    in its name. ``fit`` resumes from the checkpoint that the option ``resume`` names; a run resumed from the newest ends as an
    uninterrupted one. A new run starts from the weights of ``pre_model_path``, if the model has this option. Within long epochs
    a checkpoint is written every five minutes.

    Attributes:
        precision: ``fp32``, ``tf32`` or ``bf16`` in training; the model ranks in its ``eval_precision``.
        test_detail: metrics of the last evaluation, ranking name -> {"item": metrics, "id": metrics}; empty for a model that
            only scores items.
        epoch_seconds: training time of each epoch in this process.
    """

    def __init__(self, config, model):
        super().__init__(config, model)
        self.precision = resolve_precision(config["precision"], self.device)
        if config["compile"] and self.device.type == "cpu":
            self.logger.warning("compile is True, which is for GPUs; training on the CPU does not compile.")
        elif config["compile"]:
            compile_layers(model, torch.bfloat16 if self.precision == "bf16" else None)
        if config["enable_amp"]:
            self.logger.warning("enable_amp is True, which only RecBole's own models read; precision=bf16 is the option here.")
        self.distributed = not config["single_spec"]
        self.step, self.steps = 0, 0  # optimizer steps done and planned
        self.epoch_seconds: list[float] = []
        self.test_detail: dict[str, dict] | None = None
        self._ranking_metrics = RankingMetrics()
        self._searched: Iterator[dict[str, Ranking]] = iter(())  # rankings of the next batches of a validation
        self._valid_result: dict | None = None  # of the last validation of ``fit``
        self._restored: dict | None = None  # checkpoint whose random generators are not restored yet
        self._train_data = None
        self.checkpointer = EpochCheckpointer()

    # -- training ----------------------------------------------------------------------------------------------------

    def _build_optimizer(self, **kwargs):
        """Like RecBole's method, with ``momentum`` for SGD, and without weight decay of norms, biases and relative position
        biases."""
        exempt = parameters_without_decay(self.model)
        decayed = [p for p in self.model.parameters() if id(p) not in {id(q) for q in exempt}]
        kwargs.setdefault("params", [{"params": decayed}, {"params": exempt, "weight_decay": 0.0}])
        optimizer = super()._build_optimizer(**kwargs)
        if isinstance(optimizer, torch.optim.SGD) and self.config["momentum"]:
            for group in optimizer.param_groups:
                group["momentum"] = self.config["momentum"]
        return optimizer

    def _fit(self, train_data, valid_data, *arguments):
        if valid_data and self.eval_step > 0 and (rest := self.epochs % self.eval_step):
            self.logger.warning(
                f"epochs is {self.epochs} and eval_step is {self.eval_step}: the last validation comes after "
                f"{self.epochs - rest} epochs, and later weights are not kept; set eval_step to a divisor of epochs."
            )
        result = super()._fit(train_data, valid_data, *arguments)
        self.tensorboard.flush()
        return result

    def training_data(self, train_data):
        self._train_data = self.training_loader(train_data)
        self.step = 0  # ``restore`` sets that of a resumed run
        self.steps = self.epochs * len(self._train_data)
        return self._train_data

    def training_loader(self, samples):
        """The loader to train on: RecBole's loader of samples, or with ``training: per_user`` a loader of windows."""
        return WindowLoader(samples) if self.config["training"] == "per_user" else samples

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False) -> float:
        """Train one epoch; returns the sum over batches of their losses, as RecBole does, averaged over the processes."""
        began, start = time(), self.epoch_start
        self.begin_epoch(epoch_idx, train_data)
        self.model.before_epoch(epoch_idx, start.resumed)
        for _ in self.model.long_preparation():
            self.end_batch(epoch_idx, 0, len(train_data), 0.0)
        self.model.train()
        if self.distributed and train_data.shuffle:
            train_data.sampler.set_epoch(epoch_idx)
        bar = tqdm(
            remaining_batches(train_data, start),
            total=len(train_data),
            ncols=100,
            desc=set_color(f"Train {epoch_idx:>5}", "pink"),
            disable=not show_progress,
        )
        total = start.loss
        for batches, interaction in enumerate(bar, start.batches + 1):
            loss = self._step(interaction, loss_func)
            total += loss
            if self.gpu_available and show_progress:
                bar.set_postfix_str(set_color("GPU RAM: " + get_gpu_usage(self.device), "yellow"))
            self.end_batch(epoch_idx, batches, len(train_data), loss)
        largest = torch.stack([p.detach().abs().max() for p in self.model.parameters() if p.numel()]).max()
        self._check_nan(largest, "largest weight")  # no loss follows the last step of the epoch
        self.epoch_seconds.append(time() - began)
        mean = mean_over_processes(total)
        self.end_epoch(epoch_idx, mean)
        return mean

    def train_steps(self, train_data, count: int | None = None) -> float:
        """Train on the first ``count`` batches of ``train_data``, by default all; return the mean loss.

        Outside of :meth:`fit` the learning rate is constant, and there are no callbacks.
        """
        self.model.train()
        losses = [self._step(interaction) for interaction in islice(train_data, count)]
        return sum(losses) / len(losses)

    def _step(self, interaction, loss_func=None) -> float:
        self._set_learning_rate()
        self.optimizer.zero_grad()
        loss = self._backward(interaction, loss_func)
        self._check_nan(loss)
        if self.distributed:
            average_gradients(self.model.parameters())
        if self.clip_grad_norm:
            clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def _backward(self, interaction, loss_func=None) -> torch.Tensor:
        """Compute the gradients of each part of the loss, and return the loss.

        Each part has its own random generator, and the gradients are added in the order of the parts, so the result does not
        depend on the number of threads.
        """
        parts = self._loss_parts(interaction, loss_func)
        seeds = torch.randint(2**62, (len(parts),)).tolist()
        weights = [p for p in self.model.parameters() if p.requires_grad]

        def gradients(seeded_part: tuple[Callable[[], torch.Tensor], int]):
            part, seed = seeded_part
            with seeded_bits(seed), autocast_to(self.precision, self.device):
                loss = part()
            return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)

        total = torch.zeros((), device=self.device)
        with tf32_products(self.precision == "tf32"):
            for loss, part_gradients in map_in_threads(gradients, list(zip(parts, seeds)), self.device):
                total += loss
                for weight, gradient in zip(weights, part_gradients):
                    if gradient is not None:
                        weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
        return total

    def _loss_parts(self, interaction, loss_func=None) -> list[Callable[[], torch.Tensor]]:
        """Functions whose results add up to the loss of a batch: a single one unless ``calculate_loss`` of the model, which a
        derived class may override, is the sum of its ``loss_parts``."""
        if loss_func is None and type(self.model).calculate_loss is WindowedRecommender.calculate_loss:
            return self.model.loss_parts(interaction)
        return [partial(loss_func or self.model.calculate_loss, interaction.to(self.device))]

    def _set_learning_rate(self) -> None:
        """Linear warm-up over the first ``warmup_ratio`` of all steps, then a cosine or a line to zero (or constant)."""
        warmup = max(1, round(self.config["warmup_ratio"] * self.steps))
        factor = min(1.0, (self.step + 1) / warmup)
        if self.config["scheduler"] != "constant" and self.steps and self.step >= warmup:
            progress = min(1.0, (self.step - warmup) / max(1, self.steps - warmup))
            factor = 0.5 * (1 + math.cos(math.pi * progress)) if self.config["scheduler"] == "cosine" else 1 - progress
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * factor

    # -- evaluation --------------------------------------------------------------------------------------------------

    def _evaluate(self, eval_data, load_best_model, model_file, show_progress):
        if load_best_model:
            file = model_file or self.saved_model_file
            load_weights(self.model, read_together(file, self.device, load_checkpoint), file)
            self.logger.info(f"Loading model structure and parameters from {file}")
        self._searched = iter(())
        if self._stage == VALIDATION and isinstance(self.model, GenerativeRecommender) and self.model.ranking.decode == "fused":
            self._searched = iter(choose_dense_share(self.model, eval_data, self.config["valid_metric"]))
        self._ranking_metrics = RankingMetrics()
        result = super()._evaluate(eval_data, False, None, show_progress)
        if self._stage == VALIDATION:
            self._valid_result = result
        topk, decimals = self.config["topk"], self.config["metric_decimal_place"]
        self.test_detail = self._ranking_metrics.result(topk, decimals, eval_data.sample_size)
        return result

    def _full_sort_batch_eval(self, batched_data):
        add_excluded_items(batched_data)
        if known := next(self._searched, None):
            self.model.known_rankings = {name: ranking.to(self.device) for name, ranking in known.items()}
        interaction, scores, positive_u, positive_i = super()._full_sort_batch_eval(batched_data)
        if self.config["MODEL_TYPE"] == ModelType.SEQUENTIAL and len(positive_u) == len(scores):  # one target per user
            self._ranking_metrics.update(self.model, positive_i.to(self.device))
        return interaction, scores, positive_u, positive_i

    def _neg_sample_batch_eval(self, batched_data):
        self.model.last_rankings = {}  # those of a full ranking before are not of this batch
        return super()._neg_sample_batch_eval(batched_data)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def make_resumable(self, file=None):
        if file is not None:
            self.config["resume"] = str(file)

    def restore(self, train_data):
        if self.config["resume"]:
            self.resume_checkpoint(self.config["resume"])
        state, self._restored = self._restored, None
        if state is None:
            if (file := self.config["pre_model_path"]) and TRAINED_ON not in self.config:  # not a model already trained
                self._start_from(file)
            return False
        restore_own_randomness(state["randomness"], train_data)
        # derived, so that a run with another train_batch_size is at the same place of the schedule
        self.step = self.start_epoch * len(train_data) + self.epoch_start.batches
        return True

    def _start_from(self, file: str) -> None:
        """Start from the weights of a checkpoint, if the model can; the models of a comparison have the same settings."""
        model = type(self.model)
        if "pre_model_path" not in model.options.model_fields:
            self.logger.warning(f"{model.__name__} has no option pre_model_path and ignores {file}.")
            return
        pretrained = read_together(file, self.device, load_checkpoint)
        check_complete(pretrained, ["config", "state_dict"], file)
        self.model.start_from(pretrained, file)

    def save_newest(self, epoch, position=None):
        self._save_checkpoint(epoch, verbose=False, saved_model_file=self.newest_model_file, position=position)

    def _save_checkpoint(self, epoch, verbose=True, saved_model_file=None, position=None):
        generators = randomness_of_all(self._train_data)
        if not current_group().first:
            return
        file, best_result = saved_model_file, self.best_valid_result
        if file is None:  # the best epoch: RecBole sets ``best_valid_result`` after it is saved
            file, best_result = self.saved_model_file, self._valid_result or best_result
        state = {
            "config": plain_config(self.config),
            "data_folder": relative_folder(self.config["data_path"], file),
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": dict(best_result or {}),
            "best_file": str(self.saved_model_file),
            "state_dict": self.model.state_dict(),
            "other_parameter": self.model.other_parameter(),
            "preparation": self.model.preparation_state(),
            "optimizer": self.optimizer.state_dict(),
            "randomness": generators,
            "part": position and position.state(),
        }
        save_checkpoint(state, file)
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {file}")

    def resume_checkpoint(self, resume_file):
        """Load ``resume_file``, so that ``fit`` resumes after the epoch, or the batch, after which it was written.

        The optimizer has its options of this run, such as ``weight_decay``, and its state of the checkpoint.

        Raises:
            UserError: if the checkpoint does not fit the model or its optimizer.
        """
        state = read_together(resume_file, self.device, load_checkpoint)
        check_complete(state, RESUMED, resume_file)
        learner = (state["config"] if isinstance(state.get("config"), dict) else {}).get("learner", self.learner)
        if learner != self.learner:
            raise UserError(
                f"learner is {self.learner}, but checkpoint {resume_file} was written with {learner}; set learner to "
                f"{learner}, or train again without resume."
            )
        load_weights(self.model, state, resume_file)
        options = [{name: value for name, value in group.items() if name != "params"} for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise UserError(
                f"Checkpoint {resume_file} has the optimizer state of another version or model ({error}); train again without "
                "resume."
            ) from error
        for group, of_run in zip(self.optimizer.param_groups, options):
            group.update(of_run)
        self.model.load_preparation_state(state.get("preparation") or {})
        self.start_epoch = state["epoch"] + 1
        self.cur_step = state["cur_step"]
        self.best_valid_score, self.best_valid_result = state["best_valid_score"], state["best_valid_result"] or None
        self.saved_model_file = best_beside(state["best_file"], resume_file, self.best_valid_result)
        self.epoch_start = EpochPosition.from_state(state.get("part"))
        self._restored = state
        self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}")


def parameters_without_decay(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Vectors (weights of norms, biases of layers) and tables of relative position biases, each once."""
    return [p for name, p in model.named_parameters() if p.ndim < 2 or "bias" in name]
