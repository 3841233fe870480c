"""Configurations: our property files between RecBole's, defaults that depend on model and split, and checks."""
import functools
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import yaml
from recbole.config import Config
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import InputType, ModelType

from recbole_macrec.config.options import (
    NESTED_OPTIONS,
    TRAINED_ON,
    check_model,
    read_config_file,
    warn_of_misspelt_options,
)
from recbole_macrec.config.property_files import preset_files, property_file, read_properties, read_yaml
from recbole_macrec.config.registry import is_built_in, is_ours, models
from recbole_macrec.config.schema.base import shown
from recbole_macrec.config.schema.protocol import EVAL_BATCH_SCORES, OwnRecBoleOptions
from recbole_macrec.config.validation import check_strings, check_values, check_whole
from recbole_macrec.data.atomic import DEFAULT_FORMAT, AtomicFormat
from recbole_macrec.data.interactions import history_column
from recbole_macrec.errors import UserError
from recbole_macrec.model.registered import RegisteredModel
from recbole_macrec.plugin.models import register_model
from recbole_macrec.trainer.checkpoint import load_checkpoint, read_together
from recbole_macrec.trainer.checkpoint_settings import trained_on

_GENERAL = (ModelType.GENERAL, ModelType.TRADITIONAL)
_NO_FULL_RANKING = AbstractRecommender.full_sort_predict


def insert_property_files() -> None:
    """Let RecBole's ``Config`` read our property files between its own.

    The order is: RecBole's overall.yaml, its file of the model, sample.yaml and file of the dataset, if it has one; for our
    models, our overall.yaml and file of the model; our file of the dataset (for every model, as it names the fields); for our
    models, the ``training_preset``, by default the one for the dataset. Our files are read after RecBole's files of datasets
    because these set every dataset option, the history length included. RecBole reads its settings of the evaluation of a type
    of models last; for our models they are in our overall.yaml, so that files of datasets can change them.
    """
    for method in (_get_model_and_dataset, _init_parameters_category, _update_internal_config_dict, _load_config_files,
                   _get_final_config_dict):
        name = method.__name__
        setattr(Config, name, functools.partialmethod(method, getattr(Config, name)))


# Methods of RecBole's Config with these names; ``original`` is the method that each of them replaces.


def _get_model_and_dataset(self: Config, original: Callable, model, dataset):
    try:
        name, model_class, dataset = original(self, model, dataset)
    except (AttributeError, ImportError, ValueError):  # may come from a library that RecBole imports in its search
        _check_name(model or self.external_config_dict["model"])
        raise
    if issubclass(model_class, RegisteredModel) and model_class is not models().get(name):
        register_model(model_class)
    return name, model_class, dataset


def _init_parameters_category(self: Config, original: Callable) -> None:
    original(self)
    self.parameters = {kind: list(names) for kind, names in self.parameters.items()}  # copies, as RecBole extends them


def _update_internal_config_dict(self: Config, original: Callable, file):
    loaded, settings, ours = read_yaml(Path(file)), self.internal_config_dict, is_ours(self.model_class)
    if not ours or Path(file).parent.name != "quick_start_config":
        settings.update(loaded)
    if _is_last_of_dataset(Path(file), self.dataset):
        name = _name_of_properties(self.model_class)
        if ours:
            settings.update(read_properties("overall.yaml"))
            settings.update(read_properties("model", f"{name}.yaml"))
        settings.update(read_properties("dataset", f"{self.dataset}.yaml"))
        if ours:
            preset = (settings | self.external_config_dict).get("training_preset")
            for path in preset_files(name, preset, self.dataset):
                settings.update(read_yaml(path))
    return loaded


def _load_config_files(self: Config, original: Callable, paths) -> dict:
    return {name: value for path in paths or [] for name, value in read_config_file(path).items()}


def _get_final_config_dict(self: Config, original: Callable) -> dict:
    config, ours = original(self), is_ours(self.model_class)
    if "device" in self.external_config_dict:
        raise UserError(
            f"device is {shown(self.external_config_dict['device'])}, but RecBole chooses it by gpu_id; leave device out. "
            "An empty gpu_id selects the CPU."
        )
    if ours and not is_built_in(self.model_class):  # options that a derived model declares, which no property file has
        schema = self.model_class.options
        missing = schema.model_fields.keys() - config.keys() - schema.optional
        config |= {name: schema.model_fields[name].default for name in missing}
    _set_defaults(self, config)
    check_values(config, self.model_class.options if ours else OwnRecBoleOptions)
    check_strings(config, self.internal_config_dict)
    if ours:
        if is_built_in(self.model_class):  # other models may read options that they do not declare
            warn_of_misspelt_options(self.external_config_dict, self.model, self.dataset)
        self.model_class.check_values(defaultdict(lambda: None, config))
        if config.get("resume"):
            config[TRAINED_ON] = trained_on(read_together(config["resume"], read=load_checkpoint))
    elif self.model_class.type == ModelType.SEQUENTIAL and self.model_class.__module__.startswith("recbole."):
        # a transformer without layers or heads ends with a traceback; LightGCN with n_layers: 0 is matrix factorisation
        check_whole(1, **{name: config[name] for name in ("n_layers", "n_heads") if config.get(name) is not None})
    return config


def _check_name(model: str) -> None:
    """Raise a UserError, without the exception that is being handled as its cause, unless ``model`` is the name of a model."""
    try:
        check_model(model)
    except UserError as error:
        raise error from None


def _name_of_properties(model: type[AbstractRecommender]) -> str:
    """The name of the first class among ``model`` and its bases that has a file in ``properties/model/``."""
    names = [base.__name__ for base in model.__mro__]
    return next((name for name in names if property_file("model", f"{name}.yaml").is_file()), model.__name__)


def _is_last_of_dataset(file: Path, dataset: str) -> bool:
    """Whether ``file`` is the last of RecBole's files that set the options of ``dataset``: the one named after it, or else
    sample.yaml."""
    own = file.parent / f"{dataset}.yaml"
    return file.parent.name == "dataset" and file == (own if own.is_file() else file.parent / "sample.yaml")


def _set_defaults(self: Config, config: dict) -> None:
    """Set the options of ``config`` whose default depends on the model, the split or the files."""
    _parse_nested_options(config)
    _set_negatives(self, config)
    _set_evaluation(self, config)
    if config.get("load_col") == _default_columns(DEFAULT_FORMAT):
        config["load_col"] = _default_columns(AtomicFormat.from_config(config))
    if config.get("repeatable") == "auto":
        config["repeatable"] = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        _check_sequential(self, config)
    if self.model_class.type == ModelType.SEQUENTIAL and config.get("benchmark_filename"):
        _read_histories(config)


def _set_negatives(self: Config, config: dict) -> None:
    """Turn off RecBole's default of sampled negatives for models that are trained with cross-entropy."""
    if is_ours(self.model_class):
        without_negatives = self.model_class.input_type != InputType.PAIRWISE
    else:
        without_negatives = self.model_class.type == ModelType.SEQUENTIAL and config.get("loss_type") == "CE"
    if without_negatives:
        _refuse_negatives(self.model, self.external_config_dict.get("train_neg_sample_args"))
        config["train_neg_sample_args"] = None  # RecBole's own models would refuse RecBole's default


def _set_evaluation(self: Config, config: dict) -> None:
    """Set the options of the evaluation that depend on the model and the split."""
    # valid_users is an option of overall.yaml, which is read for our models and for all models of a comparison
    has_protocol = "valid_users" in config and isinstance(config.get("eval_args"), dict)
    if has_protocol:
        config["eval_args"] = _completed(config["eval_args"])
    eval_args = config.get("eval_args")
    split = (eval_args.get("split") if isinstance(eval_args, dict) else None) or {}
    if is_ours(self.model_class):
        defaults = self.model_class.settings_of_split(split)
        config.update({name: value for name, value in defaults.items() if name not in self.external_config_dict})
    elif has_protocol and _ranks_all_items(self.model_class, config["eval_args"]):
        if "eval_batch_size" not in self.external_config_dict:
            config["eval_batch_size"] = EVAL_BATCH_SCORES
    if has_protocol and config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        config["eval_args"].setdefault("order", "TO")  # RecBole refuses its own default


def _check_sequential(self: Config, config: dict) -> None:
    """Raise a UserError for options of the evaluation that sequential models do not have."""
    if config.get("repeatable") is False and "repeatable" in self.external_config_dict:
        raise UserError(
            f"repeatable is False, which is for general models, and {self.model} is sequential; set repeatable to auto, and "
            "exclude_seen to True to leave the items of the history out of its ranking."
        )
    eval_args = config.get("eval_args") or {}
    if isinstance(eval_args, dict) and eval_args.get("order") == "RO":
        raise UserError(f"The order of eval_args is RO, but {self.model} is sequential; set order to TO.")
    if config.get("exclude_seen") and (sampled := _modes(eval_args) - {"full"}):
        raise UserError(
            f"exclude_seen is True, which is for full rankings, and eval_args has the mode {min(map(str, sampled))}; leave out "
            "one of them."
        )


def _modes(eval_args: dict) -> set:
    """The modes of all evaluations."""
    mode = eval_args.get("mode") or "full"
    return set(mode.values() if isinstance(mode, dict) else [mode])


def _parse_nested_options(config: dict) -> None:
    """Parse lists and dictionaries given as strings on the command line: RecBole reads ['text'] as a list, but not [text]."""
    for option in NESTED_OPTIONS:
        value = config.get(option)
        if isinstance(value, str) and value.startswith(("[", "{")):
            try:
                config[option] = yaml.safe_load(value)
            except (yaml.YAMLError, RecursionError):
                raise UserError(f"{option} is {shown(value)}, which can't be read; check its brackets and quotes") from None


def _ranks_all_items(model: type[AbstractRecommender], eval_args: dict) -> bool:
    """Whether ``model`` is a general model that scores all items of a user at once, and every evaluation needs them."""
    return model.type in _GENERAL and model.full_sort_predict is not _NO_FULL_RANKING and _modes(eval_args) == {"full"}


def _completed(eval_args: dict) -> dict:
    """A copy of ``eval_args``; unless the split is random, missing entries are those of overall.yaml."""
    split = eval_args.get("split")
    if split is None or (isinstance(split, dict) and "RS" not in split):
        return read_yaml(property_file("overall.yaml"))["eval_args"] | eval_args
    return dict(eval_args)


def _default_columns(form: AtomicFormat) -> dict:
    """``load_col`` of overall.yaml with the column names of ``form``."""
    names = dict(zip(DEFAULT_FORMAT, form))
    columns = read_yaml(property_file("overall.yaml"))["load_col"]
    return {source: [names[column] for column in listed] for source, listed in columns.items()}


def _refuse_negatives(model: str, sampled) -> None:
    """Raise a UserError if ``train_neg_sample_args`` samples negatives for a model that would train on them as targets."""
    if sampled in (None, "None") or (isinstance(sampled, dict) and sampled.get("distribution") == "none"):
        return
    raise UserError(
        f"train_neg_sample_args is {shown(sampled)}, but {model} is trained with cross-entropy, without sampled negatives; "
        "leave it out, or set it to None (~ in YAML)."
    )


def _read_histories(config: dict) -> None:
    """Let RecBole load the histories in benchmark files, which sequential models need, as sequences of item IDs."""
    histories, columns = history_column(config), config.get("load_col") or {}
    if isinstance(columns.get("inter"), list) and histories not in columns["inter"]:
        config["load_col"] = {**columns, "inter": [*columns["inter"], histories]}
    aliases = config.get("alias_of_item_id") or []
    config["alias_of_item_id"] = [*aliases, *([] if histories in aliases else [histories])]
