"""The folder of a comparison: what lies where, and how to read it.

    DIR/
      compare.json                    what was asked: labels, datasets, seeds, pairs, each label's model and settings, fusions
      table.md  .tex  .csv  .json     the tables, written anew after every call (table.json holds the tests as well)
      study.md  .json                 of a study: its table, and (json) its figures as data
      report.html                     the page that the command ``report`` makes
      figures/                        PNG and PDF of studies and reports
      runs/DATASET/LABEL/seed-SEED/   one run (a label is a model's name, or a variant's such as "w/o L_con")
        asked.json     label, dataset, model, seed and settings of this run
        curve.json     one entry per epoch trained so far: {"epoch": 0, "loss": mean over batches, "seconds": of training,
                       "valid": {"ndcg@10": ...} or null, "valid_seconds": ... or null, "cpu_seconds": of both, all
                       threads}; grows while the run goes on
        progress.json  while the run is unfinished: {"epochs": 2.25, "of": 20}
        log.txt        everything the run printed
        saved/         checkpoints; the best epoch's stays, ``.last.pth`` is there while the run is unfinished
        ranks.npz      test rows one by one, see :class:`Ranks`
        codes.npz      models with semantic IDs: codes.MODALITY and raw_codes.MODALITY [N, L], row i is items[i + 1]
        pretrained.json  S3Rec: the record of its pre-training
        result.json    exists exactly when the run has ended well, see :attr:`Run.result`
        failure.json   {"error": one sentence} when it ended otherwise; the next call tries again
      tune/DATASET/LABEL/try-NNN/     a run folder per try of the tuning; try-000 is without tuning
      tune/DATASET/LABEL/best.json    the settings chosen, their validation score, every try

Characters of a label that a file name should not have become ``-``; asked.json holds the label itself.
"""
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from recbole_macrec.config.options import value_of
from recbole_macrec.errors import UserError
from recbole_macrec.utils.files import atomic_write, remove_unfinished

FORMAT = 1
PLACE = ("data_path", "gpu_id", "use_gpu", "show_progress", "state", "worker")  # settings that change no result
COMPARE, RUNS, TUNE, FIGURES = "compare.json", "runs", "tune", "figures"
ASKED, CURVE, PROGRESS, LOG, SAVED, RANKS, CODES, RESULT, FAILURE, PRETRAINED = (
    "asked.json", "curve.json", "progress.json", "log.txt", "saved", "ranks.npz", "codes.npz", "result.json", "failure.json",
    "pretrained.json",
)  # fmt: skip


@dataclass(frozen=True)
class RunSpec:
    """One run: its label in the tables, what RecBole runs, and the settings."""

    label: str
    model: str
    dataset: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The run in messages."""
        return f"{self.label} on {self.dataset}, seed {self.seed}"


@dataclass(frozen=True)
class Ranks:
    """The test rows of a run; R rows, T targets, K = the largest topk, N items with padding (item 0).

    A row is what RecBole's metrics average over: one test interaction for a sequential model, one user with all test items
    for any other. So a user may have several rows, and a row several targets.

    Attributes:
        users: [T] tokens.
        items: [N] tokens; the other fields number items by it.
        targets: [T] the withheld items, row by row, in item order within a row.
        ranks: [T] their places in the full ranking, 1 is best; equal scores count as RecBole's top-k breaks them, and
            below the top K by item number.
        top: [R, K] the K best items, best first.
        counts: [N] how often an item occurs in the training part.
        histories: R arrays, the items before the targets, oldest first, not cut to the length a model sees.
        item_ranks, id_ranks: of generative models, ranking name ("fused" and each modality) -> [T], the place of the
            target among what the beams found (every item with ``decode: exact``), and of its ID among the distinct IDs;
            0 is absent.
        rows: [T] the row of each target, from 0, rising; left out where every row has one target.
    """

    users: np.ndarray
    items: np.ndarray
    targets: np.ndarray
    ranks: np.ndarray
    top: np.ndarray
    counts: np.ndarray
    histories: list[np.ndarray]
    item_ranks: dict[str, np.ndarray] = field(default_factory=dict)
    id_ranks: dict[str, np.ndarray] = field(default_factory=dict)
    rows: np.ndarray | None = None

    def __post_init__(self):
        if self.rows is None:
            object.__setattr__(self, "rows", np.arange(len(self.users)))

    def keys(self) -> list[tuple]:
        """What each row is about, the same in every run with the same test rows: user, targets as tokens, and how many
        equal rows come before it; [R]."""
        tokens = np.split(self.items[self.targets], np.flatnonzero(np.diff(self.rows)) + 1) if len(self.rows) else []
        seen: dict[tuple, int] = {}
        keys = []
        for first, targets in zip(np.unique(self.rows, return_index=True)[1].tolist(), tokens):
            row = (str(self.users[first]), tuple(sorted(targets.tolist())))
            seen[row] = seen.get(row, -1) + 1
            keys.append((*row, seen[row]))
        return keys

    def single(self) -> "Ranks":
        """The same with every target in a row of its own."""
        rows = self.rows.tolist()
        return replace(self, top=self.top[self.rows], histories=[self.histories[row] for row in rows], rows=None)

    def save(self, path: Path) -> None:
        arrays = {name: getattr(self, name) for name in ("users", "items", "targets", "ranks", "top", "counts", "rows")}
        arrays["history"] = np.concatenate([*self.histories, np.zeros(0, np.int64)]).astype(np.int32)
        arrays["history_ends"] = np.cumsum([len(history) for history in self.histories])
        arrays |= {f"item_ranks.{name}": ranks for name, ranks in self.item_ranks.items()}
        arrays |= {f"id_ranks.{name}": ranks for name, ranks in self.id_ranks.items()}
        _save_arrays(path, arrays)

    @classmethod
    def load(cls, path: Path) -> "Ranks":
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        histories = np.split(arrays.pop("history"), arrays.pop("history_ends")[:-1])
        named: dict[str, dict] = {"item_ranks": {}, "id_ranks": {}}
        for key in [key for key in arrays if "." in key]:
            kind, name = key.split(".", 1)
            named[kind][name] = arrays.pop(key)
        return cls(histories=histories, **arrays, **named)


@dataclass(frozen=True)
class Run:
    """One run of a comparison, finished or not."""

    folder: Path

    @cached_property
    def spec(self) -> RunSpec:
        return RunSpec(**read_json(self.folder / ASKED))

    @property
    def finished(self) -> bool:
        return (self.folder / RESULT).is_file()

    @property
    def error(self) -> str | None:
        """Why the run failed, in one sentence; None when it did not."""
        path = self.folder / FAILURE
        return read_json(path)["error"] if path.is_file() and not self.finished else None

    @cached_property
    def result(self) -> dict:
        """Of a finished run: model, dataset, seed, settings, versions, commit, hardware, parameters, epochs;
        ``test_result`` and ``best_valid_result`` (metric -> value, item level), ``test_detail`` (ranking name ->
        {"item": metrics, "id": metrics}, None for RecBole's models), ``semantic_ids`` (modality -> statistics:
        collision_rate, usage and perplexity per layer, ...), ``precision`` (training and evaluation: fp32, bf16 or fp16), ``seconds`` (data, training, validation, test, total; cpu: all threads),
        ``users_per_second`` ranked in the test, ``peak_memory_mib`` ({"host": ..., "gpu": ... or null}), ``checkpoint``
        (of the best epoch, relative to the run's folder).
        """
        if not self.finished:
            raise UserError(f"Run {self.folder} is not finished; call the same compare again to finish it.")
        return read_json(self.folder / RESULT)

    @property
    def curve(self) -> list[dict]:
        """The learning curve; empty where the model has none."""
        path = self.folder / CURVE
        return read_json(path) if path.is_file() else []

    @property
    def _epochs(self) -> dict | None:
        try:
            return json.loads((self.folder / PROGRESS).read_text(encoding="utf-8"))
        except FileNotFoundError:  # not begun, or finished just now
            return None

    @property
    def share(self) -> float:
        """The share of the epochs done, as far as the run has written it."""
        done = self._epochs
        return done["epochs"] / max(1, done["of"]) if done else float(self.finished)

    @property
    def progress(self) -> str:
        """How far an unfinished run is, in words."""
        done = self._epochs
        if not done:
            return "not begun"
        words = f"{done['epochs']:.3g} of {done['of']} epochs"
        scored = [entry["valid"] for entry in self.curve if entry["valid"]]
        if not scored:
            return words
        metric = list(scored[0])[-1]
        return f"{words}, best validation {metric} {max(valid[metric] for valid in scored):.4f}"

    @property
    def ranks(self) -> Ranks:
        return Ranks.load(self.folder / RANKS)

    @property
    def codes(self) -> dict[str, dict[str, np.ndarray]]:
        """{"codes": {modality: [N, L]}, "raw_codes": {modality: [N, L]}}; both empty without semantic IDs."""
        found: dict[str, dict] = {"codes": {}, "raw_codes": {}}
        path = self.folder / CODES
        if path.is_file():
            with np.load(path, allow_pickle=False) as file:
                for key in file.files:
                    kind, modality = key.split(".", 1)
                    found[kind][modality] = file[key]
        return found

    keeps_ranks = True  # whether test rows and codes are written as well

    def checkpoint_of(self, trainer) -> Path | None:
        """The checkpoint that ``trainer`` resumes from; None where it has to start."""
        return self.last_checkpoint()

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint to go on from; None where a run has to begin."""
        files = sorted((self.folder / SAVED).glob("*.last.pth"), key=lambda path: path.stat().st_mtime)
        return files[-1] if files else None


@dataclass(frozen=True)
class Comparison:
    """A comparison's folder.

    Attributes:
        labels, datasets, seeds: as asked, in the order of the tables.
        pairs: (label, label) to test against each other; empty: the best against each other one.
        runs: every run asked for, in the order dataset, label, seed.
    """

    folder: Path
    labels: list[str]
    datasets: list[str]
    seeds: list[int]
    pairs: list[tuple[str, str]]
    runs: list[Run]

    def of(self, dataset: str, label: str) -> list[Run]:
        """The finished runs of a label on a dataset, one a seed."""
        return [r for r in self.runs if (r.spec.dataset, r.spec.label) == (dataset, label) and r.finished]

    @property
    def unfinished(self) -> list[Run]:
        return [run for run in self.runs if not run.finished]


def open_comparison(folder: str | Path) -> Comparison:
    """Read a comparison's folder.

    Raises:
        UserError: when it is none.
    """
    folder = Path(folder)
    if not (folder / COMPARE).is_file():
        raise UserError(f"{folder} holds no {COMPARE}: name the --output folder of a comparison.")
    spec = read_json(folder / COMPARE)
    if spec["format"] != FORMAT:
        raise UserError(f"{folder / COMPARE} has format {spec['format']}, expected {FORMAT}: compare again.")
    fusions = [name for name, models in spec.get("fusions", {}).items() if set(models) <= set(spec["labels"])]
    labels, pairs = [*spec["labels"], *fusions], [tuple(pair) for pair in spec["pairs"]]
    places = product(spec["datasets"], labels, spec["seeds"])
    runs = [(label, Run(run_folder(folder, dataset, label, seed))) for dataset, label, seed in places]
    runs = [run for label, run in runs if label in spec["labels"] or run.finished]  # the command ``fuse`` makes the others
    return Comparison(folder, labels, spec["datasets"], spec["seeds"], pairs, runs)


def add_fusion(folder: Path, name: str, models: list[str]) -> None:
    """Make the fusion ``name`` of the labels ``models`` a row of the comparison in ``folder``."""
    spec = read_json(folder / COMPARE)
    write_json({**spec, "fusions": {**spec.get("fusions", {}), name: models}}, folder / COMPARE)


def run_folder(folder: Path, dataset: str, label: str, seed: int) -> Path:
    return folder / RUNS / dataset / file_name(label) / f"seed-{seed}"


def file_name(label: str) -> str:
    """A label as the name of a file or folder."""
    return re.sub(r"[^\w.+=-]+", "-", label).strip("-.") or "run"


def write_asked(folder: Path, spec: RunSpec) -> Run:
    """Make the folder of a run, or check that the one there was asked the same, wherever and however it runs.

    Raises:
        UserError: naming the first setting that differs.
    """
    remove_unfinished(folder, ASKED)
    path, wanted = folder / ASKED, json.loads(json.dumps(asdict(spec), default=str))
    if path.is_file():
        if differing := list(_differences(read_json(path), wanted)):
            raise UserError(f"{folder} was begun with other settings: {differing[0]}. Give them again, or another --output.")
    write_json(wanted, path)
    return Run(folder)


def _differences(old: dict, new: dict) -> Iterator[str]:
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b)
        elif a != b and (value_of(a) if isinstance(a, str) else a) != b and key not in PLACE:
            yield f"{key} was {a!r} and is {b!r} now"


def read_json(path: Path) -> dict:
    """A JSON file of the folder; a UserError when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}); delete it and compare again.") from None


def write_json(content, path: str | Path) -> Path:
    """Write ``content`` to ``path`` whole or not at all; the folder is made if missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as fresh:
        fresh.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def save_codes(ids, path: Path) -> None:
    """Write the ``SemanticIDs`` of a run."""
    arrays = {f"codes.{m}": codes for m, codes in ids.codes.items()}
    _save_arrays(path, arrays | {f"raw_codes.{m}": codes for m, codes in ids.raw_codes.items()})


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with atomic_write(path) as fresh, open(fresh, "wb") as file:
        np.savez_compressed(file, **arrays)
