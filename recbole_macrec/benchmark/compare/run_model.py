"""Runs one model with RecBole's ``run`` and returns its record."""
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import recbole.quick_start
from recbole.config import Config
from recbole.utils import EvaluatorType, ModelType, get_model

from recbole_macrec.benchmark.compare.recorder import RunRecorder
from recbole_macrec.benchmark.compare.run_files import read_json, write_json
from recbole_macrec.benchmark.compare.run_record import observe
from recbole_macrec.benchmark.compare.runs import PRETRAINED, PRETRAINING
from recbole_macrec.config import options
from recbole_macrec.config.options import PACKAGED_DATASET, hidden_argv, quoted, read_config_file
from recbole_macrec.config.plain import plain
from recbole_macrec.config.property_files import property_file, read_yaml
from recbole_macrec.config.registry import model_names
from recbole_macrec.config.validation import check_valid_metric
from recbole_macrec.data import DATA_PATH
from recbole_macrec.data.splits import has_test_data
from recbole_macrec.errors import UserError
from recbole_macrec.model.preparation import prepare_dataset
from recbole_macrec.utils.distributed import current_group
from recbole_macrec.utils.requirements import recbole_folder
from recbole_macrec.utils.unique_names import unique_file, unique_folder


@dataclass(frozen=True)
class Request:
    """A dataset, config files, and settings that take precedence over them."""

    dataset: str
    config_files: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def all_settings(self) -> dict[str, Any]:
        """``settings`` and those of the config files, of which later files take precedence over earlier ones."""
        return {key: value for path in self.config_files for key, value in read_config_file(path).items()} | self.settings

    def value(self, key: str, default=None):
        """The setting ``key`` of the command line or of the config files."""
        return self.all_settings.get(key, default)

    @property
    def data_path(self) -> str:
        """The folder of the datasets."""
        return self.value("data_path") or DATA_PATH


def prepare_for_model(model: str, request: Request) -> None:
    """Download a dataset with a ``source``, with all files that ``model`` needs.

    Call it for all models before the first one runs, so that all have the same items: some models need images, and items
    without an image are then dropped.

    Raises:
        UserError: if the dataset cannot be downloaded.
    """
    prepare_dataset(run_config(model, request))


def run_model(model: str, request: Request, recorder: RunRecorder | None = None) -> dict:
    """Run ``model`` and return its record; S3Rec is pre-trained first, unless the request has a ``train_stage``.

    All processes of the group must call it, and all return the record.

    Args:
        recorder: records the run in its folder.
    """
    if model != "S3Rec" or request.value("train_stage"):
        return _run(model, request, {}, recorder)
    pretrained = _pretrain(model, request, recorder)
    settings = {"train_stage": "finetune", "pre_model_path": pretrained["checkpoint"]}
    record = _run(model, request, settings, recorder)
    record["seconds"]["pretraining"] = pretrained["seconds"]["training"]
    for name in ("cpu", "total"):
        record["seconds"][name] = round(record["seconds"][name] + pretrained["seconds"].get(name, 0), 3)
    return record


def _pretrain(model: str, request: Request, recorder: RunRecorder | None) -> dict:
    """Pre-train ``model`` unless an earlier process of this run did; returns the record of the pre-training."""
    group, file = current_group(), recorder.run.folder / PRETRAINED if recorder else None
    earlier = group.by_first(lambda: read_json(file) if file and file.is_file() else None)
    if earlier and group.by_first(lambda: Path(earlier["checkpoint"]).is_file()):  # not deleted or moved since
        return earlier
    default = read_yaml(recbole_folder() / "properties" / "model" / "S3Rec.yaml")["pretrain_epochs"]
    epochs = request.value("pretrain_epochs", default)
    saved = Path(str(request.value("checkpoint_dir", "saved")))
    folder = group.by_first(lambda: _pretraining_folder(saved, recorder))
    try:
        record = _run(model, request, {"train_stage": "pretrain", "save_step": epochs, "checkpoint_dir": str(folder)}, None)

        def move() -> dict:
            own = unique_file(saved / Path(record["checkpoint"]).name)
            Path(record["checkpoint"]).replace(own)
            record["checkpoint"] = str(own)
            if file:
                write_json(record, file)
            return record

        return group.by_first(move)
    finally:
        if group.first:
            shutil.rmtree(folder, ignore_errors=True)


def _pretraining_folder(saved: Path, recorder: RunRecorder | None) -> Path:
    """A new folder for the pre-trained weights, since RecBole's file name consists only of model, dataset and epoch.

    It is in the folder of the run, where the next call removes what a killed one has left.
    """
    if recorder is None:
        return unique_folder(saved / PRETRAINING)
    folder = recorder.run.folder / PRETRAINING
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _run(model: str, request: Request, stage: dict[str, Any], recorder: RunRecorder | None) -> dict:
    request = replace(request, settings={**request.settings, **stage})
    config = run_config(model, request)
    check_valid_metric(config)
    if not has_test_data(config):
        raise UserError(
            f"eval_args has the split {config['eval_args']['split']}, which leaves no test data for the results; choose a "
            "split with test data, such as {LS: valid_and_test}."
        )
    began = time.perf_counter()
    with fresh_logging(), hidden_argv(), observe(recorder) as observation:
        result = recbole.quick_start.run(
            model,
            request.dataset,
            config_file_list=[str(path) for path in _config_files(model, request)],
            config_dict=quoted(request.settings),
        )
    record = current_group().by_first(observation.record)
    earlier = recorder.curve.earlier["training"] + recorder.curve.earlier["validation"] if recorder else 0.0
    record["seconds"]["total"] = round(time.perf_counter() - began + earlier, 3)
    if result["best_valid_result"] is None:  # no validation: the score is infinite
        result["best_valid_score"] = None
    return {**record, **{key: plain(value) for key, value in result.items()}}


def run_config(model: str, request: Request) -> Config:
    """The configuration of a run of ``model`` in a comparison, with our evaluation protocol."""
    return options.config_of(model, request.dataset, _config_files(model, request), request.settings)


def checked_options(model: str, request: Request) -> dict[str, Any]:
    """Check the configuration of ``model`` for a comparison.

    Returns:
        The values of all options; nothing after errors other than those below, which the run reports.

    Raises:
        UserError: for a wrong value, or metrics that are not computed from rankings.
    """
    try:
        config = run_config(model, request)
    except UserError:
        raise
    except Exception:
        logging.getLogger(__name__).debug("configuration of %s", model, exc_info=True)
        return {}
    check_valid_metric(config)
    if config["eval_type"] == EvaluatorType.VALUE:
        raise UserError(
            f"metrics is {config['metrics']}, computed from the labels of samples, but a comparison stores and tests the ranks "
            "of the targets; choose metrics of rankings, such as Hit and NDCG."
        )
    return config.final_config_dict


def _config_files(model: str, request: Request) -> list:
    return [*_protocol_files(model, request.dataset), *request.config_files]


def _protocol_files(model: str, dataset: str) -> list:
    """The config files that give a model of RecBole our evaluation protocol; our models read them by themselves."""
    if model in model_names():
        return []
    folders = [recbole_folder() / "properties" / "dataset", property_file("dataset")]
    files = [property_file("overall.yaml"), *(folder / f"{dataset}.yaml" for folder in folders)]
    quick_start = recbole_folder() / "properties" / "quick_start_config"
    files += [quick_start / f"{name}.yaml" for name in _files_of_columns(model, dataset)]
    return [path for path in files if path.is_file()]


def _files_of_columns(model: str, dataset: str) -> list[str]:
    """RecBole's files with the columns that a kind of model reads beside the interactions; they have no evaluation options."""
    kind = get_model(model).type
    if kind == ModelType.KNOWLEDGE:
        return ["knowledge_base"]
    if model in ("GRU4RecKG", "KSR"):
        return ["sequential_embedding_model"]
    if dataset != PACKAGED_DATASET:
        return []
    if kind in (ModelType.CONTEXT, ModelType.DECISIONTREE):
        return ["context-aware_ml-100k"]
    return ["sequential_DIN_on_ml-100k"] if model in ("DIN", "DIEN") else []


@contextmanager
def fresh_logging() -> Iterator[None]:
    """Remove RecBole's log handlers at the end, so that each run has its own log file."""
    root = logging.getLogger()
    before = root.handlers[:]
    try:
        yield
    finally:
        for handler in [handler for handler in root.handlers if handler not in before]:
            root.removeHandler(handler)
            with suppress(OSError):  # a full disk
                handler.close()
