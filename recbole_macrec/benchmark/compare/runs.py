"""The folder of a comparison: its files, and how to read them.

    DIR/
      compare.json                    the request: labels, datasets, seeds and pairs; and fusions of labels
      table.md  .tex  .csv  .json     the tables, written again after every call (table.json also contains the tests)
      study.md  .json                 of a study: its table, and (json) the data of its figures
      report.html                     the page that the command ``report`` writes
      figures/                        PNG and PDF of studies and reports
      runs/DATASET/LABEL/seed-SEED/   one run (a label is a model's name, or a variant's such as "w/o L_con")
        run_spec.json  label, dataset, model, seed and settings of this run, and checksums of its data
        curve.json     one entry per epoch trained so far: {"epoch": 0, "loss": mean over batches, "seconds": of training,
                       "valid": {"ndcg@10": ...} or null, "valid_seconds": ... or null, "cpu_seconds": of both, all
                       threads}; written during the run
        progress.json  while the run is unfinished: {"epochs": 2.25, "of": 20}
        log.txt        everything the run printed
        saved/         checkpoints: of the best epoch, and ``.last.pth`` while the run is unfinished
        ranks.npz      the test rows, see :class:`~recbole_macrec.benchmark.compare.ranks.Ranks`
        fusion_SPLIT.npz  after ``fuse``, for the next fusion: the best items and scores of this run's model
        codes.npz      models with semantic IDs: codes.MODALITY and raw_codes.MODALITY [N, L], row i is items[i + 1]
        pretraining/     S3Rec: checkpoints of its pre-training, while it runs
        pretrained.json  S3Rec: the record of its pre-training
        result.json    exists if and only if the run has finished, see :attr:`Run.result`
        failure.json   {"error": one sentence} if the run failed; the next call tries again
      tune/DATASET/LABEL/try-NNN/     a run folder for each try of the tuning; try-000 has the default settings
      tune/DATASET/LABEL/best.json    the chosen settings, their validation score, and the score of every try

Characters of a label that do not belong in a file name become ``-``; run_spec.json contains the label itself.
"""
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from recbole.evaluator import smaller_metrics

from recbole_macrec.benchmark.compare.ranks import Ranks
from recbole_macrec.benchmark.compare.run_files import load_arrays, read_json, read_record, save_arrays, write_json
from recbole_macrec.config.options import PACKAGED_DATASET
from recbole_macrec.data.checksums import checksums_of_dataset
from recbole_macrec.errors import UserError
from recbole_macrec.utils.files import remove_temporary_files

FORMAT = 1
# settings of where and how a run is executed, which do not change its results
EXECUTION_SETTINGS = ("data_path", "gpu_id", "use_gpu", "show_progress", "state")
COMPARE, RUNS, TUNE, FIGURES, STUDY = "compare.json", "runs", "tune", "figures", "study.json"
RUN_SPEC, CURVE, PROGRESS, LOG, SAVED, RANKS, CODES, RESULT, FAILURE, PRETRAINED = (
    "run_spec.json", "curve.json", "progress.json", "log.txt", "saved", "ranks.npz", "codes.npz", "result.json", "failure.json",
    "pretrained.json",
)  # fmt: skip
PRETRAINING = "pretraining"
BEST, FIRST_TRY = "best.json", "try-000"  # of a tuning
MISSING = object()  # a setting that is not set, which differs from None


@dataclass(frozen=True)
class RunSpec:
    """One run: its label in the tables, and the model, dataset, seed and settings that RecBole runs.

    Attributes:
        data: file -> SHA-256 of the dataset's files when the run was created; None in older folders. Specifications that
            differ in it alone are equal; :func:`check_data` refuses changed files.
    """

    label: str
    model: str
    dataset: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, str] | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """Name of the run in messages."""
        return f"{self.label} on {self.dataset}, seed {self.seed}"

    @property
    def settings_with_effect(self) -> dict[str, Any]:
        """The settings without :data:`EXECUTION_SETTINGS`."""
        return {name: value for name, value in self.settings.items() if name not in EXECUTION_SETTINGS}


@dataclass(frozen=True)
class Run:
    """One run of a comparison, finished or not."""

    folder: Path

    @cached_property
    def spec(self) -> RunSpec:
        path = self.folder / RUN_SPEC
        try:
            return RunSpec(**read_json(path))
        except TypeError as error:  # a missing or unknown key
            raise UserError(
                f"{path} is not the record of a run ({error}); delete {self.folder} and run the comparison again."
            ) from None

    @property
    def finished(self) -> bool:
        return (self.folder / RESULT).is_file()

    @property
    def error(self) -> str | None:
        """The reason why the run failed, in one sentence; None if it did not fail."""
        path = self.folder / FAILURE
        return read_json(path)["error"] if path.is_file() and not self.finished else None

    def fail(self, reason: str) -> None:
        """Write failure.json."""
        write_json({"error": reason}, self.folder / FAILURE)

    @cached_property
    def result(self) -> dict:
        """The record of a finished run: model, dataset, seed, settings, versions, commit, hardware, parameters, epochs, and

        - ``test_result`` and ``best_valid_result``: metric -> value, by item;
        - ``test_detail``: ranking name -> {"item": metrics, "id": metrics}, None for RecBole's models;
        - ``semantic_ids``: modality -> statistics (collision_rate, usage and perplexity per layer, ...);
        - ``precision`` of training and evaluation: fp32, bf16 or fp16;
        - ``seconds``: data, training, validation, test, total, and cpu (all threads);
        - ``users_per_second``: users ranked per second in the test;
        - ``peak_memory_mib``: {"host": ..., "gpu": ... or null};
        - ``checkpoint``: of the best epoch, relative to the run's folder.

        Raises:
            UserError: if the run is not finished.
        """
        if not self.finished:
            raise UserError(f"Run {self.folder} is not finished; give the same command again to finish it.")
        return read_record(self.folder / RESULT, ("test_result",))

    @property
    def curve(self) -> list[dict]:
        """The learning curve; empty if the model has none."""
        path = self.folder / CURVE
        return read_json(path, list) if path.is_file() else []

    @property
    def _epochs(self) -> dict | None:
        try:
            return json.loads((self.folder / PROGRESS).read_text(encoding="utf-8"))
        except FileNotFoundError:  # not started, or finished just now
            return None

    @property
    def fraction_complete(self) -> float:
        """The fraction of the epochs that are complete, according to progress.json."""
        progress = self._epochs
        return progress["epochs"] / max(1, progress["of"]) if progress else float(self.finished)

    @property
    def progress(self) -> str:
        """Progress of an unfinished run, as text."""
        progress = self._epochs
        if not progress:
            return "not started"
        text = f"{shown_epochs(progress['epochs'])} of {progress['of']} epochs"
        validations = [entry["valid"] for entry in self.curve if entry["valid"]]
        if not validations:
            return text
        metric = str(self.spec.settings.get("valid_metric", "")).lower()
        if metric not in validations[0]:  # not in the settings of the comparison
            metric = list(validations[0])[-1]
        best = min if metric.partition("@")[0] in smaller_metrics else max
        return f"{text}, best validation {metric} {best(valid[metric] for valid in validations):.4f}"

    def fuses(self, runs: Sequence["Run"]) -> bool:
        """Whether this finished fusion used the current checkpoints of ``runs``; true if its record names no checkpoints."""
        checkpoints = self.result.get("fusion", {}).get("checkpoints")
        if not all(run.finished for run in runs):
            return False
        return checkpoints is None or checkpoints == [run.result["checkpoint"] for run in runs]

    @property
    def ranks(self) -> Ranks:
        return Ranks.load(self.folder / RANKS)

    @property
    def codes(self) -> dict[str, dict[str, np.ndarray]]:
        """{"codes": {modality: [N, L]}, "raw_codes": {modality: [N, L]}}; both empty without semantic IDs."""
        found: dict[str, dict] = {"codes": {}, "raw_codes": {}}
        path = self.folder / CODES
        if path.is_file():
            for key, array in load_arrays(path).items():
                kind, _, modality = key.partition(".")
                found.setdefault(kind, {})[modality] = array
        return found

    keeps_ranks = True  # whether ranks.npz and codes.npz are written

    def checkpoint_of(self, trainer) -> Path | None:
        """The checkpoint that ``trainer`` resumes from; None if it starts from the beginning."""
        return self.last_checkpoint()

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint; None if there is none."""
        files = sorted((self.folder / SAVED).glob("*.last.pth"), key=lambda path: path.stat().st_mtime)
        return files[-1] if files else None


@dataclass(frozen=True)
class Comparison:
    """A comparison's folder.

    Attributes:
        labels, datasets, seeds: in the order of the tables.
        pairs: (label, label) to test against each other, see :class:`Matrix`.
        runs: all runs, ordered by dataset, label and seed.
        fusions: those of ``labels`` that the command ``fuse`` added.
        data_path: folder of the datasets, which may have been moved since the runs; None: that of each run.
    """

    folder: Path
    labels: list[str]
    datasets: list[str]
    seeds: list[int]
    pairs: list[tuple[str, str]]
    runs: list[Run]
    fusions: list[str]
    data_path: str | None = None

    @property
    def trained_labels(self) -> list[str]:
        """The labels without fusions."""
        return [label for label in self.labels if label not in self.fusions]

    def of(self, dataset: str, label: str) -> list[Run]:
        """The finished runs of a label on a dataset, one for each seed."""
        return [r for r in self.runs if (r.spec.dataset, r.spec.label) == (dataset, label) and r.finished]

    @property
    def unfinished(self) -> list[Run]:
        return [run for run in self.runs if not run.finished]

    @property
    def waiting(self) -> list[Run]:
        """The unfinished runs that have not failed."""
        return [run for run in self.unfinished if not run.error]

    def other_results(self) -> list[str]:
        """The labels, datasets and seeds of finished runs in the folder that are not among ``runs``."""
        folders = {run.folder for run in self.runs}
        names = []
        for path in sorted(self.folder.glob(f"{RUNS}/*/*/*/{RESULT}")):
            if path.parent not in folders:
                spec = Run(path.parent).spec
                names += [spec.label] if spec.label not in self.labels else []
                names += [spec.dataset] if spec.dataset not in self.datasets else []
                names += [f"seed {spec.seed}"] if spec.seed not in self.seeds else []
        return list(dict.fromkeys(names))


def open_comparison(folder: str | Path, data_path: str | None = None) -> Comparison:
    """Read the folder of a comparison.

    Raises:
        UserError: if it is not one.
    """
    folder = Path(folder)
    if not (folder / COMPARE).is_file():
        inner = ", ".join(str(path.parent) for path in sorted(folder.glob(f"*/{COMPARE}")))
        expected = f"one of the comparisons in it: {inner}" if inner else "the --output folder of a comparison"
        raise UserError(f"{folder} has no {COMPARE}; expected {expected}.")
    spec = read_record(folder / COMPARE, ("format", "labels", "datasets", "seeds", "pairs"))
    if spec["format"] != FORMAT:
        raise UserError(f"{folder / COMPARE} has format {spec['format']}, expected {FORMAT}; run the comparison again.")
    fusions = fusions_of(spec.get("fusions", {}), spec["labels"])
    labels, pairs = [*spec["labels"], *fusions], [tuple(pair) for pair in spec["pairs"]]
    runs = []
    for dataset, label, seed in product(spec["datasets"], labels, spec["seeds"]):
        run = Run(run_folder(folder, dataset, label, seed))
        if label in fusions:
            fused = [Run(run_folder(folder, dataset, model, seed)) for model in spec["fusions"][label]]
            if not (run.finished and run.fuses(fused)):  # the command ``fuse`` writes it
                continue
        runs.append(run)
    return Comparison(folder, labels, spec["datasets"], spec["seeds"], pairs, runs, fusions, data_path)


def fusions_in(folder: str | Path) -> dict[str, list[str]]:
    """The fusions that the command ``fuse`` added to the comparison in ``folder``, name -> models; empty without one."""
    path = Path(folder) / COMPARE
    return read_json(path).get("fusions", {}) if path.is_file() else {}


def fusion_name(labels: Iterable[str]) -> str:
    """The label of the fusion of ``labels``."""
    return " + ".join(labels)


def fusions_of(fusions: dict[str, list[str]], labels: Iterable[str]) -> list[str]:
    """The names of those ``fusions`` whose models are all among ``labels``."""
    return [name for name, models in fusions.items() if set(models) <= set(labels)]


def add_fusion(folder: Path, name: str, models: list[str]) -> None:
    """Add the fusion ``name`` of the labels ``models`` as a row of the comparison in ``folder``."""
    spec = read_json(folder / COMPARE)
    write_json({**spec, "fusions": {**spec.get("fusions", {}), name: models}}, folder / COMPARE)


def run_folder(folder: Path, dataset: str, label: str, seed: int) -> Path:
    """The folder of a run of the comparison in ``folder``."""
    return folder / RUNS / dataset / file_name(label) / f"seed-{seed}"


def shown_epochs(epochs: float) -> str:
    """A number of epochs as text, with at least three significant digits and never as a power of ten."""
    return f"{epochs:.3g}" if epochs < 100 else f"{epochs:.0f}"


def file_name(label: str) -> str:
    """File name of a label."""
    return re.sub(r"[^\w.+=-]+", "-", label).strip("-.") or "run"


def write_run_spec(folder: Path, spec: RunSpec) -> Run:
    """Create the folder of a run, or check that an existing one has the same specification and data.

    Settings in :data:`EXECUTION_SETTINGS` may differ. The specification of a finished run stays as it is, since its results
    belong to it.

    Raises:
        UserError: if another setting or a file of the dataset differs; the message names the first one.
    """
    remove_temporary_files(folder, RUN_SPEC)
    spec = replace(spec, data=current_data(spec))
    old, new = folder / RUN_SPEC, json.loads(json.dumps(asdict(spec), default=str))
    if old.is_file():
        earlier = read_json(old)
        check_data(Run(folder).spec, spec)
        if differing := list(_differences({**earlier, "data": new["data"]}, new)):
            raise UserError(
                f"{folder} was started with other settings: {differing[0]}. Give the same settings, or another --output."
            )
    run = Run(folder)
    if not (run.finished and old.is_file()):
        write_json(new, folder / RUN_SPEC)
    return run


def current_data(spec: RunSpec, data_path: str | None = None) -> dict[str, str] | None:
    """File -> SHA-256 of the files of the dataset of ``spec``; None without such files, as for datasets in RecBole.

    Args:
        data_path: the folder with the dataset's folder; None: that of the settings.
    """
    path = data_path or spec.settings.get("data_path")
    if path is None or spec.dataset == PACKAGED_DATASET:
        return None
    return checksums_of_dataset(Path(path) / spec.dataset, spec.dataset) or None


def check_data_of_runs(folder: Path, dataset: str, data_path: str | None) -> None:
    """Raise a UserError if files of ``dataset`` have changed since a run on it in the comparison ``folder`` was created."""
    for file in sorted((folder / RUNS / dataset).glob(f"*/*/{RUN_SPEC}")):
        spec = Run(file.parent).spec
        check_data(spec, replace(spec, data=current_data(spec, data_path)))


def check_data(old: RunSpec, new: RunSpec) -> None:
    """Raise a UserError if files of the dataset of a run have changed since it was created.

    New features and semantic IDs are no change; in older folders their checksums are missing.
    """
    if not old.data or not new.data:
        return
    known = old.data | {name: checksum for name, checksum in new.data.items() if "/" not in name}
    if changed := [name for name in known if old.data.get(name) != new.data.get(name)]:
        raise UserError(
            f"{old.name} was started with other data: {changed[0]} has changed since. Results on different data can't be "
            "compared; restore the file, or give another --output."
        )


def _differences(old: dict, new: dict) -> Iterator[str]:
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key, MISSING), new.get(key, MISSING)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b)
        elif a != b and key not in EXECUTION_SETTINGS:
            yield f"{key} was {_described(a)} and is {_described(b)} now"


def _described(value: Any) -> str:
    return "not set" if value is MISSING else repr(value)


def save_codes(ids, path: Path) -> None:
    """Write the ``SemanticIDs`` of a run."""
    arrays = {f"codes.{m}": codes for m, codes in ids.codes.items()}
    save_arrays(path, arrays | {f"raw_codes.{m}": codes for m, codes in ids.raw_codes.items()})
