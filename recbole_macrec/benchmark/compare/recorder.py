"""Records a run in its folder: learning curve and progress during training, ranks and codes at the end."""
from collections.abc import Callable
from pathlib import Path

import torch

from recbole_macrec.benchmark.compare.ranking_collector import RankingCollector
from recbole_macrec.benchmark.compare.run_callbacks import LearningCurve, PauseAtDeadline, ProgressWriter
from recbole_macrec.benchmark.compare.runs import Run
from recbole_macrec.trainer.callbacks import TrainingCallback
from recbole_macrec.utils.distributed import current_group
from recbole_macrec.utils.hardware import peak_host_memory


class RunRecorder(TrainingCallback):
    """Resumes a run from its newest checkpoint, and writes its folder with further callbacks.

    With several processes only the first one writes.

    Args:
        run: the run, with its folder.
        deadline: see :class:`PauseAtDeadline`.
        progress: see :class:`ProgressWriter`.

    Attributes:
        callbacks: this one and the others.
        curve: the learning curve.
    """

    def __init__(self, run: Run, deadline: float | None = None, progress: Callable[[float], None] = lambda share: None):
        self.run = run
        self.curve = LearningCurve(run)
        self.rankings = RankingCollector() if run.keeps_ranks else None
        self.callbacks: list[TrainingCallback] = [
            self,
            self.curve,
            PauseAtDeadline(deadline, self.curve),
            ProgressWriter(run, progress),
        ]
        if self.rankings:
            self.callbacks.append(self.rankings)

    def on_train_begin(self, trainer, train_data, valid_data):
        checkpoint = current_group().by_first(lambda: self.run.checkpoint_of(trainer))
        self.curve.resumes = checkpoint is not None
        trainer.make_resumable(checkpoint)

    def finish(self, trainer) -> dict:
        """Write ranks and codes if the run keeps them; returns entries for the run's record."""
        entries: dict = {"peak_memory_mib": peak_memory()}
        if self.rankings:
            file = Path(getattr(trainer, "saved_model_file", ""))
            entries["checkpoint"] = f"saved/{file.name}" if file.name else ""
            entries |= self.rankings.write(trainer, self.run.folder)
        return entries


def peak_memory() -> dict[str, float | None]:
    """Peak memory of this process in MiB: ``host``, and ``gpu``, None without one."""
    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_initialized() else None
    return {"host": round(peak_host_memory() / 2**20, 1), "gpu": None if gpu is None else round(gpu, 1)}
