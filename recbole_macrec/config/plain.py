"""A RecBole Config as plain values for JSON files and checkpoints, and back."""
import enum

import numpy as np
import torch
from recbole.config import Config
from recbole.utils import enum_type, get_model


def plain_config(config: Config) -> dict:
    """The settings of ``config`` as plain values; :func:`config_from_plain` is the inverse."""
    return {key: plain(value) for key, value in config.final_config_dict.items()}


def config_from_plain(values: dict) -> Config:
    """A Config with the settings of :func:`plain_config`, for one process and on a device that this machine has."""
    settings = {key: _from_plain(value) for key, value in values.items()}
    settings = {key: value for key, value in settings.items() if key not in ("nproc", "world_size", "offset")}
    settings.update(single_spec=True, local_rank=0)
    if settings.setdefault("device", torch.device("cuda")).type == "cuda":
        settings["device"] = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = Config.__new__(Config)
    config._init_parameters_category()
    config.yaml_loader = config._build_yaml_loader()
    config.model, config.dataset = settings["model"], settings["dataset"]
    config.model_class = get_model(config.model)
    config.file_config_dict, config.variable_config_dict, config.cmd_config_dict = {}, {}, {}
    config.external_config_dict, config.internal_config_dict = {}, dict(settings)
    config.final_config_dict = settings
    return config


_ENUM, _DEVICE = "recbole.utils.enum_type:", "torch.device:"


def plain(value):
    """``value`` as plain values: enumerations and devices as prefixed strings, NumPy values as Python's, others as strings."""
    if isinstance(value, enum.Enum):
        return f"{_ENUM}{type(value).__name__}.{value.name}"
    if isinstance(value, torch.device):
        return f"{_DEVICE}{value}"
    if isinstance(value, dict):
        return {plain(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _from_plain(value):
    if isinstance(value, dict):
        return {key: _from_plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_from_plain(entry) for entry in value]
    if isinstance(value, str) and value.startswith(_ENUM):
        kind, name = value.removeprefix(_ENUM).split(".")
        return getattr(enum_type, kind)[name]
    if isinstance(value, str) and value.startswith(_DEVICE):
        return torch.device(value.removeprefix(_DEVICE))
    return value
