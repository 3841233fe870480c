"""Names of models, datasets and options: unknown names are an error before anything runs."""
import logging
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from recbole.config import Config
from recbole.utils import dataset_arguments, evaluation_arguments, general_arguments, training_arguments

from recbole_macrec.config.property_files import property_file, read_properties, read_user_yaml, read_yaml
from recbole_macrec.config.registry import model_names, options_of
from recbole_macrec.config.schema.models import AnyModelOptions
from recbole_macrec.errors import UserError, nearest
from recbole_macrec.utils.requirements import recbole_folder

# options that are strings even if they look like numbers, such as 0,1 for two GPUs
STRING_OPTIONS = ("data_path", "checkpoint_dir", "gpu_id")
NESTED_OPTIONS = (  # lists and dictionaries
    "source", "encoders", "text_fields", "modalities", "metrics", "clip_grad_norm", "eval_args", "load_col", "unload_col",
    "val_interval", "benchmark_filename", "selected_features", "vip5_tasks", "lcrec_tasks", "lora_targets",
    "train_neg_sample_args", "threshold", "unused_col", "seq_len", "normalize_field", "numerical_features", "alias_of_user_id",
    "alias_of_item_id", "additional_feat_suffix", "preload_weight", "discretization",
)  # fmt: skip
TRUST = "trust_checkpoint"  # the option that lets RecBole unpickle files
NOT_FROM_CHECKPOINTS = {  # settings that a checkpoint of unknown origin must not choose
    "dataset_save_path", "dataloaders_save_path", "save_dataset", "save_dataloaders", "log_wandb", "source", "resume", TRUST,
}  # fmt: skip
TRAINED_ON = "trained_on"  # in the config of a loaded checkpoint: the bundle of semantic IDs of its training
PACKAGED_DATASET = "ml-100k"  # ships inside RecBole, which always reads it from there
logger = logging.getLogger(__name__)

_READ_FROM_CONFIG = re.compile(r"config(?:\[|\.get\()\s*[\"'](\w+)[\"']")


def known_models() -> list[str]:
    """Our models and RecBole's; the latter are found in RecBole's source files, without importing them."""
    names = []
    for path in sorted(recbole_folder().glob("model/*/*.py")):
        classes = re.findall(r"^class (\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
        names += [name for name in classes if name.lower() == path.stem]
    return model_names() + names


def check_model(name: str) -> None:
    """Raise a UserError unless ``name`` is a model."""
    known = known_models()
    if name not in known:
        raise UserError(f"Unknown model '{name}'.{nearest(name, known)} Known models: {', '.join(known)}.")


def parse_value(text: str) -> Any:
    """The value of an option on the command line, read as RecBole does: a Python literal, true or false, else a string."""
    return Config._convert_config_dict(None, {"": text})[""]


def format_value(value: Any) -> str:
    """The text that :func:`parse_value` reads as ``value``."""
    return value if isinstance(value, str) and parse_value(value) == value else repr(value)


def parse_settings(arguments: Iterable[str], own: Iterable[str]) -> dict[str, Any]:
    """Read RecBole's settings from command-line arguments ``--key=value``.

    Args:
        own: names of the command's own options, for the hint at the nearest name.

    Raises:
        UserError: an argument has another form, or a key has two values.
    """
    settings: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not equals:
            hint = nearest(argument.removeprefix("--"), own) if argument.startswith("--") else ""
            raise UserError(f"Can't read '{argument}'; options are written --key=value.{hint}")
        if settings.get(key, value) != value:
            raise UserError(f"--{key} is given twice, as '{settings[key]}' and '{value}'; give it once.")
        settings[key] = value
    return {key: text if key in STRING_OPTIONS else parse_value(text) for key, text in settings.items()}


def config_of(model: str | type, dataset: str, config_files: Iterable[str | Path], settings: dict[str, Any]) -> Config:
    """The configuration of ``model``; ``settings`` take precedence over the config files."""
    with hidden_argv():
        files = [str(path) for path in config_files]
        return Config(model, dataset, config_file_list=files, config_dict=quoted(settings))


def quoted(settings: dict[str, Any]) -> dict[str, Any]:
    """``settings`` as a ``config_dict`` of RecBole, with quoted strings, as RecBole evaluates strings as literals."""
    return {key: repr(value) if isinstance(value, str) else value for key, value in settings.items()}


@contextmanager
def hidden_argv() -> Iterator[None]:
    """Hide the command-line arguments from RecBole, in which they take precedence over all other settings."""
    argv = sys.argv
    sys.argv = argv[:1]
    try:
        yield
    finally:
        sys.argv = argv


def has_source(name: str) -> bool:
    """Whether the property file of the dataset ``name`` has a ``source``, from which the dataset is built."""
    return bool(read_properties("dataset", f"{name}.yaml").get("source"))


def import_command(dataset_folder: Path, name: str, modality: str | None = "MODALITY") -> str:
    """Return the command line that imports the dataset; ``modality`` None if its feature files are stored beside SRC."""
    feature = "" if modality is None else f" --feature {modality}=FILE.npy"
    options = shlex.join([f"--dataset={name}", f"--data_path={Path(dataset_folder).parent}"])
    return f"python -m recbole_macrec.data import SRC {options}{feature}"


def check_dataset(name: str, data_path: str | Path, benchmark: bool = False) -> None:
    """Raise a UserError unless ``data_path/name`` contains the dataset, or it has a ``source``.

    Args:
        benchmark: the dataset consists of files that are split already (``benchmark_filename``); its property file can say
            so, too.
    """
    if name == PACKAGED_DATASET or has_source(name):
        return
    folder = Path(data_path) / name
    remedy = f"Import it with: {import_command(folder, name, None)}"
    if not folder.is_dir():
        with_source = {path.stem for path in property_file("dataset").glob("*.yaml") if has_source(path.stem)}
        others = sorted({path.parent.name for path in Path(data_path).glob("*/*.inter")} | with_source)
        available = f" Available: {', '.join(others)}." if others else ""
        raise UserError(f"Dataset folder {folder.absolute()} does not exist.{nearest(name, others)}{available} {remedy}")
    split = benchmark or read_properties("dataset", f"{name}.yaml").get("benchmark_filename")
    if not split and not (folder / f"{name}.inter").is_file():
        raise UserError(f"Dataset file {folder / f'{name}.inter'} does not exist. {remedy}")


def read_config_file(path: str | Path) -> dict:
    """The keys and values of a config file.

    Raises:
        UserError: the file is missing, not YAML, not a list of ``key: value``, or sets ``trust_checkpoint``.
    """
    values = read_user_yaml(path, "Config file")
    refuse_trust(values, path)
    return values


def refuse_trust(names: Iterable[str], path: str | Path) -> None:
    """Raise a UserError if a file, which anyone may have written, sets ``trust_checkpoint``."""
    if TRUST in names:
        raise UserError(f"{path} sets {TRUST}, which no file can; give --{TRUST}=True on the command line, or in config_dict.")


@cache  # it reads all property files, and a command calls it for its arguments and for each config file
def known_options(models: tuple[str, ...], dataset: str) -> frozenset[str]:
    """Every option that one of ``models`` on ``dataset`` can have."""
    known = {"model", "dataset", *general_arguments, *training_arguments, *evaluation_arguments, *dataset_arguments}
    for model in models:
        known |= model_options(model)
    recbole = recbole_folder()
    names = {"overall", "sample", dataset, *models}
    for path in [*recbole.glob("properties/**/*.yaml"), *property_file().glob("**/*.yaml")]:
        if path.stem in names or path.parent.name == "quick_start_config":
            known |= set(read_yaml(path))
    files = {f"{model.lower()}.py" for model in models}
    for path in recbole.glob("**/*.py"):
        if "recommender" not in path.parent.name or path.name in files:
            known |= set(_READ_FROM_CONFIG.findall(path.read_text(encoding="utf-8")))
    return frozenset(known)


def model_options(model: str) -> set[str]:
    """The options that the schema of ``model`` declares."""
    return set((options_of(model) or AnyModelOptions).model_fields)


def check_options(
    names: Iterable[str], models: Iterable[str], dataset: str, where: str, own: Iterable[str] = ()
) -> None:
    """Raise a UserError for the first of ``names`` that is not an option of ``models`` on ``dataset`` or one of ``own``.

    Args:
        where: where the names are, for the message: "the command line" or a file.
    """
    models = tuple(models)
    known = known_options(models, dataset).union(own)
    for name in names:
        if name not in known:
            having = [model for model in model_names() if name in model_options(model)]
            hint = "" if having else nearest(name, known)
            start = f"It is an option of {', '.join(having)}, but not" if having else "It is not an option"
            raise UserError(f"Unknown option '{name}' in {where}.{hint} {start} of RecBole, of {', '.join(models)} or of the "
                            f"dataset {dataset}.")


def warn_of_misspelt_options(names: Iterable[str], model: str, dataset: str) -> None:
    """Log a warning for each of ``names`` that differs from an option of ``model`` on ``dataset`` by a few letters.

    Unlike :func:`check_options` it accepts all other names, as RecBole does in Python: a user's own code may read them. Options
    of other models are accepted as well, as the settings of a comparison are for all its models.
    """
    known = known_options((model,), dataset)
    for name in sorted(set(names).difference(known, *map(model_options, model_names()))):
        if hint := nearest(name, known, similarity=0.85):
            logger.warning(f"{model} has no option '{name}', and ignores it.{hint}")
