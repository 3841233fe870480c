"""Functions that replace names in RecBole's modules."""
import functools
import inspect
import sys
import types


class ModuleWith(types.ModuleType):
    """A view of ``module`` for one of RecBole's modules, in which ``names`` are replaced."""

    def __init__(self, module, **names):
        super().__init__(module.__name__)
        self.__dict__.update(names, _module=module)

    def __getattr__(self, name):
        return getattr(self._module, name)


def set_in(module: types.ModuleType, **names) -> None:
    """Set module-level ``names`` of a module."""
    vars(module).update(names)


def within(context, function):
    """Wrap ``function`` so that it runs inside the context manager that ``context()`` creates."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        with context():
            return function(*args, **kwargs)

    return wrapped


def replace_in_recbole(name: str, function) -> None:
    """Replace RecBole's function ``name`` by ``function`` in all of RecBole's modules that have imported it."""
    original = inspect.unwrap(function)
    for module in [module for path, module in sys.modules.items() if path.split(".")[0] == "recbole"]:
        if vars(module).get(name) is original:
            setattr(module, name, function)
