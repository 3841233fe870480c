"""Report in one line how to install a missing library. This module imports no library itself."""
import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGE = __package__.partition(".")[0]
_CHECKOUT = Path(__file__).parents[2]
_COMMANDS = ("-m", "-c", "run_recbole_macrec")  # sys.argv[0] of python -m and -c, and the name of the script


def missing_library(error: ModuleNotFoundError) -> BaseException:
    """Return the exception to raise instead of ``error``. On a command line it ends the process without a traceback."""
    if error.name is None or error.name.partition(".")[0] == PACKAGE:
        return error
    install = f"pip install -e {_CHECKOUT}" if (_CHECKOUT / "setup.cfg").is_file() else _pip_install(error.name)
    message = f"{error.name} is not installed; install the requirements of recbole_macrec with: {install}"
    if Path(sys.argv[0] if sys.argv else "").stem in _COMMANDS:
        return SystemExit(f"error: {message}")
    return ModuleNotFoundError(message, name=error.name)


def _pip_install(module: str) -> str:
    return (
        "pip install 'recbole>=1.2.0,<1.3' kmeans-pytorch"
        if module in ("recbole", "kmeans_pytorch")
        else f"pip install {module}"
    )


def recbole_folder() -> Path:
    """Return the folder of the installed RecBole package."""
    spec = find_spec("recbole")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'recbole'", name="recbole")
    return Path(spec.origin).parent
