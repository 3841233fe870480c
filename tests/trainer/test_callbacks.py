"""Callbacks: the order and arguments of their hooks, for our trainer and for RecBole's trainers through the adapter."""
import inspect
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.quick_start import quick_start
from recbole.trainer import RecVAETrainer, Trainer
from recbole.utils import get_model, get_trainer, init_seed
from small_models import SMALL, TINY, PauseAfter, data_path, train_until  # noqa: F401  data_path is a fixture

from recbole_macrec.benchmark.compare.recorder import RunRecorder
from recbole_macrec.benchmark.compare.run_files import read_json
from recbole_macrec.benchmark.compare.run_model import Request, run_model
from recbole_macrec.benchmark.compare.runs import RunSpec, write_run_spec
from recbole_macrec.trainer import GenerativeTrainer
from recbole_macrec.trainer.adapter import STATEFUL, callbacks_in_runs, with_callbacks
from recbole_macrec.trainer.callbacks import TrainingCallback

RECBOLE_SETTINGS = {
    "train_neg_sample_args": None, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "valid_metric": "NDCG@10",
    "metrics": ["Hit", "NDCG"], "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user",
    "mode": "full"},
}  # fmt: skip
HOOKS = [name for name in vars(TrainingCallback) if name.startswith("on_")]
EPOCH = ["on_epoch_begin", "on_batch_end", "on_batch_end", "on_epoch_end"]
EVALUATION = ["on_evaluation_begin", "on_evaluation_batch", "on_evaluation_end"]


class Log(TrainingCallback):
    """Records the hooks in the order of their calls, with their arguments after ``trainer``."""

    def __init__(self):
        self.calls: list[tuple] = []

    @property
    def hooks(self) -> list[str]:
        return [hook for hook, *_ in self.calls]

    def of(self, hook: str) -> list[list]:
        return [arguments for name, *arguments in self.calls if name == hook]


def logged(hook):
    return lambda self, trainer, *arguments: self.calls.append((hook, *arguments))


# Prints the page faults of filling four tensors of 24 MiB for the fourth to sixth time, after a trainer of RecBole was created.
PAGE_FAULTS = """
import resource, sys, recbole_macrec, torch
from test_callbacks import prepared
prepared("GRU4Rec", sys.argv[1])
faults = []
for _ in range(6):
    [torch.ones(6 << 20) for _ in range(4)]
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[5] - faults[2])
"""


for name in HOOKS:
    setattr(Log, name, logged(name))


def settings_of(model: str, data_path, **options) -> dict:
    common = {"data_path": str(data_path), "epochs": 2, "train_batch_size": 150, "show_progress": False, "state": "ERROR"}
    ours = {**SMALL, "modalities": ["text"], "max_modalities": 1, "training": "per_target"}  # two batches, as RECBOLE_SETTINGS
    return {**(ours if model == "TIGER" else RECBOLE_SETTINGS), **common, **options}


def prepared(model: str, data_path, trainer_class=with_callbacks, **options):
    config = Config(model, TINY, config_dict=settings_of(model, data_path, **options))
    init_seed(config["seed"], config["reproducibility"])
    loaders = data_preparation(config, create_dataset(config))
    network = get_model(model)(config, loaders[0]._dataset).to(config["device"])
    return trainer_class(get_trainer(config["MODEL_TYPE"], model))(config, network), loaders


@pytest.mark.parametrize("model", ["TIGER", "GRU4Rec"])
def test_hooks_are_called_in_order_and_do_not_change_training(model, data_path):
    trainer, (train, valid, test) = prepared(model, data_path)
    log = Log()
    trainer.callbacks.append(log)
    fitted, result = trainer.fit(train, valid), trainer.evaluate(test)
    validation = [*EVALUATION, "on_validation_end"]
    assert log.hooks == ["on_train_begin", *EPOCH, *validation, *EPOCH, *validation, "on_train_end", *EVALUATION]
    assert log.of("on_train_begin") == [[train, valid]]
    assert [arguments[:3] for arguments in log.of("on_batch_end")] == [[0, 1, 2], [0, 2, 2], [1, 1, 2], [1, 2, 2]]
    losses = [loss for *_, loss in log.of("on_batch_end")]
    assert log.of("on_epoch_end") == [[0, losses[0] + losses[1]], [1, losses[2] + losses[3]]]
    assert [loss for _, loss in log.of("on_epoch_end")] == list(trainer.train_loss_dict.values())
    assert [stage for stage, _ in log.of("on_evaluation_begin")] == ["validation", "validation", "test"]
    assert log.of("on_evaluation_end")[-1] == ["test", result]
    for (_, valid_result), (epoch, score) in zip(log.of("on_evaluation_end"), log.of("on_validation_end")):
        assert score == valid_result[trainer.valid_metric], epoch
    for _, scores, interaction, rows, items in log.of("on_evaluation_batch"):
        assert scores.shape == (len(interaction), train._dataset.item_num) and len(rows) == len(items) == len(scores)
    plain, (train, valid, test) = prepared(model, data_path, trainer_class=lambda kind: kind)
    assert isinstance(plain, GenerativeTrainer) or type(plain) is Trainer
    assert plain.fit(train, valid) == fitted and plain.evaluate(test) == result


def test_trainer_that_overrides_train_epoch_calls_no_batch_hook(data_path):
    """RecVAE's trainer passes over the data several times per epoch."""
    trainer, (train, valid, _) = prepared("RecVAE", data_path, epochs=1, latent_dimension=8, hidden_dimension=8)
    assert isinstance(trainer, RecVAETrainer) and not trainer.resumable
    log = Log()
    trainer.callbacks += [log, PauseAfter(0)]
    trainer.fit(train, valid)
    epoch = [hook for hook in EPOCH if hook != "on_batch_end"]
    assert log.hooks[:4] == ["on_train_begin", *epoch, "on_evaluation_begin"] and "on_batch_end" not in log.hooks


def test_without_checkpoints_pausing_is_ignored(data_path):
    trainer, (train, valid, _) = prepared("GRU4Rec", data_path)
    trainer.callbacks.append(PauseAfter(0))
    trainer.fit(train, valid)
    assert list(trainer.train_loss_dict) == [0, 1] and not list(Path("saved").glob("*.last.pth"))
    trainer, (train, valid, _) = prepared("GRU4Rec", data_path)
    trainer.make_resumable()
    train_until(trainer, 0, train, valid)
    assert len(list(Path("saved").glob("*.last.pth"))) == 1


def test_resumed_trainers_of_recbole_count_validations_without_improvement(data_path):
    options = {"epochs": 5, "stopping_step": 1}
    trainer, (train, valid, _) = prepared("GRU4Rec", data_path, **options)
    trainer.make_resumable()
    trainer.best_valid_score = 2.0  # no validation is better
    train_until(trainer, 1, train, valid)
    resumed, (train, valid, _) = prepared("GRU4Rec", data_path, **options)
    resumed.make_resumable(trainer.newest_model_file)
    assert resumed.fit(train, valid)[0] == 2.0 and list(resumed.train_loss_dict) == [0, 1]


@pytest.mark.parametrize("model", STATEFUL)
def test_models_with_more_state_than_their_weights_are_not_resumed(model, data_path):
    """Resumed, MultiVAE would begin the annealing of its loss again, and SGL train on another random graph."""
    trainer, (train, valid, _) = prepared(model, data_path, epochs=1, train_neg_sample_args={"distribution": "uniform"})
    trainer.make_resumable()
    trainer.callbacks.append(PauseAfter(0))
    trainer.fit(train, valid)
    assert not list(Path("saved").glob("*.last.pth"))


def routines_of(thing) -> dict:
    """Functions and methods in the ``__dict__`` of an object, class or module."""
    return {name: value for name, value in vars(thing).items() if inspect.isroutine(value)}


@pytest.mark.parametrize("model", ["TIGER", "GRU4Rec"])
def test_recorded_run_leaves_all_methods_unchanged(model, data_path, tmp_path):
    before = [routines_of(thing) for thing in (Trainer, GenerativeTrainer, quick_start)]
    settings = settings_of(model, data_path)
    run = write_run_spec(tmp_path / "run", RunSpec(model, model, TINY, 1, settings))
    log, recorder = Log(), RunRecorder(run)
    recorder.callbacks.append(log)
    with callbacks_in_runs([log]) as observed:
        assert routines_of(quick_start) != before[2]
    assert observed.trainer is None
    record = run_model(model, Request(TINY, (), settings), recorder)
    assert [call[1] for call in log.calls if call[0] == "on_evaluation_begin"] == ["validation", "validation", "test"]
    assert record["epochs"] == 2 and record["seconds"]["data"] > 0 and record["test_users"] == 40
    assert (
        len(read_json(run.folder / "curve.json", list)) == 2
        and json.loads((run.folder / "progress.json").read_text())["of"] == 2
    )
    assert [routines_of(thing) for thing in (Trainer, GenerativeTrainer, quick_start)] == before


def test_trainers_keep_their_methods(data_path):
    for model in ("TIGER", "GRU4Rec"):
        trainer, (train, valid, test) = prepared(model, data_path, epochs=1)
        trainer.make_resumable()
        trainer.callbacks.append(Log())
        trainer.fit(train, valid)
        trainer.evaluate(test)
        assert routines_of(trainer) == routines_of(trainer.eval_collector) == routines_of(trainer.model) == {}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_training_of_recboles_models_on_a_cpu_reuses_freed_memory(data_path):
    """In a process of its own, since the setting lasts until the process ends."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", PAGE_FAULTS, str(data_path)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100
