"""The models of this package, and those derived from them, by name."""
from recbole_macrec.config.schema.base import Options

_models: dict[str, type] = {}


def add_model(model: type) -> None:
    """Register ``model`` by the name of its class."""
    _models[model.__name__] = model


def models() -> dict[str, type]:
    """Name -> class."""
    return dict(_models)


def model_names() -> list[str]:
    """Names of the models of this package."""
    return list(_models)


def options_of(name: str) -> type[Options] | None:
    """The schema of the options of the model ``name``; None if it is not registered."""
    return getattr(_models.get(name), "options", None)


def is_built_in(model_class: type) -> bool:
    """Whether ``model_class`` is defined in this package, not in a user's own file."""
    return model_class.__module__.startswith("recbole_macrec.")


def is_ours(model_class: type) -> bool:
    """Whether ``model_class`` is one of the models of this package or derived from one."""
    return issubclass(model_class, tuple(_models.values()))
