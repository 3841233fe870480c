"""RecBole's Trainer with a warm-up and cosine schedule, bf16, exact resume and checkpoints that load safely."""
import math
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from time import time

import torch
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer
from recbole.utils import ModelType, get_gpu_usage, set_color
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from recbole_macrec.errors import UserError
from recbole_macrec.generation.network.compiled import compile_layers
from recbole_macrec.generation.network.layers import RelativeBias
from recbole_macrec.model.base import EXCLUDED_ITEMS_FIELD
from recbole_macrec.trainer.checkpoint import (
    load_checkpoint,
    read_together,
    relative_folder,
    save_checkpoint,
)
from recbole_macrec.trainer.detail import RankingDetail
from recbole_macrec.trainer.epoch_checkpointer import EpochCheckpointer
from recbole_macrec.trainer.randomness import randomness_of_all, restore_own_randomness
from recbole_macrec.trainer.windows import WindowLoader
from recbole_macrec.utils.cpu_threads import map_in_threads, seeded_bits
from recbole_macrec.utils.distributed import average_gradients, current_group, gather_in_order
from recbole_macrec.utils.hardware import autocast_to, keep_freed_memory, resolve_precision


class GenerativeTrainer(Trainer):
    """Trains and evaluates our models.

    The best epoch's checkpoint lies at ``saved_model_file`` as always in RecBole, the newest one beside it with
    ``.last`` in its name; either can be resumed, and a run resumed from the newest ends as an uninterrupted one. Long epochs are
    also saved while they go on.

    Attributes:
        precision: ``fp32`` or ``bf16``, what the training computes in; the model ranks in its own ``eval_precision``.
        test_detail: of the last evaluation, ranking name -> {"item": metrics, "id": metrics}; empty for scores alone.
        epoch_seconds: of each epoch trained in this process.
    """

    def __init__(self, config, model):
        super().__init__(config, model)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.precision = resolve_precision(config["precision"], self.device)
        if config["compile"] and self.device.type == "cpu":
            self.logger.warning("compile: True pays on GPUs alone; going on without.")
        elif config["compile"]:
            compile_layers(model, torch.bfloat16 if self.precision == "bf16" else None)
        self.distributed = not config["single_spec"]
        self.step, self.steps = 0, 0  # optimizer steps taken and planned
        self.epoch_seconds: list[float] = []
        self.test_detail: dict[str, dict] | None = None
        self._detail = RankingDetail()
        self._resumed: dict | None = None
        self._train_data = None
        self.epoch_checkpointer = EpochCheckpointer(self, self._save_part)

    # -- training ----------------------------------------------------------------------------------------------------

    def _build_optimizer(self, **kwargs):
        """As in RecBole, whose SGD knows no ``momentum``; norms, biases and relative position biases get no weight decay."""
        exempt = parameters_without_decay(self.model)
        decayed = [p for p in self.model.parameters() if id(p) not in {id(q) for q in exempt}]
        kwargs.setdefault("params", [{"params": decayed}, {"params": exempt, "weight_decay": 0.0}])
        optimizer = super()._build_optimizer(**kwargs)
        if isinstance(optimizer, torch.optim.SGD) and self.config["momentum"]:
            for group in optimizer.param_groups:
                group["momentum"] = self.config["momentum"]
        return optimizer

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """As in RecBole; ``resume`` in the config names a checkpoint to go on from."""
        self._train_data = train_data = self.training_loader(train_data)
        self.epoch_checkpointer.saves = saved and not self.distributed
        self.steps = self.epochs * len(train_data)
        if self.config["resume"]:
            self.resume_checkpoint(self.config["resume"])
        if self._resumed:
            restore_own_randomness(self._resumed["randomness"], train_data)
            self._resumed = None
            if nothing_left(self):
                self.eval_collector.data_collect(train_data)
                return self.best_valid_score, self.best_valid_result

        def after_epoch(epoch, score):
            if saved:
                self._save_checkpoint(epoch, verbose=False, saved_model_file=self._last_file())
            if callback_fn:
                callback_fn(epoch, score)

        score, result = super().fit(train_data, valid_data, verbose, saved, show_progress, after_epoch)
        self.tensorboard.flush()
        return score, result

    def training_loader(self, samples):
        """The batches to train on: RecBole's samples, or with ``training: per_user`` windows of them."""
        return WindowLoader(samples) if self.config["training"] == "per_user" else samples

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False) -> float:
        """One epoch; returns the sum over batches of their losses, as RecBole does; of several processes their mean."""
        began = time()
        self.model.train()
        if self.distributed and train_data.shuffle:
            train_data.sampler.set_epoch(epoch_idx)
        bar = tqdm(
            train_data,
            total=len(train_data),
            ncols=100,
            desc=set_color(f"Train {epoch_idx:>5}", "pink"),
            disable=not show_progress,
        )
        total = 0.0
        for interaction in bar:
            total += self._step(interaction, loss_func)
            if self.gpu_available and show_progress:
                bar.set_postfix_str(set_color("GPU RAM: " + get_gpu_usage(self.device), "yellow"))
        largest = torch.stack([p.detach().abs().max() for p in self.model.parameters()]).max()
        Trainer._check_nan(self, largest, "largest weight")  # the last step of the epoch has no loss that would show it
        self.epoch_seconds.append(time() - began)
        losses = current_group().gather(total)
        return sum(losses) / len(losses)

    def train_steps(self, train_data, count: int | None = None) -> float:
        """Train on the first ``count`` batches of ``train_data``, all by default; returns the mean loss."""
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
        """Fill in the gradients, part of the loss by part, and return the loss.

        Every part draws from a generator of its own, and the gradients are added in the order of the parts, so that
        the result does not depend on the number of threads.
        """
        parts = [partial(loss_func, interaction.to(self.device))] if loss_func else self.model.loss_parts(interaction)
        seeds = torch.randint(2**62, (len(parts),)).tolist()
        weights = [p for p in self.model.parameters() if p.requires_grad]

        def gradients(numbered: tuple[Callable[[], torch.Tensor], int]):
            part, seed = numbered
            with seeded_bits(seed), autocast_to(self.precision, self.device):
                loss = part()
            return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)

        total = torch.zeros((), device=self.device)
        for loss, parts_gradients in map_in_threads(gradients, list(zip(parts, seeds)), self.device):
            total += loss
            for weight, gradient in zip(weights, parts_gradients):
                if gradient is not None:
                    weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
        return total

    def _set_learning_rate(self) -> None:
        """Linear warm-up over the first ``warmup_ratio`` of all steps, then a cosine to zero (or constant)."""
        warmup = max(1, round(self.config["warmup_ratio"] * self.steps))
        factor = min(1.0, (self.step + 1) / warmup)
        if self.config["scheduler"] == "cosine" and self.step >= warmup:
            progress = (self.step - warmup) / max(1, self.steps - warmup)
            factor = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * factor

    # -- evaluation --------------------------------------------------------------------------------------------------

    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        if not eval_data:
            return None
        if load_best_model:
            file = model_file or self.saved_model_file
            load_weights(self.model, read_together(file, self.device, load_checkpoint), file)
            self.logger.info(f"Loading model structure and parameters from {file}")
        self._detail = RankingDetail()
        gather = None
        if self.distributed:
            gather = partial(gather_in_order, samples=eval_data.sample_size)
        result = super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
        topk, decimals = self.config["topk"], self.config["metric_decimal_place"]
        self.test_detail = self._detail.result(topk, decimals, *([gather] if gather else []))
        return result

    def _full_sort_batch_eval(self, batched_data):
        interaction, masked, *_ = batched_data
        if masked is not None:
            interaction.update(Interaction({EXCLUDED_ITEMS_FIELD: padded_rows(*masked, len(interaction))}))
        interaction, scores, positive_u, positive_i = super()._full_sort_batch_eval(batched_data)
        if self.config["MODEL_TYPE"] == ModelType.SEQUENTIAL and len(positive_u) == len(scores):  # one target a user
            self._detail.update(self.model, positive_i.to(self.device))
        return interaction, scores, positive_u, positive_i

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _last_file(self) -> str:
        return str(newest_beside(self.saved_model_file))

    def _save_part(self, epoch: int, part: dict) -> None:
        self._save_checkpoint(epoch, verbose=False, saved_model_file=self._last_file(), part=part)

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        from recbole_macrec.config.plain import plain_config

        generators = randomness_of_all(self._train_data)
        if not current_group().first:
            return
        file = kwargs.pop("saved_model_file", self.saved_model_file)
        part = kwargs.pop("part", None)
        state = {
            "config": plain_config(self.config),
            "data_folder": relative_folder(self.config["data_path"], file),
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": dict(self.best_valid_result or {}),
            "best_file": str(self.saved_model_file),
            "state_dict": self.model.state_dict(),
            "other_parameter": self.model.other_parameter(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "randomness": generators,
            "part": part,
        }
        save_checkpoint(state, file)
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {file}")

    def resume_checkpoint(self, resume_file):
        """Go on behind the epoch, or the part of one, that ``resume_file`` was written in."""
        state = read_together(resume_file, self.device, load_checkpoint)
        load_weights(self.model, state, resume_file)
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise UserError(
                f"Checkpoint {resume_file} has the optimizer state of another version or model ({error}); train anew."
            ) from error
        self.start_epoch = state["epoch"] + 1
        self.cur_step, self.step = state["cur_step"], state["step"]
        self.best_valid_score, self.best_valid_result = state["best_valid_score"], state["best_valid_result"] or None
        self.saved_model_file = best_beside(state["best_file"], resume_file, self.best_valid_result)
        self.epoch_checkpointer.part = state.get("part")
        self._resumed = state
        self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}")


def padded_rows(rows: torch.Tensor, values: torch.Tensor, count: int) -> torch.Tensor:
    """The ``values`` [E] of each of ``count`` rows, which ``rows`` [E] names in rising order; [count, most of a row], 0 behind."""
    lengths = torch.bincount(rows, minlength=count)
    first = lengths.cumsum(0) - lengths
    padded = values.new_zeros(count, max(1, int(lengths.max())))
    padded[rows, torch.arange(len(rows), device=rows.device) - first[rows]] = values
    return padded


def parameters_without_decay(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Vectors (weights of norms, biases of layers) and tables of relative position biases, each once."""
    tables = [module.weight for module in model.modules() if isinstance(module, RelativeBias)]
    return list({id(p): p for p in [*tables, *(p for p in model.parameters() if p.ndim < 2)]}.values())


def nothing_left(trainer) -> bool:
    """Whether a resumed training had ended already, by its number of epochs or by early stopping."""
    return trainer.start_epoch >= trainer.epochs or trainer.cur_step > trainer.stopping_step


def newest_beside(best_file: str | Path) -> Path:
    """The newest checkpoint of the run whose best one is ``best_file``."""
    path = Path(best_file)
    return path.with_name(f"{path.stem}.last{path.suffix}")


def best_beside(best_file: str, resume_file: str | Path, evaluated) -> str:
    """The best epoch's checkpoint: where it was written, or beside ``resume_file`` where the folder has moved; without
    one, ``resume_file`` itself, unless no epoch was ``evaluated`` before it."""
    resume_file = Path(resume_file)
    beside = resume_file.with_name(Path(best_file).name)
    return str(next((path for path in (Path(best_file), beside) if path.is_file()), resume_file if evaluated else beside))


def load_weights(model: torch.nn.Module, state: dict, file: str | Path) -> None:
    """Put a checkpoint's weights into ``model``.

    Raises:
        UserError: when it was trained on other semantic IDs or with other sizes.
    """
    model.load_other_parameter(state.get("other_parameter"))
    try:
        model.load_state_dict(state["state_dict"])
    except RuntimeError as error:
        raise UserError(
            f"Checkpoint {file} does not fit this model ({' '.join(str(error).split())[:200]}); "
            "use the model and options it was trained with."
        ) from error
