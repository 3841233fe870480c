"""The runs of a comparison: each variant on each dataset with each seed."""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_macrec.benchmark.compare.run_files import write_json
from recbole_macrec.benchmark.compare.run_model import Request, checked_options, prepare_for_model
from recbole_macrec.benchmark.compare.runs import (
    COMPARE,
    FORMAT,
    Comparison,
    RunSpec,
    check_data_of_runs,
    file_name,
    fusions_in,
    fusions_of,
    open_comparison,
    run_folder,
    write_run_spec,
)
from recbole_macrec.config.options import check_dataset, check_model, check_options, has_source, read_config_file
from recbole_macrec.config.schema.base import shown
from recbole_macrec.errors import UserError, nearest
from recbole_macrec.utils.files import remove_temporary_files

FIRST_SEED = 2020  # RecBole's own default
MAX_SEEDS = 1000


@dataclass(frozen=True)
class Variant:
    """A row of the table: a model, with the settings of the variant."""

    label: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Matrix:
    """Variants, datasets and seeds to compare.

    Attributes:
        settings: of all runs; those of a variant take precedence.
        pairs: (label, label) to test, apart from those with a label that is not compared; if none is left, the best label is
            tested against each other label.
        fusions: name -> labels of the fusions that ``pairs`` may name.
    """

    variants: Sequence[Variant]
    datasets: Sequence[str]
    seeds: Sequence[int]
    settings: dict[str, Any]
    pairs: Sequence[tuple[str, str]] = ()
    fusions: dict[str, list[str]] = field(default_factory=dict)

    def check(self, own: Iterable[str] = (), config_files: Iterable[str] = ()) -> None:
        """Check models, datasets and options before anything runs.

        Args:
            own: further options of the command, for messages with the nearest name.
            config_files: the files with options of ``settings``, for messages that name the file.

        Raises:
            UserError: for an unknown, missing or repeated one.
        """
        labels = [variant.label for variant in self.variants]
        for kind, names in (("model", labels), ("dataset", self.datasets), ("seed", self.seeds)):
            if not names:
                raise UserError(f"There is no {kind} to compare; name at least one.")
            if repeated := [name for name in names if list(names).count(name) > 1]:
                raise UserError(f"The {kind} {repeated[0]} is named twice; name it once.")
        folders: dict[str, str] = {}
        for label in labels:
            if (other := folders.setdefault(file_name(label), label)) != label:
                raise UserError(f"The rows '{other}' and '{label}' have the same folder {file_name(label)}; rename one.")
        models = list(dict.fromkeys(variant.model for variant in self.variants))
        for model in models:
            check_model(model)
        for dataset in self.datasets:
            for path in config_files:
                given = read_config_file(path)
                check_options(given, models, dataset, path)
                for option in ("dataset", "model"):
                    if option in given:
                        raise UserError(f"{path} sets {option}, which --{option}s names here; leave it out of the file.")
            check_options(self.settings, models, dataset, "the command line", own)
            if not self.settings.get("source"):
                check_dataset(dataset, self.settings["data_path"], self.settings.get("benchmark_filename") is not None)
            for variant in self.variants:
                check_options(variant.settings, [variant.model], dataset, f"the variant {variant.label}")
                checked_options(variant.model, Request(dataset, (), {**self.settings, **variant.settings}))

    def check_pairs(self) -> None:
        """Raise a UserError if ``pairs`` names a label that is not compared."""
        labels = [variant.label for variant in self.variants]
        rows = [*labels, *fusions_of(self.fusions, labels)]
        for pair in self.pairs:
            for label in pair:
                if label not in rows:
                    raise UserError(f"pairs names {label}, which is not compared.{nearest(label, rows)}")

    def prepare_datasets(self) -> None:
        """Download datasets with a ``source``, with the files that any variant needs."""
        for dataset in self.datasets:
            if has_source(dataset) or self.settings.get("source"):
                for variant in self.variants:
                    prepare_for_model(variant.model, Request(dataset, (), {**self.settings, **variant.settings}))

    def write(self, folder: str | Path, tuned: dict[tuple[str, str], dict[str, Any]] | None = None) -> Comparison:
        """Write the folder of the comparison; existing runs stay as they are.

        Args:
            tuned: (dataset, label) -> settings chosen by tuning.

        Raises:
            UserError: if an existing run has other settings, or the data have changed since any run.
        """
        folder = Path(folder)
        remove_temporary_files(folder)
        for dataset in self.datasets:
            check_data_of_runs(folder, dataset, self.settings.get("data_path"))
            for variant in self.variants:
                for seed in self.seeds:
                    settings = {**self.settings, **variant.settings, **(tuned or {}).get((dataset, variant.label), {})}
                    spec = RunSpec(variant.label, variant.model, dataset, seed, settings)
                    write_run_spec(run_folder(folder, dataset, variant.label, seed), spec)
        content = {
            "format": FORMAT,
            "labels": [variant.label for variant in self.variants],
            "datasets": list(self.datasets),
            "seeds": list(self.seeds),
            "pairs": [list(pair) for pair in self.pairs],
            "fusions": fusions_in(folder),
        }
        write_json(content, folder / COMPARE)
        return open_comparison(folder)


def matrix_settings(request: Request) -> dict[str, Any]:
    """The settings of config files and command line, with an absolute data path, since runs may start in another folder."""
    not_of_all_runs = ("seed", "model", "dataset")
    settings = {name: value for name, value in request.all_settings.items() if name not in not_of_all_runs}
    return settings | {"data_path": str(Path(request.data_path).absolute())}


def first_seed(request: Request) -> int:
    """The option ``seed`` of ``request``, the seed of the first run.

    Raises:
        UserError: if it is not a valid seed.
    """
    seed = request.value("seed", FIRST_SEED)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UserError(f"seed is {shown(seed)}; expected a whole number from 0 to {2**32 - 1}.")
    return seed


def parse_seeds(text: str, request: Request = Request("")) -> list[int]:
    """Parse ``--seeds``: ``5`` means five seeds starting with the option ``seed`` of ``request``, ``1,7`` these two seeds."""
    first = first_seed(request)
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds={text}: expected the number of seeds, such as 5, or the seeds, such as 1,7,42.") from None
    if len(numbers) > 1:
        if not all(0 <= number < 2**32 for number in numbers):
            raise UserError(f"--seeds={shown(text)}; expected seeds from 0 to {2**32 - 1}.")
        if "seed" in request.settings:
            raise UserError(f"--seeds={text} names the seeds, and --seed={first} one more; leave one of the options out.")
        return numbers
    if not 1 <= numbers[0] <= MAX_SEEDS:
        raise UserError(
            f"--seeds={shown(text)} is a number of seeds; expected 1 to {MAX_SEEDS}. For one given seed use --seed."
        )
    return [first + i for i in range(numbers[0])]
