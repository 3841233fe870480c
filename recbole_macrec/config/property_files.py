"""Find and read the YAML files of ``properties/``."""
import copy
import functools
import logging
from importlib.resources import files
from pathlib import Path
from typing import Any, TextIO

import yaml
from recbole.config import Config

from recbole_macrec.config.schema.base import shown
from recbole_macrec.errors import UserError, nearest, one_line

PRESETS = ("decoder_only", "narrow", "paper", "per_user")  # names of presets that belong to no dataset
logger = logging.getLogger(__name__)


def property_file(*parts: str) -> Path:
    """Path of a file in ``properties/``, which is beside the package in a checkout and inside an installed package."""
    packaged = Path(str(files("recbole_macrec"))) / "properties"
    folder = packaged if packaged.is_dir() else Path(__file__).parents[2] / "properties"
    return folder.joinpath(*parts)


def read_properties(*parts: str) -> dict:
    """The contents of a file in ``properties/``; empty if there is no such file."""
    path = property_file(*parts)
    return read_yaml(path) if path.is_file() else {}


def preset_files(model: str, name: str | None, dataset: str) -> list[Path]:
    """The file of the preset ``name`` of ``model``, as a list; none, with a warning, if the model has no presets.

    Args:
        name: None for the preset named after ``dataset``, if it exists; ``none`` for no preset.

    Raises:
        UserError: the model has other presets.
    """
    if name is None:
        path = property_file("preset", f"{model}-{dataset}.yaml")
        return [path] if path.is_file() and dataset not in PRESETS else []
    if name == "none":
        return []
    known = sorted(path.stem.removeprefix(f"{model}-") for path in property_file("preset").glob(f"{model}-*.yaml"))
    if not known:
        logger.warning(f"{model} has no presets, so it ignores training_preset: {shown(name)}.")
        return []
    if name not in known:
        raise UserError(
            f"training_preset is {shown(name)}; expected {', '.join(known)} or none.{nearest(str(name)[:100], known)}"
        )
    return [property_file("preset", f"{model}-{name}.yaml")]


def read_yaml(path: Path) -> dict:
    """Read a property file as RecBole does. Every configuration reads the same files, so their contents are parsed once."""
    return copy.deepcopy(_parsed(path.read_text(encoding="utf-8")))


@functools.lru_cache(maxsize=256)
def _parsed(content: str) -> dict:
    return _load(content)


def _load(content: str | TextIO) -> dict:
    return yaml.load(content, Loader=Config._build_yaml_loader(None)) or {}


def read_user_yaml(path: str | Path, what: str) -> dict[str, Any]:
    """Read a YAML file of the user, whose keys must be strings.

    Args:
        what: the kind of file, for messages, such as "Config file".

    Raises:
        UserError: the file is missing, not YAML, or not a list of ``key: value``.
    """
    try:
        with open(path, encoding="utf-8") as file:
            values = _load(file)
    except OSError as error:
        raise UserError(f"{what} {path} can't be read ({error.strerror}); check the path.") from None
    except RecursionError:
        raise UserError(f"{what} {path} can't be read: its brackets are nested too deeply.") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a number of thousands of digits
        raise UserError(f"{what} {path} is not valid YAML: {one_line(error, 300)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{what} {path} contains a {type(values).__name__}; expected lines such as 'epochs: 10'.")
    for key in values:
        if not isinstance(key, str):
            raise UserError(f"{what} {path} has the key {shown(key)}; expected the name of an option, such as 'epochs: 10'.")
    return values
