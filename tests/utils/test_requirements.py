"""Without RecBole, every command ends with one line that says how to install it."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_macrec.utils import requirements

ROOT = Path(__file__).parents[2]
ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "recbole":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def without_recbole(tmp_path, *words: str) -> subprocess.CompletedProcess:
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "words",
    [
        ["-c", "import recbole_macrec"],
        [str(ROOT / "run_recbole_macrec.py"), "--model=Pop"],
        ["-m", "recbole_macrec.data", "toy"],
        ["-m", "pytest", str(ROOT / "tests" / "utils" / "test_requirements.py")],
    ],
    ids=" ".join,
)
def test_missing_recbole_is_a_one_line_error_with_the_install_command(words, tmp_path):
    ended = without_recbole(tmp_path, *words)
    line = f"error: recbole is not installed; install the requirements of recbole_macrec with: pip install -e {ROOT}\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", line)


def test_programs_can_catch_a_missing_recbole(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("try:\n    import recbole_macrec\nexcept ImportError as error:\n    print(error.name, error)\n")
    assert without_recbole(tmp_path, str(program)).stdout.startswith("recbole recbole is not installed; ")


@pytest.mark.parametrize(
    "module, command",
    [("recbole", "pip install 'recbole>=1.2.0,<1.3' kmeans-pytorch"), ("filelock", "pip install filelock")],
)
def test_installed_wheels_name_the_missing_package(module, command, tmp_path, monkeypatch):
    monkeypatch.setattr(requirements, "_CHECKOUT", tmp_path)
    assert str(requirements.missing_library(ModuleNotFoundError(name=module))).endswith(f": {command}")


def test_missing_modules_of_this_package_are_internal_errors():
    error = ModuleNotFoundError(name="recbole_macrec.gone")
    assert requirements.missing_library(error) is error
