"""Watches one RecBole run from outside: its trainer, the seconds of its stages, what it leaves behind."""
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from recbole.quick_start import quick_start

from recbole_macrec.benchmark.compare.recorder import RunRecorder
from recbole_macrec.benchmark.machine import git_commit, hardware, library_versions
from recbole_macrec.config.plain import plain, plain_config


class Observation:
    """What was seen of a run.

    Args:
        keeper: also writes into the run's folder while it goes on.

    Attributes:
        trainer: the run's trainer, None before there is one.
        seconds: stage -> seconds; ``training`` is without the validations between the epochs. The record adds ``cpu``.
    """

    def __init__(self, recorder: RunRecorder | None = None):
        self.recorder = recorder
        self.trainer = None
        self.seconds = {"data": 0.0, "training": 0.0, "validation": 0.0, "test": 0.0}
        self._stages: list[str] = []
        self._since = 0.0
        self._cpu_began = time.process_time()

    def timed(self, function: Callable, stage: str) -> Callable:
        """``function``, whose seconds count for ``stage`` and not for the stage it is called in."""

        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            self._switch()
            nested_validation = stage == "test" and "training" in self._stages
            self._stages.append("validation" if nested_validation else stage)
            try:
                return function(*args, **kwargs)
            finally:
                self._switch()
                self._stages.pop()

        return wrapped

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._stages:
            self.seconds[self._stages[-1]] += now - self._since
        self._since = now

    def watch(self, trainer) -> None:
        """Follow ``trainer``."""
        self.trainer = trainer
        if self.recorder:
            self.recorder.watch(trainer)
        trainer.fit = self.timed(trainer.fit, "training")
        trainer.evaluate = self.timed(trainer.evaluate, "test")

    def _cpu_seconds(self) -> float:
        """Of this process, all threads together."""
        return time.process_time() - self._cpu_began

    def record(self) -> dict:
        """Everything to keep of the run, as plain values."""
        trainer, config = self.trainer, self.trainer.config
        ids = getattr(trainer.model, "semantic_ids", None)
        record = {
            "model": config["model"],
            "dataset": config["dataset"],
            "seed": config["seed"],
            "test_detail": plain(getattr(trainer, "test_detail", None)),
            "semantic_ids": plain(dict(ids.statistics)) if ids is not None else {},
            "seconds": {stage: round(seconds, 3) for stage, seconds in (self.seconds | {"cpu": self._cpu_seconds()}).items()},
            "precision": precision_of(trainer),
            "epochs": len(getattr(trainer, "train_loss_dict", {})),
            "epoch_seconds": plain(getattr(trainer, "epoch_seconds", None)),
            "parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
            "checkpoint": str(getattr(trainer, "saved_model_file", "")),
            "settings": plain_config(config),
            "versions": library_versions(),
            "commit": git_commit(),
            "hardware": hardware(),
        }
        if self.recorder:
            record |= self.recorder.finish()
            for stage, seconds in self.recorder.earlier.items():
                record["seconds"][stage] = round(record["seconds"][stage] + seconds, 3)
            if "test_rows" in record:
                record["users_per_second"] = round(record["test_rows"] / self.seconds["test"], 2)
        return record


def precision_of(trainer) -> dict[str, str]:
    """``training`` and ``evaluation`` -> fp32, bf16 or fp16, as they were computed."""
    evaluation = getattr(trainer.model, "eval_precision", None)
    if evaluation:
        return {"training": trainer.precision, "evaluation": evaluation}
    mixed = {torch.bfloat16: "bf16", torch.float16: "fp16"}[torch.get_autocast_dtype(trainer.device.type)]
    return {"training": mixed if getattr(trainer, "enable_amp", False) else "fp32", "evaluation": "fp32"}


@contextmanager
def observe(recorder: RunRecorder | None = None) -> Iterator[Observation]:
    """Observe the RecBole run inside the ``with`` block, in this process."""
    seen = Observation(recorder)
    steps = {name: getattr(quick_start, name) for name in ("create_dataset", "data_preparation", "get_trainer")}

    def data_preparation(config, dataset):
        loaders = steps["data_preparation"](config, dataset)
        if recorder:
            recorder.keep_data(*loaders)
        return loaders

    def get_trainer(*kind):
        def build(config, model):
            trainer = steps["get_trainer"](*kind)(config, model)
            seen.watch(trainer)
            return trainer

        return build

    quick_start.create_dataset = seen.timed(steps["create_dataset"], "data")
    quick_start.data_preparation = seen.timed(data_preparation, "data")
    quick_start.get_trainer = get_trainer
    try:
        yield seen
    finally:
        for name, step in steps.items():
            setattr(quick_start, name, step)
