"""Helpers for tests of several packages: feature files, histories in atomic files, and words of commands."""
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recbole_macrec.data.features import FeatureTable


def write_features(folder: Path, *modalities: str, items: int = 30, width: int = 12, seed: int = 0) -> None:
    """Write random features of the items i0, i1, ... in each modality."""
    rng = np.random.default_rng(seed)
    for modality in modalities:
        matrix = rng.standard_normal((items, width)).astype(np.float32)
        FeatureTable(tuple(f"i{i}" for i in range(items)), matrix).save(folder, modality)


def histories_of(file: Path) -> dict[str, list[str]]:
    """User -> items of an ``.inter`` file, in the order of its rows."""
    histories: dict[str, list[str]] = {}
    for line in file.read_text().splitlines()[1:]:
        user, item, *_ = line.split("\t")
        histories.setdefault(user, []).append(item)
    return histories


def as_words(settings: Mapping) -> list[str]:
    """Settings as words of a command, such as --epochs=3."""
    return [f"--{name}={value}" for name, value in settings.items()]
