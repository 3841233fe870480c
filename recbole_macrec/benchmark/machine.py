"""Library versions, commit and hardware, recorded with every measurement."""
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

import recbole_macrec

LIBRARIES = ("recbole_macrec", "recbole", "torch", "numpy", "pandas", "scipy", "scikit-learn", "transformers")


def library_versions() -> dict[str, str | None]:
    """Return the versions of Python and of the libraries; None for a library that is not installed."""
    result: dict[str, str | None] = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            result[name] = None
    return result


@cache
def git_commit() -> str | None:
    """Return the Git commit of the package, followed by ``-dirty`` if files were changed; None outside a repository.

    It is read once per process. Call it when a command begins, as files may change while it runs.
    """
    package = Path(recbole_macrec.__file__).parent
    if not (package.parent / ".git").exists():
        return None
    try:
        described = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(described, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def hardware() -> dict:
    """Return processor, memory and GPUs of this machine."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(count)],
        "system": platform.platform(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
