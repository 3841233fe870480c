"""The runs of a comparison: every variant on every dataset with every seed."""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_macrec.benchmark.compare.run import Request, prepare
from recbole_macrec.benchmark.compare.runs import (
    COMPARE,
    FORMAT,
    Comparison,
    RunSpec,
    open_comparison,
    read_json,
    run_folder,
    write_asked,
    write_json,
)
from recbole_macrec.config.options import check_dataset, check_model, check_options, has_source, read_config_file
from recbole_macrec.errors import UserError, nearest
from recbole_macrec.utils.files import remove_unfinished

FIRST_SEED = 2020  # RecBole's own default


@dataclass(frozen=True)
class Variant:
    """A row of the table: a model, with settings of its own where it is a variant of one."""

    label: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Matrix:
    """What to compare.

    Attributes:
        settings: of every run; a variant's own win.
        pairs: (label, label) to test; empty: the best against each other one.
    """

    variants: Sequence[Variant]
    datasets: Sequence[str]
    seeds: Sequence[int]
    settings: dict[str, Any]
    pairs: Sequence[tuple[str, str]] = ()

    def check(self, own: Iterable[str] = ()) -> None:
        """Raise a UserError for anything that nobody knows, before anything runs; ``own`` are further options of the
        command, to say the nearest name."""
        labels = [variant.label for variant in self.variants]
        for what, names in (("model", labels), ("dataset", self.datasets), ("seed", self.seeds)):
            if not names:
                raise UserError(f"There is no {what} to compare; name at least one.")
            if twice := [name for name in names if list(names).count(name) > 1]:
                raise UserError(f"The {what} {twice[0]} is named twice; name it once.")
        models = list(dict.fromkeys(variant.model for variant in self.variants))
        for model in models:
            check_model(model)
        for dataset in self.datasets:
            check_options(self.settings, models, dataset, "the command line", own)
            if not self.settings.get("source"):
                check_dataset(dataset, self.settings["data_path"], self.settings.get("benchmark_filename") is not None)
            for variant in self.variants:
                check_options(variant.settings, [variant.model], dataset, f"the variant {variant.label}")
        for pair in self.pairs:
            for label in pair:
                if label not in labels:
                    raise UserError(f"--pairs names {label}, which is not compared.{nearest(label, labels)}")

    def prepare(self) -> None:
        """Bring datasets with a ``source`` here, as all variants need them."""
        for dataset in self.datasets:
            if has_source(dataset) or self.settings.get("source"):
                for variant in self.variants:
                    prepare(variant.model, Request(dataset, (), {**self.settings, **variant.settings}))

    def lay_out(self, folder: str | Path, tuned: dict[tuple[str, str], dict[str, Any]] | None = None) -> Comparison:
        """Write into ``folder`` what was asked; runs that are there already stay as they are.

        Args:
            tuned: (dataset, label) -> settings that its tuning chose.

        Raises:
            UserError: when one of them was asked with other settings.
        """
        folder = Path(folder)
        remove_unfinished(folder)
        for dataset in self.datasets:
            for variant in self.variants:
                for seed in self.seeds:
                    settings = {**self.settings, **variant.settings, **(tuned or {}).get((dataset, variant.label), {})}
                    spec = RunSpec(variant.label, variant.model, dataset, seed, settings)
                    write_asked(run_folder(folder, dataset, variant.label, seed), spec)
        spec = {
            "format": FORMAT,
            "labels": [variant.label for variant in self.variants],
            "datasets": list(self.datasets),
            "seeds": list(self.seeds),
            "pairs": [list(pair) for pair in self.pairs],
            "fusions": read_json(folder / COMPARE).get("fusions", {}) if (folder / COMPARE).is_file() else {},
        }
        write_json(spec, folder / COMPARE)
        return open_comparison(folder)


def matrix_settings(request: Request, data_path: str) -> dict[str, Any]:
    """The settings of config files and command line, the data path absolute: a run may start anywhere."""
    settings: dict[str, Any] = {}
    for path in request.config_files:
        settings |= read_config_file(path)
    settings |= request.settings
    settings.pop("seed", None)
    return settings | {"data_path": str(Path(data_path).absolute())}


def seeds_of(text: str, first: int = FIRST_SEED) -> list[int]:
    """``5`` is five seeds from ``first`` on, ``1,7`` are these two."""
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds={text}: expected how many, such as 5, or which, such as 1,7,42.") from None
    if len(numbers) > 1:
        return numbers
    if numbers[0] < 1:
        raise UserError(f"--seeds={text}: expected at least 1.")
    return [first + i for i in range(numbers[0])]
