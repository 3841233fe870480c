"""Hooks this package into RecBole: models, property files, datasets, evaluation and checkpoints."""
import functools
import importlib
import os
import sys
from collections import defaultdict
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import yaml
from recbole.config import Config
from recbole.data.dataloader import AbstractDataLoader, FullSortEvalDataLoader, NegSampleEvalDataLoader
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.quick_start import quick_start
from recbole.utils import EvaluatorType, FeatureType, InputType, ModelType, dataset_arguments, general_arguments
from torch.nn.utils.rnn import pad_sequence

from recbole_macrec import compat
from recbole_macrec.baselines import BASELINES, SequentialEASE
from recbole_macrec.config.options import (
    NESTED_OPTIONS,
    TRAINED_ON,
    TRUST,
    known_models,
    read_config_file,
    warn_of_misspelt_options,
)
from recbole_macrec.config.plain import config_from_plain
from recbole_macrec.config.property_files import preset_files, property_file, read_yaml
from recbole_macrec.config.registry import add_model, is_ours, model_names, models
from recbole_macrec.config.schema.base import shown
from recbole_macrec.config.schema.features import FeatureOptions
from recbole_macrec.config.schema.models import AnyModelOptions
from recbole_macrec.config.schema.protocol import EVAL_BATCH_SCORES
from recbole_macrec.config.schema.semantic_ids import SemanticIDOptions
from recbole_macrec.config.validation import check_texts, check_values
from recbole_macrec.data.atomic import DEFAULT_FORMAT, AtomicFormat
from recbole_macrec.data.attributes import choose_attributes
from recbole_macrec.data.columns import check_columns
from recbole_macrec.data.numbers import first_unreadable
from recbole_macrec.data.splits import check_split, checksums
from recbole_macrec.errors import UserError
from recbole_macrec.generation.decoding.ranker import max_users_in_memory
from recbole_macrec.model import MODELS
from recbole_macrec.model.base import EXCLUDED_ITEMS_FIELD, GenerativeRecommender
from recbole_macrec.model.dataset import SemanticIDDataset
from recbole_macrec.model.preparation import prepare
from recbole_macrec.model.registered import RegisteredModel
from recbole_macrec.recommend import Recommender
from recbole_macrec.trainer import GenerativeTrainer
from recbole_macrec.trainer.checkpoint import check_complete, from_tensors, load_checkpoint, read_checkpoint, read_together
from recbole_macrec.trainer.checkpoint_settings import dataset_folder, known_settings, trained_on
from recbole_macrec.trainer.closed_form import ClosedFormTrainer
from recbole_macrec.utils.distributed import current_group, group
from recbole_macrec.utils.launcher import limit_threads
from recbole_macrec.utils.share_files import share_files

_recbole_run_recboles = quick_start.run_recboles
_GENERAL = (ModelType.GENERAL, ModelType.TRADITIONAL)
_NO_FULL_RANKING = AbstractRecommender.full_sort_predict
_recbole_load_data_and_model = quick_start.load_data_and_model


def register() -> None:
    """Let RecBole find our models, property files and checkpoints. Repeated calls do nothing."""
    if model_names():
        return
    RegisteredModel.trainer_class, RegisteredModel.dataset_class = GenerativeTrainer, SemanticIDDataset
    SequentialEASE.trainer_class = ClosedFormTrainer
    for model in [*MODELS, *BASELINES]:
        register_model(model)
    names = [*SemanticIDOptions.model_fields, *FeatureOptions.model_fields, "MODEL_TYPE"]
    dataset_arguments.extend(name for name in names if name not in dataset_arguments)
    general_arguments.append(TRUST)
    GenerativeRecommender.recommender_class = Recommender
    _layer_property_files()
    _prepare_before_loading()
    _check_splits()
    _rank_as_many_as_fit()
    _validate_on_some_users()
    _exclude_seen_items()
    _rank_as_in_evaluation()
    for module in (quick_start, importlib.import_module("recbole.quick_start")):
        vars(module).update(run_recboles=run_recboles, load_data_and_model=load_data_and_model)


def register_model(model: type[AbstractRecommender]) -> None:
    """Let RecBole find ``model``, its ``trainer_class`` and its ``dataset_class`` by the name of the model.

    ``Config(model=MyModel)`` and ``run_recbole(model=MyModel)`` do so by themselves. A model derived from one of this package
    has the default values of that model, unless ``properties/model/NAME.yaml`` exists.

    ``get_model`` looks for a module such as ``recbole.model.sequential_recommender.<name>``, ``get_trainer`` and
    ``create_dataset`` for ``<Name>Trainer`` and ``<Name>Dataset``.

    Raises:
        UserError: RecBole or this package has another model of this name.
    """
    name, own = model.__name__, models().get(model.__name__)
    if name in known_models() and (own is None or own.__module__.startswith(f"{__package__}.")):
        raise UserError(f"There is a model {name} already; rename the class {model.__module__}.{name}.")
    path = f"recbole.model.{model.type.name.lower()}_recommender.{name.lower()}"
    module = ModuleType(path)
    module.__spec__ = ModuleSpec(path, None)
    setattr(module, name, model)
    sys.modules[path] = module
    setattr(importlib.import_module("recbole.trainer"), f"{name}Trainer", model.trainer_class)
    setattr(importlib.import_module("recbole.data.dataset"), f"{name}Dataset", model.dataset_class)
    add_model(model)


# -- property files ----------------------------------------------------------------------------------------------------


def _layer_property_files() -> None:
    """Read our property files between RecBole's.

    The order is: RecBole's overall.yaml, its file of the model, sample.yaml and file of the dataset, if it has one; for our
    models, our overall.yaml and file of the model; our file of the dataset (for every model, as it names the fields); the
    model's ``training_preset``, by default the one for the dataset; RecBole's sequential settings. Our files are read after
    RecBole's files of datasets because these set every dataset option, the history length included.
    """
    named, init_parameters, files, update, final = (
        Config._get_model_and_dataset,
        Config._init_parameters_category,
        Config._load_config_files,
        Config._update_internal_config_dict,
        Config._get_final_config_dict,
    )

    @functools.wraps(named)
    def _get_model_and_dataset(self, model, dataset):
        name, model_class, dataset = named(self, model, dataset)
        if issubclass(model_class, RegisteredModel) and model_class is not models().get(name):
            register_model(model_class)
        return name, model_class, dataset

    @functools.wraps(init_parameters)
    def _init_parameters_category(self):
        init_parameters(self)
        self.parameters = {kind: list(names) for kind, names in self.parameters.items()}  # copies, as RecBole extends them

    @functools.wraps(update)
    def _update_internal_config_dict(self, file):
        loaded = read_yaml(Path(file))
        self.internal_config_dict.update(loaded)
        if _is_last_of_dataset(Path(file), self.dataset):
            paths = [property_file("dataset", f"{self.dataset}.yaml")]
            if is_ours(self.model_class):
                name = _name_of_properties(self.model_class)
                paths = [property_file("overall.yaml"), property_file("model", f"{name}.yaml"), *paths]
                paths += preset_files(name, self.external_config_dict.get("training_preset"), self.dataset)
            for path in paths:
                if path.is_file():
                    self.internal_config_dict.update(read_yaml(path))
        return loaded

    @functools.wraps(files)
    def _load_config_files(self, paths):
        return {name: value for path in paths or [] for name, value in read_config_file(path).items()}

    @functools.wraps(final)
    def _get_final_config_dict(self):
        config, ours = final(self), is_ours(self.model_class)
        if "device" in self.external_config_dict:
            raise UserError(
                f"device is {shown(self.external_config_dict['device'])}, but RecBole chooses it by gpu_id; leave device out. "
                "An empty gpu_id selects the CPU."
            )
        _set_defaults(self, config)
        check_values(config, self.model_class.options if ours else AnyModelOptions)
        check_texts(config, self.internal_config_dict)
        if ours:
            if self.model_class in [*MODELS, *BASELINES]:  # other models may have options of their own
                warn_of_misspelt_options(self.external_config_dict, self.model, self.dataset)
            self.model_class.check_values(defaultdict(lambda: None, config))
            if config.get("resume"):
                config[TRAINED_ON] = trained_on(read_together(config["resume"], read=load_checkpoint))
        return config

    Config._get_model_and_dataset = _get_model_and_dataset
    Config._init_parameters_category = _init_parameters_category
    Config._load_config_files = _load_config_files
    Config._update_internal_config_dict = _update_internal_config_dict
    Config._get_final_config_dict = _get_final_config_dict


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
    _set_negatives(self, config)
    _set_evaluation(self, config)
    if config.get("load_col") == _default_columns(DEFAULT_FORMAT):
        config["load_col"] = _default_columns(AtomicFormat.from_config(config))
    if config.get("repeatable") == "auto":
        config["repeatable"] = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        _check_candidates(self, config)
    if self.model_class.type == ModelType.SEQUENTIAL and config.get("benchmark_filename"):
        _read_histories(config)
    _parse_nested_options(config)


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


def _check_candidates(self: Config, config: dict) -> None:
    """Raise a UserError for options of the candidates that sequential models do not have."""
    if config.get("repeatable") is False and "repeatable" in self.external_config_dict:
        raise UserError(
            f"repeatable is False, which is for general models, and {self.model} is sequential; set repeatable to auto, and "
            "exclude_seen to True to leave the items of the history out of its ranking."
        )
    if config.get("exclude_seen") and (sampled := _modes(config.get("eval_args") or {}) - {"full"}):
        raise UserError(
            f"exclude_seen is True, which is for full rankings, and eval_args has the mode {min(map(str, sampled))}; leave out "
            "one of them."
        )


def _modes(eval_args: dict) -> set:
    """The modes of all evaluations."""
    mode = eval_args.get("mode") or "full"
    return set(mode.values() if isinstance(mode, dict) else [mode])


def _parse_nested_options(config: dict) -> None:
    """Read lists and dictionaries given as text in YAML: RecBole reads ['text'] as a list, but not [text]."""
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
    histories, columns = config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"], config.get("load_col") or {}
    if isinstance(columns.get("inter"), list) and histories not in columns["inter"]:
        config["load_col"] = {**columns, "inter": [*columns["inter"], histories]}
    aliases = config.get("alias_of_item_id") or []
    config["alias_of_item_id"] = [*aliases, *([] if histories in aliases else [histories])]


# -- preparation of datasets -----------------------------------------------------------------------------------------


def _prepare_before_loading() -> None:
    """Let every dataset class, RecBole's included, prepare its files before it reads them.

    A dataset with a ``source`` is downloaded, all processes get the same files, the columns are checked, and item attributes
    are chosen. A number that RecBole cannot read becomes a UserError, and so does a filter of the wrong kind.
    """
    load = Dataset._load_data

    @functools.wraps(load)
    def _load_data(self, token, dataset_path):
        prepare(self.config)
        share_files(Path(dataset_path), f"{token}.*")
        check_columns(self.config, Path(dataset_path), token)
        choose_attributes(self.config, Path(dataset_path), token)
        load(self, token, dataset_path)

    load_file = Dataset._load_feat

    @functools.wraps(load_file)
    def _load_feat(self, filepath, source):
        try:
            return load_file(self, filepath, source)
        except ValueError:
            error = first_unreadable(Path(filepath), AtomicFormat.from_config(self.config), self.field2type)
            if error is None:
                raise
            raise error from None

    filter_values = Dataset._filter_by_field_value

    @functools.wraps(filter_values)
    def _filter_by_field_value(self):
        _check_value_filter(self)
        filter_values(self)

    Dataset._load_data, Dataset._load_feat, Dataset._filter_by_field_value = _load_data, _load_feat, _filter_by_field_value


def _check_value_filter(dataset: Dataset) -> None:
    """Raise a UserError if ``val_interval`` has a list for a column of numbers, or intervals for another column."""
    for column, kept in (dataset.config["val_interval"] or {}).items():
        if column not in dataset.field2type:
            continue  # RecBole reports it
        numbers = dataset.field2type[column] in (FeatureType.FLOAT, FeatureType.FLOAT_SEQ)
        if numbers != isinstance(kept, str):
            expected = "intervals such as '[3,inf)'" if numbers else "a list of the tokens to keep, such as ['a', 'b']"
            raise UserError(
                f"val_interval is {shown(kept)} for the column {column}, which has {'numbers' if numbers else 'tokens'}; "
                f"expected {expected}."
            )


def _check_splits() -> None:
    """Let every dataset class, RecBole's included, check its split: there are interactions to train on and to test, labels
    if the model needs them, as many items as ``topk`` ranks, and the same data in all processes."""
    build = Dataset.build

    @functools.wraps(build)
    def checked_build(self):
        parts = build(self)
        check_split(self, parts)
        _check_labels(self, parts[0])
        if self.config["eval_type"] == EvaluatorType.RANKING and max(self.config["topk"], default=0) >= self.item_num:
            raise UserError(f"topk is {self.config['topk']}; expected at most {self.item_num - 1}, the number of items of "
                            f"{self.dataset_name}.")
        if current_group().size > 1:
            current_group().check_same(checksums(self, parts))
        return parts

    Dataset.build = checked_build


def _check_labels(dataset: Dataset, train: Dataset) -> None:
    """Raise a UserError if the model is trained on labels (DeepFM, xgboost) and ``train`` has none.

    RecBole adds labels to sampled negatives.
    """
    config, label = dataset.config, dataset.label_field
    if config["MODEL_TYPE"] not in (ModelType.CONTEXT, ModelType.DECISIONTREE) or label in train.inter_feat:
        return
    if config["train_neg_sample_args"]["distribution"] == "none":
        raise UserError(
            f"{config['model']} is trained on labels, but {config['dataset']} has no column '{label}' (LABEL_FIELD); load one "
            "with load_col, compute it with threshold, such as {'rating': 4}, or sample negatives with "
            "train_neg_sample_args={'distribution': 'uniform', 'sample_num': 1}."
        )


# -- evaluation of large catalogues --------------------------------------------------------------------------------------

def _rank_as_many_as_fit() -> None:
    """Let full ranking, of RecBole's models too, rank fewer users at once than ``eval_batch_size`` if the matrix of their
    scores would not fit into the free memory, and log it."""
    original = FullSortEvalDataLoader._init_batch_size_and_step

    @functools.wraps(original)
    def _init_batch_size_and_step(self):
        original(self)
        items, device = self._dataset.item_num, self.config["device"]
        fit = max_users_in_memory(items, self.config["decode"] or "beam", device)
        if self.step > fit:
            self.logger.warning(
                f"eval_batch_size: {fit} users are ranked at once instead of {self.step}, whose scores of {items:,} items do "
                f"not fit into the free memory of {device}."
            )
            self.step = fit
            self.set_batch_size(fit if self.is_sequential else fit * items)

    FullSortEvalDataLoader._init_batch_size_and_step = _init_batch_size_and_step


def _validate_on_some_users() -> None:
    """Let ``valid_users`` limit validation, of RecBole's models too, to that many users.

    The users are the first with validation data in a random order of all users, the same order for every model, seed and epoch.
    Testing is always on all users. ``whole_dataset`` of a loader also has the other users' rows.
    """
    for loader in (FullSortEvalDataLoader, NegSampleEvalDataLoader):
        _limit_users(loader)


def _limit_users(loader: type[AbstractDataLoader]) -> None:
    original = loader.__init__

    @functools.wraps(original)
    def __init__(self, config, dataset, sampler, shuffle=False):
        self.whole_dataset = dataset
        if config["valid_users"] and sampler is not None and sampler.phase == "valid":
            users = dataset.inter_feat[dataset.uid_field].numpy()
            everyone = np.random.default_rng(0).permutation(np.arange(1, dataset.user_num))
            drawn = everyone[np.isin(everyone, users)][: config["valid_users"]]
            dataset = dataset.copy(dataset.inter_feat[np.isin(users, drawn)])
        original(self, config, dataset, sampler, shuffle=shuffle)

    loader.__init__ = __init__


def _exclude_seen_items() -> None:
    """Let ``exclude_seen`` leave the items of the history out of full rankings of sequential models, RecBole's included.

    As in RecBole's rankings of general models, the target remains also if it is in the history.
    """
    collate = FullSortEvalDataLoader.collate_fn

    @functools.wraps(collate)
    def collate_fn(self, index):
        interaction, seen, rows, targets = collate(self, index)
        if self.is_sequential and self.config["exclude_seen"]:
            history, exists = _seen_items(interaction, self._dataset)
            seen = exists.nonzero()[:, 0], history[exists]
        return interaction, seen, rows, targets

    FullSortEvalDataLoader.collate_fn = collate_fn


def _rank_as_in_evaluation() -> None:
    """Let ``full_sort_scores`` mask the same items as the evaluation: with ``exclude_seen`` also those of sequential models.

    Our models are told which items are masked, as our trainer does. A search that finds some of the items would otherwise find
    masked ones and too few others.
    """
    case_study = importlib.import_module("recbole.utils.case_study")
    original = case_study.full_sort_scores

    @functools.wraps(original)
    def full_sort_scores(uid_series, model, test_data, device=None):
        masked = _masked_items(test_data, uid_series)
        if masked is None:
            return original(uid_series, model, test_data, device)
        ours = isinstance(model, RegisteredModel)
        scores = original(uid_series, _ModelWithMaskedItems(model, masked) if ours else model, test_data, device)
        return scores.scatter(1, masked.to(scores.device), -torch.inf)

    vars(case_study).update(full_sort_scores=full_sort_scores)


def _masked_items(test_data: FullSortEvalDataLoader, users) -> torch.Tensor | None:
    """The items that the evaluation masks for ``users``, int64 [B, S], padded with 0; None if it masks none."""
    if not test_data.is_sequential:
        return pad_sequence(list(test_data.uid2history_item[list(users)]), batch_first=True)
    if not test_data.config["exclude_seen"]:
        return None
    dataset = test_data.dataset
    rows = (dataset.inter_feat[dataset.uid_field] == torch.as_tensor(users)[:, None]).nonzero()[:, 1]
    return _seen_items(dataset.inter_feat[rows], dataset)[0]


def _seen_items(interaction: Interaction, dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """The items of the histories [B, S] of an interaction, 0 in place of the target; and where they are, bool [B, S]."""
    history = interaction[dataset.iid_field + dataset.config["LIST_SUFFIX"]]
    seen = (history > 0) & (history != interaction[dataset.iid_field].unsqueeze(1))
    return history.masked_fill(~seen, 0), seen


class _ModelWithMaskedItems:
    """A model whose ``full_sort_predict`` is called with the items [B, S] that the caller masks, padded with 0."""

    def __init__(self, model: AbstractRecommender, masked: torch.Tensor):
        self.model, self.masked = model, masked

    def __getattr__(self, name: str):
        return getattr(self.model, name)

    def full_sort_predict(self, interaction: Interaction) -> torch.Tensor:
        interaction.update(Interaction({EXCLUDED_ITEMS_FIELD: self.masked.to(self.model.device)}))
        return self.model.full_sort_predict(interaction)


# -- several processes -----------------------------------------------------------------------------------------------


def run_recboles(rank, *args):
    """RecBole's entry point of a spawned process. As it is ours, unpickling it imports the plugin in that process."""
    settings = args[-1]["config_dict"]
    environment = {"RANK": rank + settings["offset"], "LOCAL_RANK": rank, "WORLD_SIZE": settings["world_size"],
                   "LOCAL_WORLD_SIZE": settings["nproc"], "MASTER_ADDR": settings["ip"], "MASTER_PORT": settings["port"]}
    os.environ.update({name: str(value) for name, value in environment.items()})
    limit_threads(settings["nproc"])
    with group():
        return _recbole_run_recboles(rank, *args)


# -- checkpoints -------------------------------------------------------------------------------------------------------


def load_data_and_model(model_file, data_path=None, trust_checkpoint=False):
    """RecBole's ``load_data_and_model``, for checkpoints of tensors and plain values, as this package and, with it, RecBole's
    trainers write them.

    Args:
        data_path: folder with the dataset's folder; by default at the same place relative to the checkpoint as in training,
            else at the same absolute path.
        trust_checkpoint: also read a checkpoint that RecBole wrote without this package, and a pickled dataset. Any code in
            them is run.

    Raises:
        UserError: the file is missing, truncated, not a checkpoint, or of other data or codes, or the dataset is missing.
    """
    state = read_checkpoint(model_file, trusted=trust_checkpoint)
    config = state.get("config") if isinstance(state, dict) else None
    if isinstance(config, dict):
        config = config_from_plain(config if trust_checkpoint else known_settings(config))
    if not isinstance(config, Config):
        raise UserError(
            f"Checkpoint {model_file} contains no settings of a model; name one that RecBole or recbole_macrec wrote."
        )
    check_complete(state, ["state_dict"], model_file)
    config.final_config_dict.update({TRAINED_ON: trained_on(state), TRUST: trust_checkpoint})
    config.final_config_dict["data_path"] = str(dataset_folder(config, model_file, state.get("data_folder"), data_path))
    state = {**state, "config": config, "other_parameter": from_tensors(state.get("other_parameter"), config["device"])}
    try:
        with compat.loading(state):
            return _recbole_load_data_and_model(state)
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise UserError(
            f"Checkpoint {model_file} does not fit the model that its configuration builds on today's data "
            f"({str(error).splitlines()[-1].strip()}): use the dataset, features and codes it was trained with."
        ) from error


