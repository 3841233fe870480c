"""Precision of matrix products, and the share of the machine that a process may use."""
from types import SimpleNamespace

import pytest
import torch

from recbole_macrec.benchmark.compare.pool import visible_gpus
from recbole_macrec.utils import hardware
from recbole_macrec.utils.hardware import resolve_precision, tf32_products
from recbole_macrec.utils.launcher import limit_threads


@pytest.mark.parametrize("forced, expected", [("1", "bf16"), ("0", "fp32")])
def test_tf32_is_auto_on_a_cpu(forced, expected, monkeypatch):
    monkeypatch.setenv("RECBOLE_MACREC_BF16", forced)
    assert resolve_precision("tf32", torch.device("cuda")) == "tf32"
    assert resolve_precision("tf32", torch.device("cpu")) == expected


def test_tf32_is_only_allowed_inside_the_context():
    flag = torch.backends.cuda.matmul
    with tf32_products(True):
        assert flag.allow_tf32
        with tf32_products(False):
            assert not flag.allow_tf32
        assert flag.allow_tf32
    assert not flag.allow_tf32


@pytest.mark.parametrize("limit, expected", [("max", None), (str(2**30), 2**30 - 2**29 + 2**28), (str(2**60), None)])
def test_free_memory_is_below_the_limit_of_the_container(limit, expected, tmp_path, monkeypatch):
    """Cached files count as free."""
    monkeypatch.setattr(hardware, "CGROUPS", [(str(tmp_path), "memory.max", "memory.current", "inactive_file")])
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text(f"{2**29}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {2**28}\n")
    monkeypatch.setattr(hardware.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**40))
    assert hardware.free_memory(torch.device("cpu")) == (expected or 2**40)


def test_threads_are_those_of_this_process(monkeypatch):
    """A process may use fewer processors than the machine has."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    chosen = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    for processes in (1, 2, 7):
        limit_threads(processes)
    assert chosen == [6, 3, 1]


@pytest.mark.parametrize("visible, expected", [(None, ["0", "1", "2"]), ("5,GPU-a,1", ["5", "GPU-a", "1"]), ("", [])])
def test_runs_share_the_visible_gpus(visible, expected, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0 if visible == "" else 3)
    assert visible_gpus() == expected
