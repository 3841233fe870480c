"""A single run that was interrupted resumes when the same command is given again.

During a run of one model, ``CHECKPOINT_DIR/unfinished/MODEL-DATASET-KEY/`` names its newest checkpoint. KEY is a hash of the
final settings (without those that do not change results) and of the dataset's atomic files: the same command finds its run,
other settings or data start a new one. The folder is removed when the run has finished, so the same command then runs again, as
in RecBole.

        run.json         {"checkpoint": path of the newest checkpoint, which may not exist yet}
        curve.json  progress.json  pretraining/  pretrained.json
                    as in a comparison, see :mod:`recbole_macrec.benchmark.compare.runs`
        .lock            held by the process of the run, so that the same command, given twice at a time, executes two runs
"""
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from filelock import FileLock, Timeout
from recbole.config import Config

from recbole_macrec.benchmark.compare.run_files import read_json, write_json
from recbole_macrec.benchmark.compare.runs import EXECUTION_SETTINGS, PRETRAINED, PRETRAINING, Run
from recbole_macrec.config.plain import plain, plain_config
from recbole_macrec.config.registry import model_names
from recbole_macrec.data.checksums import checksums_of_atomic_files
from recbole_macrec.trainer.checkpoint import load_checkpoint
from recbole_macrec.trainer.trainer import GenerativeTrainer
from recbole_macrec.utils.distributed import current_group
from recbole_macrec.utils.files import remove_temporary_files
from recbole_macrec.utils.unique_names import unique_folder

UNFINISHED, POINTER, LOCK = "unfinished", "run.json", ".lock"
# settings that do not change results
WITHOUT_EFFECT = (*EXECUTION_SETTINGS, "checkpoint_dir", "device", "log_wandb", "wandb_project", "local_rank")


@dataclass(frozen=True)
class SingleRun(Run):
    """The folder of an unfinished single run."""

    keeps_ranks = False

    def checkpoint_of(self, trainer) -> Path | None:
        """The checkpoint to resume from, which is printed; None if the run starts from the beginning.

        A model whose semantic IDs or item features have changed starts from the beginning.
        """
        checkpoint = self.last_checkpoint()
        if checkpoint and isinstance(trainer, GenerativeTrainer):
            saved = load_checkpoint(checkpoint)["other_parameter"]
            if saved != plain(trainer.model.other_parameter()):
                checkpoint = None
                changed = "semantic IDs" if "semantic_ids" in saved else "item features"
                print(f"The {changed} have changed since this command was interrupted: it starts from the beginning.")
        if checkpoint:
            print(f"Resuming the unfinished run of this command from {checkpoint} (epochs completed: {len(self.curve)}); "
                  "--fresh starts from the beginning.")
        else:
            write_json({"checkpoint": str(Path(trainer.newest_model_file).absolute())}, self.folder / POINTER)
        return checkpoint

    def last_checkpoint(self) -> Path | None:
        path = self._named_checkpoint
        return path if path and path.is_file() else None

    @property
    def _named_checkpoint(self) -> Path | None:
        """The path in run.json."""
        pointer = self.folder / POINTER
        return Path(read_json(pointer)["checkpoint"]) if pointer.is_file() else None

    def remove_temporary_files(self) -> None:
        """Remove files that a killed process has not finished writing; the caller holds the lock of the run."""
        remove_temporary_files(self.folder)
        if newest := self._named_checkpoint:
            for name in (newest.name, newest.name.replace(".last.", ".")):  # the newest checkpoint, and the best one
                remove_temporary_files(newest.parent, f"{name}.")


@contextmanager
def unfinished_run(config: Config, processes: int, fresh: bool) -> Iterator[SingleRun]:
    """The unfinished run with the settings and data of ``config``, or a new one; locked for this process within the block.

    With several processes only the first one locks, reads and writes its folder.

    Args:
        processes: number of processes of the run.
        fresh: start from the beginning.
    """
    root = Path(config["checkpoint_dir"]) / UNFINISHED
    if not current_group().first:
        yield SingleRun(root)
        return
    folder, lock = _claim(root, f"{config['model']}-{config['dataset']}-{key_of(config, processes)}")
    run = SingleRun(folder)
    run.remove_temporary_files()
    try:
        if fresh:
            for file in [file for file in folder.iterdir() if file.name not in (LOCK, PRETRAINING)]:
                file.unlink()
        yield run
        if config.model not in model_names() and (checkpoint := run.last_checkpoint()):
            checkpoint.unlink()  # unlike ours, it cannot be loaded as a model
        shutil.rmtree(folder)
    finally:
        if folder.is_dir() and not run.last_checkpoint() and not (folder / PRETRAINED).is_file():
            shutil.rmtree(folder)
        lock.release()
        with suppress(OSError):  # not empty
            root.rmdir()
            root.parent.rmdir()


def key_of(config: Config, processes: int) -> str:
    """Hash of the settings and atomic files, equal for runs with equal results."""
    settings = {name: value for name, value in plain_config(config).items() if name not in WITHOUT_EFFECT}
    files = checksums_of_atomic_files(Path(config["data_path"]), config["dataset"])
    content = json.dumps([settings, files, processes], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _claim(root: Path, name: str) -> tuple[Path, FileLock]:
    """Lock the first folder ``name``, ``name``-2, ... of ``root`` that no running process has locked; returns it and its
    lock."""
    while True:
        for folder in [*sorted(root.glob(f"{escape(name)}*")), None]:
            folder = folder or unique_folder(root / name)
            lock = FileLock(folder / LOCK)
            try:
                lock.acquire(timeout=0)
                return folder, lock
            except Timeout:
                continue
