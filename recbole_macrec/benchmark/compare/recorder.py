"""Keeps in a run's folder what a table and a report need later: the curve while it trains, and the rank of each test target.

Shapes: B rows of a batch, W targets of the row with most, T targets, K the largest topk, N items with padding.
"""
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from recbole_macrec.benchmark.compare.interactions import read_history
from recbole_macrec.benchmark.compare.runs import CODES, CURVE, PROGRESS, RANKS, Ranks, Run, save_codes, write_json
from recbole_macrec.config.plain import plain
from recbole_macrec.trainer.detail import id_rank, item_rank
from recbole_macrec.trainer.epoch_checkpointer import Paused
from recbole_macrec.trainer.resume import make_resumable
from recbole_macrec.trainer.trainer import padded_rows
from recbole_macrec.utils.distributed import current_group, gather_in_order
from recbole_macrec.utils.hardware import peak_host_memory

PROGRESS_SECONDS = 10  # between two writings of how far a run is
SCORES_AT_ONCE = 2**22  # compared with those of the targets


class RunRecorder:
    """Follows one run and writes into its folder; of several processes the first one writes.

    Args:
        run: whose folder is written.
        deadline: ``time.time()`` at which to pause, between two batches or before an evaluation for which the time is short;
            None for never. Something is always done before: a batch, or an evaluation.
        progress: told the share of the epochs done.
    """

    def __init__(self, run: Run, deadline: float | None = None, progress: Callable[[float], None] = lambda share: None):
        self.run, self.deadline, self.progress = run, deadline, progress
        self.curve: list[dict] = []
        self.earlier = {"training": 0.0, "validation": 0.0, "cpu": 0.0}  # seconds of processes that have ended
        self._checkpoint: Path | None = None
        self._rows: dict[str, list[torch.Tensor]] = {}
        self._trained = 0  # epochs trained in this process
        self._parts = None  # of a trainer that can go on
        self._began = self._looked = time.time()
        self._moved = False  # whether this process has done something
        self._told = -math.inf

    def keep_data(self, train, valid, test) -> None:
        """Remember the parts of the data: RecBole's data loaders."""
        self._parts_of_data = [loader._dataset for loader in (train, valid, test)]
        self.dataset = train._dataset

    def watch(self, trainer) -> None:
        """Follow ``trainer``, and let it go on from the folder's newest checkpoint."""
        self.trainer, group = trainer, current_group()
        self._write = write_json if group.first else lambda content, path: None
        self._checkpoint = group.by_first(lambda: self.run.checkpoint_of(trainer))
        if hasattr(trainer, "_train_epoch"):
            self._parts = make_resumable(trainer, self._checkpoint)
            if self._parts:
                self._parts.after_batch = self._after_batch
            self._watch_epochs(trainer)
        self._watch_test(trainer)

    # -- the curve ---------------------------------------------------------------------------------------------------

    def _watch_epochs(self, trainer) -> None:
        train_epoch, valid_epoch = trainer._train_epoch, trainer._valid_epoch

        def watched_train(train_data, epoch_idx, *args, **kwargs):
            if not self._trained:  # the first one here: earlier ones were trained by a process that has ended
                self._go_on(before=epoch_idx)
            self._looked = time.time()
            began, cpu_began = time.perf_counter(), time.process_time()
            losses = train_epoch(train_data, epoch_idx, *args, **kwargs)
            before = self._parts.seconds_before if self._parts else 0.0
            cpu_before = self._parts.cpu_seconds_before if self._parts else 0.0
            self.earlier["training"] += before
            self.earlier["cpu"] += cpu_before
            total = sum(losses) if isinstance(losses, tuple) else losses
            self.curve.append({
                "epoch": epoch_idx,
                "loss": round(float(total) / max(1, len(train_data)), 6) if total is not None else None,
                "seconds": round(before + time.perf_counter() - began, 3),
                "cpu_seconds": round(cpu_before + time.process_time() - cpu_began, 3),
                "valid": None,
                "valid_seconds": None,
            })  # fmt: skip
            self._trained += 1
            self._write(self.curve, self.run.folder / CURVE)
            self._tell(epoch_idx + 1)
            return losses

        def watched_valid(*args, **kwargs):
            self._pause_unless_there_is_time()
            began, cpu_began = time.perf_counter(), time.process_time()
            score, result = valid_epoch(*args, **kwargs)
            if self.curve:
                self.curve[-1] |= {"valid": plain(result), "valid_seconds": round(time.perf_counter() - began, 3)}
                self.curve[-1]["cpu_seconds"] = round(self.curve[-1]["cpu_seconds"] + time.process_time() - cpu_began, 3)
                self._write(self.curve, self.run.folder / CURVE)
            self._moved = True
            return score, result

        trainer._train_epoch, trainer._valid_epoch = watched_train, watched_valid

    def _go_on(self, before: float) -> None:
        """Take over the epochs that a process which has ended trained up to the checkpoint."""
        old = self.run.curve if self._checkpoint and current_group().first else []
        self.curve = [entry for entry in old if entry["epoch"] < before]
        for entry in self.curve:
            self.earlier["training"] += entry["seconds"]
            self.earlier["validation"] += entry["valid_seconds"] or 0
            self.earlier["cpu"] += entry.get("cpu_seconds", 0.0)

    # -- pausing -----------------------------------------------------------------------------------------------------

    def _after_batch(self, epochs: float) -> bool:
        """Whether to pause behind a batch: when the next one would end too late."""
        now, self._moved = time.time(), True
        late = self.deadline is not None and now + (now - self._looked) > self.deadline
        self._looked = now
        self._tell(epochs, always=late)
        return late

    def _tell(self, epochs: float, always: bool = False) -> None:
        self.progress(epochs / max(1, self.trainer.epochs))
        if always or time.perf_counter() - self._told > PROGRESS_SECONDS:
            self._told = time.perf_counter()
            self._write({"epochs": round(epochs, 3), "of": self.trainer.epochs}, self.run.folder / PROGRESS)

    def _pause_unless_there_is_time(self) -> None:
        """Before an evaluation: it takes as long as the longest one so far; the first has to fit into the time that has gone
        by, so that its length is found out by a process that begins with it."""
        if self.deadline is None or not self._parts or not self._moved:
            return
        known = [entry["valid_seconds"] for entry in self.curve if entry["valid_seconds"]]
        if time.time() + (max(known) if known else time.time() - self._began) > self.deadline:
            raise Paused

    # -- the test ----------------------------------------------------------------------------------------------------

    def _watch_test(self, trainer) -> None:
        evaluate, collect = trainer.evaluate, trainer.eval_collector.eval_batch_collect
        state = {"test": False, "training": False}
        fit = trainer.fit

        def watched_fit(*args, **kwargs):
            state["training"] = True
            try:
                result = fit(*args, **kwargs)
            finally:
                state["training"] = False
            if not self._trained:
                self._go_on(before=math.inf)
            return result

        def watched_evaluate(eval_data, *args, **kwargs):
            state["test"] = not state["training"] and bool(eval_data)
            if state["test"]:
                self._pause_unless_there_is_time()
            self._rows = {}
            result = evaluate(eval_data, *args, **kwargs)
            if state["test"] and self.run.keeps_ranks:
                self._finish_test(eval_data)
            return result

        def watched_collect(scores, interaction, positive_u, positive_i):
            if state["test"] and self.run.keeps_ranks:
                self._collect(scores, interaction, positive_u, positive_i)
            return collect(scores, interaction, positive_u, positive_i)

        trainer.fit, trainer.evaluate = watched_fit, watched_evaluate
        trainer.eval_collector.eval_batch_collect = watched_collect

    def _collect(self, scores: torch.Tensor, interaction, positive_u, positive_i) -> None:
        """The batch's users, targets, ranks and lists, from the scores [B, N] that RecBole's metrics read.

        Args:
            positive_u, positive_i: [T], row and item of every target.
        """
        top = torch.topk(scores, max(self.trainer.config["topk"]), dim=-1).indices  # as RecBole's collector does
        users = interaction[self.dataset.uid_field]
        if len(users) != len(scores):  # against sampled negatives, where every candidate names its user
            users = users.unique_consecutive()
        pairs = (positive_u.to(scores.device) * scores.shape[1] + positive_i.to(scores.device)).unique()  # in this order
        row, target = pairs // scores.shape[1], pairs % scores.shape[1]
        model, of_targets = self.trainer.model, {"targets": target, "ranks": []}
        rankings = getattr(model, "last_rankings", {})
        at_once = max(1, SCORES_AT_ONCE // scores.shape[1])
        for rows, items in zip(row.split(at_once), target.split(at_once)):
            of_targets["ranks"].append(full_rank(scores[rows], top[rows], items))
            for name, ranking in rankings.items():
                raw_id = getattr(model, f"raw_id_{model.modalities[0] if name == 'fused' else name}")
                ranking = ranking._replace(items=ranking.items[rows], scores=ranking.scores[rows])
                of_targets.setdefault(f"item_ranks.{name}", []).append(item_rank(ranking, items))
                of_targets.setdefault(f"id_ranks.{name}", []).append(id_rank(ranking, items, raw_id))
        self._rows.setdefault("users", []).append(users.cpu())
        self._rows.setdefault("top", []).append(top.cpu())
        for name, values in of_targets.items():
            values = values if name == "targets" else torch.cat(values)
            self._rows.setdefault(name, []).append(padded_rows(row, values, len(scores)).cpu())

    def _finish_test(self, eval_data) -> None:
        device, several = self.trainer.config["device"], not self.trainer.config["single_spec"]
        most = torch.tensor(max(part.shape[1] for part in self._rows["targets"]), device=device)
        if several:
            torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        rows = {}
        for name, parts in self._rows.items():
            if name not in ("users", "top"):
                parts = [F.pad(part, (0, int(most) - part.shape[1])) for part in parts]
            values = torch.cat(parts)
            rows[name] = gather_in_order(values.to(device), eval_data.sample_size).cpu() if several else values
        self.rows = {name: values.numpy() for name, values in rows.items()}

    # -- the end -----------------------------------------------------------------------------------------------------

    def finish(self) -> dict:
        """Write ranks and codes where the run keeps them; returns what the record gains."""
        gains = {"peak_memory_mib": peak_memory()}
        if self.curve:
            gains["epochs"] = len(self.curve)
        return gains | (self._write_ranks() if self.run.keeps_ranks else {})

    def _write_ranks(self) -> dict:
        rows, dataset = self.rows, self.dataset
        there = rows["targets"] > 0  # [R, W]
        history = read_history(*self._parts_of_data, rows["users"])
        named = {
            kind: {name.split(".", 1)[1]: values[there] for name, values in rows.items() if name.startswith(f"{kind}.")}
            for kind in ("item_ranks", "id_ranks")
        }
        row = there.nonzero()[0]
        Ranks(
            users=np.asarray(dataset.id2token(dataset.uid_field, rows["users"]), dtype=str)[row],
            items=np.asarray(dataset.field2id_token[dataset.iid_field], dtype=str),
            targets=rows["targets"][there],
            ranks=rows["ranks"][there],
            top=rows["top"].astype(np.int32),
            counts=history.counts,
            histories=history.histories,
            rows=row,
            **named,
        ).save(self.run.folder / RANKS)
        ids = getattr(self.trainer.model, "semantic_ids", None)
        if ids is not None:
            save_codes(ids, self.run.folder / CODES)
        checkpoint = Path(getattr(self.trainer, "saved_model_file", ""))
        return {
            "checkpoint": f"saved/{checkpoint.name}" if checkpoint.name else "",
            "epochs": len(self.curve),
            "test_users": len(np.unique(rows["users"])),
            "test_rows": len(rows["users"]),
        }


def full_rank(scores: torch.Tensor, top: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The place of each target [B] in the ranking by ``scores`` [B, N], 1 is best; int64 [B].

    Within the top K it is the target's place in ``top`` [B, K], however equal scores fell there. Below, items of equal
    score are in item order, and none of them is above place K + 1.
    """
    found = top == target.unsqueeze(1)
    own = scores.gather(1, target.unsqueeze(1))
    number = torch.arange(scores.shape[1], device=scores.device)
    before = (scores > own) | ((scores == own) & (number < target.unsqueeze(1)))
    below = (before.sum(1) + 1).clamp(min=top.shape[1] + 1)
    return torch.where(found.any(1), found.int().argmax(1) + 1, below)


def peak_memory() -> dict[str, float | None]:
    """The most memory that this process held, in MiB: of the machine and, where it was used, of the GPU."""
    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_initialized() else None
    return {"host": round(peak_host_memory() / 2**20, 1), "gpu": None if gpu is None else round(gpu, 1)}
