"""Ctrl-C while a command starts prints one line and gives exit code 130."""
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from recbole_macrec.utils import interrupts

ROOT = Path(__file__).parents[2]
PRESSED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run in the background, where SIGINT is ignored
class Pressed:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Pressed())
"""


@pytest.mark.parametrize("module", ["numpy", "recbole.config", "recbole_macrec.utils.failures"])
@pytest.mark.parametrize(
    "words", [[str(ROOT / "run_recbole_macrec.py"), "-m", "Pop"], ["-m", "recbole_macrec.data", "toy"]], ids=["run", "data"]
)
def test_ctrl_c_during_imports_prints_one_line(words, module, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(PRESSED.format(module=module))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    ended = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")


PRESSED_IN_CHILD = """
import os, signal, sys, time
child = "multiprocessing" in " ".join(sys.orig_argv)
if not child:
    signal.signal(signal.SIGINT, signal.default_int_handler)
class Pressed:
    def find_spec(self, name, path=None, target=None):
        if child and name == "{module}":
            for press in range({presses}):
                open(f"pressed-{{os.getpid()}}-{{press}}", "w").close()
                os.killpg(0, signal.SIGINT)  # as a terminal does
                time.sleep(0.2)
sys.meta_path.insert(0, Pressed())
"""


@pytest.mark.parametrize("module, presses", [("numpy", 2), ("recbole_macrec.plugin", 1)])
def test_ctrl_c_while_processes_start_prints_one_line(module, presses, tiny_dataset, tmp_path):
    words = [str(ROOT / "run_recbole_macrec.py"), "-m", "Pop", "--nproc=2", "--dataset=tiny", f"--data_path={tiny_dataset}"]
    (tmp_path / "sitecustomize.py").write_text(PRESSED_IN_CHILD.format(module=module, presses=presses))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    with open(tmp_path / "printed", "w") as printed:
        process = subprocess.Popen([sys.executable, *words], env=environment, cwd=tmp_path, stdout=printed, stderr=printed,
                                   start_new_session=True)  # fmt: skip
        try:
            assert process.wait(timeout=120) == 130 and list(tmp_path.glob("pressed-*"))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the server of processes ends when it has imported its libraries
    lines = (tmp_path / "printed").read_text().replace("\r", "\n").splitlines()
    assert [line for line in lines if line] == ["interrupted"]


@pytest.mark.parametrize(
    "words, command",
    [
        (["python", "run_recbole_macrec.py"], True),
        (["python", "-u", "-m", "recbole_macrec.benchmark", "compare"], True),
        (["python", "/usr/bin/run_recbole_macrec", "-m", "Pop"], True),
        (["python", "-m", "pytest"], False),
        (["python"], False),
        (["python", "-c", "from multiprocessing.spawn import spawn_main", "--multiprocessing-fork"], False),
        (["python", "-m"], False),
    ],
)
def test_interrupts_during_imports_are_handled_only_in_our_commands(words, command, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", words)
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupts.end_commands_at_once()
        assert (signal.getsignal(signal.SIGINT) is not signal.default_int_handler) == command
        interrupts.commands_have_started()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
