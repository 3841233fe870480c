"""A single run that was interrupted resumes when the same command is given again.

While a run of one model goes on, ``CHECKPOINT_DIR/unfinished/MODEL-DATASET-KEY/`` says where its newest checkpoint is. KEY is a
digest of the final settings (without those that change no result) and of the dataset's atomic files, so the same command finds
its own run, and other settings or other data start anew. The folder goes when the run has ended well: a finished run is not
resumed, the same command runs again, as it always does in RecBole.

        run.json         {"checkpoint": path of the newest checkpoint, once there is one}
        curve.json  progress.json  pretrained.json    as in a comparison, see :mod:`recbole_macrec.benchmark.compare.runs`
        .lock            held by the process of the run: the same command given twice at once makes two runs
"""
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from recbole.config import Config

from recbole_macrec.benchmark.compare.runs import PLACE, PRETRAINED, Run, read_json, write_json
from recbole_macrec.config.plain import plain, plain_config
from recbole_macrec.config.registry import model_names
from recbole_macrec.trainer.checkpoint import load_checkpoint
from recbole_macrec.trainer.trainer import GenerativeTrainer, newest_beside
from recbole_macrec.utils.distributed import current_group
from recbole_macrec.utils.files import remove_unfinished, sha256_of
from recbole_macrec.utils.unique_names import unique_folder

UNFINISHED, POINTER, LOCK = "unfinished", "run.json", ".lock"
ELSEWHERE = (*PLACE, "checkpoint_dir", "device", "log_wandb", "wandb_project", "local_rank")  # settings that change no result


@dataclass(frozen=True)
class SingleRun(Run):
    """The folder of a single run as long as it is unfinished."""

    keeps_ranks = False

    def checkpoint_of(self, trainer) -> Path | None:
        """The checkpoint of this run to resume from, said on the terminal; None where it has to start.

        A model whose semantic IDs are others now, since its features changed, starts anew.
        """
        checkpoint = self.last_checkpoint()
        if checkpoint and isinstance(trainer, GenerativeTrainer):
            written = load_checkpoint(checkpoint)["other_parameter"]
            if written != plain(trainer.model.other_parameter()):
                checkpoint = None
                print("The semantic IDs have changed since this command was interrupted: it starts anew.")
        if checkpoint:
            print(f"Resuming the unfinished run of this command from {checkpoint} (epochs completed: {len(self.curve)}); "
                  "--fresh starts anew.")
        else:
            write_json({"checkpoint": str(newest_beside(trainer.saved_model_file).absolute())}, self.folder / POINTER)
        return checkpoint

    def last_checkpoint(self) -> Path | None:
        path = self._last_checkpoint_named
        return path if path and path.is_file() else None

    @property
    def _last_checkpoint_named(self) -> Path | None:
        pointer = self.folder / POINTER
        return Path(read_json(pointer)["checkpoint"]) if pointer.is_file() else None

    def remove_unfinished_files(self) -> None:
        """Remove what a killed process left half written; the caller holds the lock of the run."""
        remove_unfinished(self.folder)
        if newest := self._last_checkpoint_named:
            for name in (newest.name, newest.name.replace(".last.", ".")):  # the newest checkpoint, and the best one
                remove_unfinished(newest.parent, f"{name}.")


@contextmanager
def unfinished_run(config: Config, processes: int, fresh: bool) -> Iterator[SingleRun]:
    """The unfinished run with the settings and data of ``config``, or a new one; claimed for this process within the block.

    Of several processes the first one claims it, and alone reads and writes its folder.

    Args:
        processes: over which the run is spread.
        fresh: forget the unfinished run.
    """
    root = Path(config["checkpoint_dir"]) / UNFINISHED
    if not current_group().first:
        yield SingleRun(root)
        return
    folder, lock = _claim(root, f"{config['model']}-{config['dataset']}-{key_of(config, processes)}")
    run = SingleRun(folder)
    run.remove_unfinished_files()
    try:
        if fresh:
            for file in [file for file in folder.iterdir() if file.name != LOCK]:
                file.unlink()
        yield run
        if config.model not in model_names() and (checkpoint := run.last_checkpoint()):
            checkpoint.unlink()  # RecBole's own models can't be loaded from it
        shutil.rmtree(folder)
    finally:
        if folder.is_dir() and not run.last_checkpoint() and not (folder / PRETRAINED).is_file():
            shutil.rmtree(folder)
        lock.release()
        with suppress(OSError):  # they are not empty
            root.rmdir()
            root.parent.rmdir()


def key_of(config: Config, processes: int) -> str:
    """What two runs share that end alike: a digest of settings and atomic files."""
    settings = {name: value for name, value in plain_config(config).items() if name not in ELSEWHERE}
    folder = Path(config["data_path"])
    files = {file.name: sha256_of(file) for file in sorted(folder.glob(f"{config['dataset']}.*")) if file.is_file()}
    content = json.dumps([settings, files, processes], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _claim(root: Path, name: str) -> tuple[Path, FileLock]:
    """The folder ``name``, or ``name``-2, ..., of ``root`` that no running process holds, and its lock."""
    while True:
        for folder in [*sorted(root.glob(f"{name}*")), None]:
            folder = folder or unique_folder(root / name)
            lock = FileLock(folder / LOCK)
            try:
                lock.acquire(timeout=0)
                return folder, lock
            except Timeout:
                continue
