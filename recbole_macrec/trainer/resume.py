"""Exact resume for RecBole's own trainers, whose checkpoints leave out the random generators and the optimizer's past."""
from pathlib import Path

import numpy as np
from recbole.trainer import S3RecTrainer, Trainer

from recbole_macrec.trainer.checkpoint import load_checkpoint, read_together, save_checkpoint
from recbole_macrec.trainer.epoch_checkpointer import EpochCheckpointer
from recbole_macrec.trainer.randomness import randomness_of_all, restore_own_randomness
from recbole_macrec.trainer.trainer import GenerativeTrainer, best_beside, newest_beside, nothing_left
from recbole_macrec.utils.distributed import current_group

PROGRESS = ("cur_step", "best_valid_score", "best_valid_result", "train_loss_dict")


def make_resumable(trainer, file: str | Path | None) -> EpochCheckpointer | None:
    """Let ``trainer`` write checkpoints to go on from, and go on from ``file`` if given.

    The run that goes on ends exactly as an uninterrupted one. Ours do so by themselves (``resume``). Of RecBole's, the
    trainers with a training loop of their own keep state elsewhere; these are left alone, to be trained from the start.

    Returns:
        What leaves an epoch of ``trainer`` between two batches; None where it can't go on.
    """
    if isinstance(trainer, GenerativeTrainer):
        if file is not None:
            trainer.config["resume"] = str(file)
        return trainer.epoch_checkpointer
    if type(trainer) not in (Trainer, S3RecTrainer):
        return None
    fit = trainer.fit

    def save(epoch, part=None):
        state = _state(trainer, epoch, parts.train_data)
        if current_group().first:
            save_checkpoint({**state, "part": part}, newest_beside(trainer.saved_model_file))

    parts = EpochCheckpointer(trainer, save)

    def resumable_fit(train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        parts.saves = saved and trainer.config["single_spec"]
        if file is not None:
            state = read_together(file, trainer.device, load_checkpoint)
            _restore(trainer, state, Path(file), train_data)
            parts.part = state.get("part")
        if nothing_left(trainer):
            trainer.eval_collector.data_collect(train_data)
            return trainer.best_valid_score, trainer.best_valid_result

        def after_epoch(epoch, score):
            if saved:
                save(epoch)
            if callback_fn:
                callback_fn(epoch, score)

        return fit(train_data, valid_data, verbose, saved, show_progress, after_epoch)

    trainer.fit = resumable_fit
    return parts


def _state(trainer, epoch: int, train_data) -> dict:
    return {
        "epoch": epoch,
        "progress": {name: _plain(getattr(trainer, name)) for name in PROGRESS},
        "best_file": str(trainer.saved_model_file),
        "state_dict": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "randomness": randomness_of_all(train_data),
    }


def _restore(trainer, state: dict, file: Path, train_data) -> None:
    trainer.model.load_state_dict(state["state_dict"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    for name, value in state["progress"].items():
        setattr(trainer, name, value)
    trainer.start_epoch = state["epoch"] + 1
    trainer.saved_model_file = best_beside(state["best_file"], file, trainer.best_valid_result)
    restore_own_randomness(state["randomness"], train_data)


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return value.item() if isinstance(value, np.generic) else value
