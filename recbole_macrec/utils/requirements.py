"""Says in one line how to install a library that is missing; needs none itself."""
import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGE = __package__.partition(".")[0]
_CHECKOUT = Path(__file__).parents[2]
_COMMANDS = ("-m", "-c", "run_recbole_macrec")  # sys.argv[0] of python -m and -c, and the name of the script


def missing(error: ModuleNotFoundError) -> BaseException:
    """The exception to raise in place of ``error``: for a command line one that ends in a single line, without a traceback."""
    if error.name is None or error.name.partition(".")[0] == PACKAGE:
        return error
    install = f"pip install -e {_CHECKOUT}" if (_CHECKOUT / "setup.cfg").is_file() else _of_wheel(error.name)
    message = f"{error.name} is not installed; install what recbole_macrec requires with: {install}"
    if Path(sys.argv[0] if sys.argv else "").stem in _COMMANDS:
        return SystemExit(f"error: {message}")
    return ModuleNotFoundError(message, name=error.name)


def _of_wheel(module: str) -> str:
    return "pip install 'recbole>=1.2.0,<1.3' kmeans-pytorch" if module in ("recbole", "kmeans_pytorch") else f"pip install {module}"


def recbole_folder() -> Path:
    """Where RecBole is installed."""
    return Path(find_spec("recbole").origin).parent
