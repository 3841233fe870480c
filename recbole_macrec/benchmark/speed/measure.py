"""Timing of a function, measurements in a process of their own, and the model to measure."""
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from multiprocessing import get_context
from typing import Any

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataloader import AbstractDataLoader
from recbole.utils import get_model, get_trainer, init_seed

from recbole_macrec.config.options import config_of
from recbole_macrec.model.tiger import TIGER


def median_seconds(function: Callable, repeats: int, warmup: int = 1) -> float:
    """Return the median wall-clock seconds of ``repeats`` calls, after ``warmup`` calls that are not timed."""
    for _ in range(warmup):
        function()
    return statistics.median(seconds_of(function) for _ in range(repeats))


def seconds_of(function: Callable) -> float:
    """Return the wall-clock seconds of one call, with the computations on the GPU that it starts and without earlier ones."""
    _wait_for_gpu()
    begin = time.perf_counter()
    function()
    _wait_for_gpu()
    return time.perf_counter() - begin


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_own_process(function: Callable, *arguments) -> Any:
    """Return ``function(*arguments)``, called in a new process, whose peak memory is that of this call only.

    Raises:
        BrokenProcessPool: if the process ends without a result, for example because the operating system killed it when
            memory was insufficient.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


@dataclass
class Subject:
    """A model on a dataset: by default TIGER, with one modality and one task, so that transformers' T5 can compute the same."""

    config: Config
    model: TIGER
    train_data: AbstractDataLoader
    test_data: AbstractDataLoader

    @cached_property
    def trainer(self):
        """The trainer. Once it is created, the process keeps freed memory, which also speeds up the reference."""
        return get_trainer(self.config["MODEL_TYPE"], self.config["model"])(self.config, self.model)


T5 = {"training_preset": "paper", "encoder_attention": "auto"}  # the network of the released code


def build_subject(dataset: str, data_path: str, modality: str, model: str = "TIGER", **options) -> Subject:
    """Build dataset and model as RecBole's quick_start does. ``collision: reassign`` gives every item a unique ID."""
    settings: dict[str, Any] = {"data_path": data_path, "modalities": [modality], "collision": "reassign", "precision": "fp32"}
    settings |= {"scheduler": "constant", "warmup_ratio": 0.0}
    settings |= {"show_progress": False, "state": "WARNING", **options}
    config = config_of(get_model(model), dataset, [], settings)
    init_seed(config["seed"], config["reproducibility"])
    train, _, test = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    network = get_model(model)(config, train.dataset).to(config["device"])
    return Subject(config, network, train, test)


def train_first(subject: Subject, steps: int) -> None:
    """Train ``steps`` batches; start again from the first batch after an epoch."""
    batches = cycle(subject.trainer.training_loader(subject.train_data))
    subject.trainer.train_steps(batches, steps)
