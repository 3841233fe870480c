"""Models that RecBole finds by their names."""
import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from recbole.model.abstract_recommender import AbstractRecommender

from recbole_macrec.config.options import known_models
from recbole_macrec.config.registry import add_model, is_built_in, models
from recbole_macrec.errors import UserError


def register_model(model: type[AbstractRecommender]) -> None:
    """Let RecBole find ``model``, its ``trainer_class`` and its ``dataset_class`` by the name of the model.

    ``Config(model=MyModel)`` and ``run_recbole(model=MyModel)`` call this function themselves. A model derived from one of this
    package has the default values of that model, unless ``properties/model/NAME.yaml`` exists.

    ``get_model`` looks for a module such as ``recbole.model.sequential_recommender.<name>``, ``get_trainer`` and
    ``create_dataset`` for ``<Name>Trainer`` and ``<Name>Dataset``.

    Raises:
        UserError: RecBole or this package has another model of this name.
    """
    name, own = model.__name__, models().get(model.__name__)
    if not is_built_in(model) and name in known_models() and (own is None or is_built_in(own)):
        raise UserError(f"There is a model {name} already; rename the class {model.__module__}.{name}.")
    path = f"recbole.model.{model.type.name.lower()}_recommender.{name.lower()}"
    module = ModuleType(path)
    module.__spec__ = ModuleSpec(path, None)
    setattr(module, name, model)
    sys.modules[path] = module
    setattr(importlib.import_module("recbole.trainer"), f"{name}Trainer", model.trainer_class)
    setattr(importlib.import_module("recbole.data.dataset"), f"{name}Dataset", model.dataset_class)
    add_model(model)
