"""Runs one model through RecBole's own ``run`` and returns its record."""
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import recbole.quick_start
from recbole.config import Config

from recbole_macrec.benchmark.compare.recorder import RunRecorder
from recbole_macrec.benchmark.compare.run_record import observe
from recbole_macrec.benchmark.compare.runs import PRETRAINED, read_json, write_json
from recbole_macrec.config import options
from recbole_macrec.config.options import hidden_words, quoted, read_config_file
from recbole_macrec.config.plain import plain
from recbole_macrec.config.property_files import property_file, read_yaml
from recbole_macrec.config.registry import model_names
from recbole_macrec.config.values import check_valid_metric
from recbole_macrec.data.splits import has_test_data
from recbole_macrec.errors import UserError
from recbole_macrec.model.preparation import prepare as prepare_dataset
from recbole_macrec.utils.distributed import current_group
from recbole_macrec.utils.requirements import recbole_folder
from recbole_macrec.utils.unique_names import unique_file, unique_folder


@dataclass(frozen=True)
class Request:
    """What to run: the settings win over the config files."""

    dataset: str
    config_files: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def value(self, key: str, default=None):
        """The setting ``key`` of command line or config files."""
        if key in self.settings:
            return self.settings[key]
        for path in reversed(self.config_files):
            if key in (values := read_config_file(path)):
                return values[key]
        return default


def prepare(model: str, request: Request) -> None:
    """Bring a dataset with a ``source`` here as ``model`` needs it. Several models are all prepared for before the first
    runs: so all see the same items, even where those without an image are dropped for one of them.

    Raises:
        UserError: when that is not possible.
    """
    prepare_dataset(config_of(model, request))


def run_model(model: str, request: Request, recorder: RunRecorder | None = None) -> dict:
    """Run ``model`` and return its record; S3Rec is pre-trained first, unless the request names a stage itself.

    All processes of the group have to call it, and all return the record.

    Args:
        keeper: writes curve, ranks and codes into the folder of its run.
    """
    if model != "S3Rec" or request.value("train_stage"):
        return _run(model, request, {}, recorder)
    pretrained = _pretrain(model, request, recorder)
    settings = {"train_stage": "finetune", "pre_model_path": pretrained["checkpoint"]}
    record = _run(model, request, settings, recorder)
    record["seconds"]["pretraining"] = pretrained["seconds"]["training"]
    record["seconds"]["total"] = round(record["seconds"]["total"] + pretrained["seconds"]["total"], 3)
    return record


def _pretrain(model: str, request: Request, recorder: RunRecorder | None) -> dict:
    """The record of the pre-training: that of a process which was killed later on, or a fresh one."""
    group, done = current_group(), recorder.run.folder / PRETRAINED if recorder else None
    if earlier := group.by_first(lambda: read_json(done) if done and done.is_file() else None):
        return earlier
    default = read_yaml(recbole_folder() / "properties" / "model" / "S3Rec.yaml")["pretrain_epochs"]
    epochs = request.value("pretrain_epochs", default)
    saved = Path(str(request.value("checkpoint_dir", "saved")))
    # RecBole names the file by model, dataset and epoch alone
    folder = group.by_first(lambda: unique_folder(saved / "pretraining"))
    record = _run(model, request, {"train_stage": "pretrain", "save_step": epochs, "checkpoint_dir": str(folder)}, None)

    def keep() -> dict:
        own = unique_file(saved / Path(record["checkpoint"]).name)
        Path(record["checkpoint"]).replace(own)
        shutil.rmtree(folder)
        record["checkpoint"] = str(own)
        if done:
            write_json(record, done)
        return record

    return group.by_first(keep)


def _run(model: str, request: Request, stage: dict[str, Any], recorder: RunRecorder | None) -> dict:
    settings = {**request.settings, **stage}
    config = config_of(model, request, settings)
    check_valid_metric(config)
    if not has_test_data(config):
        raise UserError(f"eval_args sets no test data aside (split {config['eval_args']['split']}), but a table shows test results; "
                        "set aside some, as split {LS: valid_and_test} does.")
    began = time.perf_counter()
    with fresh_logging(), hidden_words(), observe(recorder) as seen:
        result = recbole.quick_start.run(
            model,
            request.dataset,
            config_file_list=[str(path) for path in _files(model, request)],
            config_dict=quoted(settings),
        )
    record = current_group().by_first(seen.record)
    earlier = recorder.earlier["training"] + recorder.earlier["validation"] if recorder else 0.0
    record["seconds"]["total"] = round(time.perf_counter() - began + earlier, 3)
    if result["best_valid_result"] is None:  # without validation; else infinite
        result["best_valid_score"] = None
    return {**record, **{key: plain(value) for key, value in result.items()}}


def config_of(model: str, request: Request, settings: dict[str, Any] | None = None) -> Config:
    """The configuration that a run of ``model`` has, with ``settings`` in place of those of the request."""
    settings = request.settings if settings is None else settings
    return options.config_of(model, request.dataset, _files(model, request), settings)


def _files(model: str, request: Request) -> list:
    return [*_protocol(model, request.dataset), *request.config_files]


def _protocol(model: str, dataset: str) -> list:
    """The config files that put a model of RecBole under our protocol; ours are under it anyway."""
    if model in model_names():
        return []
    folders = [property_file("dataset"), recbole_folder() / "properties" / "dataset"]
    files = [property_file("overall.yaml"), *(folder / f"{dataset}.yaml" for folder in folders)]
    return [path for path in files if path.is_file()]


@contextmanager
def fresh_logging() -> Iterator[None]:
    """Let RecBole set its logging up anew, so that each run has a log file of its own."""
    root = logging.getLogger()
    before = root.handlers[:]
    try:
        yield
    finally:
        for handler in [handler for handler in root.handlers if handler not in before]:
            root.removeHandler(handler)
            with suppress(OSError):  # a full disk
                handler.close()
