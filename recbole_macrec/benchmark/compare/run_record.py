"""The record of a RecBole run: settings, results, seconds of its stages, library versions and machine."""
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from recbole.config import Config
from recbole.utils import ModelType

from recbole_macrec.benchmark.compare.recorder import RunRecorder
from recbole_macrec.benchmark.compare.run_callbacks import StageTimer
from recbole_macrec.benchmark.machine import git_commit, hardware, library_versions
from recbole_macrec.config.plain import plain, plain_config
from recbole_macrec.trainer.adapter import RecBoleRun, callbacks_in_runs


class Observation:
    """A RecBole run in this process, from which :meth:`record` builds the record.

    Args:
        run: holds the trainer of the run.
        timer: a callback of the run that measures its stages.
        recorder: also records the run in its folder.
    """

    def __init__(self, run: RecBoleRun, timer: StageTimer, recorder: RunRecorder | None):
        self.run, self.timer, self.recorder = run, timer, recorder
        self._cpu_began, self._commit = time.process_time(), git_commit()

    def record(self) -> dict:
        """The record of the finished run, as plain values; writes its ranks and codes if the recorder keeps them."""
        trainer = self.run.trainer
        if trainer is None:
            raise RuntimeError("the run has no trainer; record() reads a run that has finished")
        config = trainer.config
        ids = getattr(trainer.model, "semantic_ids", None)
        seconds = {"data": self.run.data_seconds, **self.timer.seconds, "cpu": time.process_time() - self._cpu_began}
        record = {
            "model": config["model"],
            "dataset": config["dataset"],
            "seed": config["seed"],
            "test_detail": plain(getattr(trainer, "test_detail", None)),
            "semantic_ids": plain(dict(ids.statistics)) if ids is not None else {},
            "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
            "precision": precision_of(trainer),
            "history_ranked": history_ranked(config),
            "epochs": epochs_of(trainer),
            "epoch_seconds": plain(getattr(trainer, "epoch_seconds", None)),
            "parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
            "checkpoint": str(getattr(trainer, "saved_model_file", "")),
            "settings": plain_config(config),
            "versions": library_versions(),
            "commit": self._commit,
            "hardware": hardware(),
        }
        if self.recorder:
            record |= self.recorder.finish(trainer)
            for stage, earlier in self.recorder.curve.earlier.items():
                record["seconds"][stage] = round(record["seconds"][stage] + earlier, 3)
            if "test_rows" in record:
                record["users_per_second"] = round(record["test_rows"] / self.timer.seconds["test"], 2)
        return record


def epochs_of(trainer) -> int:
    """Number of epochs of the trained model, with those before the checkpoint that the training resumed from."""
    return max(getattr(trainer, "train_loss_dict", {}), default=getattr(trainer, "start_epoch", 0) - 1) + 1


def precision_of(trainer) -> dict[str, str]:
    """Precision of ``training`` and ``evaluation``: fp32, bf16 or fp16."""
    evaluation = getattr(trainer.model, "eval_precision", None)
    if evaluation:
        return {"training": trainer.precision, "evaluation": evaluation}
    mixed = {torch.bfloat16: "bf16", torch.float16: "fp16"}[torch.get_autocast_dtype(trainer.device.type)]
    return {"training": mixed if getattr(trainer, "enable_amp", False) else "fp32", "evaluation": "fp32"}


def history_ranked(config: Config) -> bool:
    """Whether the items of a user's history are candidates of the ranking."""
    return not config["exclude_seen"] if config["MODEL_TYPE"] == ModelType.SEQUENTIAL else bool(config["repeatable"])


@contextmanager
def observe(recorder: RunRecorder | None = None) -> Iterator[Observation]:
    """Observe the RecBole run within the ``with`` block."""
    timer = StageTimer()
    with callbacks_in_runs([timer, *(recorder.callbacks if recorder else [])]) as run:
        yield Observation(run, timer, recorder)
