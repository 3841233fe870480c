"""Finds and reads the YAML files of ``properties/``."""
from importlib.resources import files
from pathlib import Path

import yaml
from recbole.config import Config

from recbole_macrec.errors import UserError, nearest


def property_file(*parts: str) -> Path:
    """A file below ``properties/``: beside the package in a checkout, inside it when installed from a wheel."""
    packaged = Path(str(files("recbole_macrec"))) / "properties"
    folder = packaged if packaged.is_dir() else Path(__file__).parents[2] / "properties"
    return folder.joinpath(*parts)


def preset_files(model: str, name: str | None, dataset: str) -> list[Path]:
    """The file of the preset ``name`` of ``model``: for None that of the model on ``dataset``, if there is one; for ``none`` no
    file.

    Raises:
        UserError: when the model has no such preset.
    """
    if name is None:
        path = property_file("preset", f"{model}-{dataset}.yaml")
        return [path] if path.is_file() else []
    if name == "none":
        return []
    known = sorted(path.stem.removeprefix(f"{model}-") for path in property_file("preset").glob(f"{model}-*.yaml"))
    if name not in known:
        raise UserError(f"training_preset is {name!r}; {model} has {', '.join(known) or 'none'}.{nearest(str(name), known)}")
    return [property_file("preset", f"{model}-{name}.yaml")]


def read_yaml(path: Path) -> dict:
    """A property file, read as RecBole reads it."""
    with open(path, encoding="utf-8") as file:
        return yaml.load(file, Loader=Config._build_yaml_loader(None)) or {}
