"""Keeps in a run's folder what a table and a report need later: the curve while it trains, and each test user's rank.

Legend: B rows of a batch, K the largest topk, N items with padding.
"""
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch

from recbole_macrec import plugin
from recbole_macrec.benchmark.runs import CODES, CURVE, RANKS, Ranks, Run, save_codes, write_json
from recbole_macrec.distributed import gather_in_order
from recbole_macrec.errors import UserError
from recbole_macrec.trainer.detail import id_rank, item_rank
from recbole_macrec.trainer.resume import make_resumable

HELD_OUT = 2  # leave-one-out: a user's last item is the test target, the one before it validation


class Paused(Exception):
    """The run was asked to stop at a checkpoint, from which it can go on."""


class Keeper:
    """Follows one run and writes into its folder.

    Args:
        run: whose folder is written.
        deadline: ``time.time()`` after which no further epoch is begun; None for never. At least one epoch is trained.
        progress: told the share of the epochs done, after every epoch.
    """

    def __init__(self, run: Run, deadline: float | None = None, progress: Callable[[float], None] = lambda share: None):
        self.run, self.deadline, self.progress = run, deadline, progress
        self.curve: list[dict] = []
        self.earlier = {"training": 0.0, "validation": 0.0}  # seconds of processes that have ended
        self._checkpoint = run.last_checkpoint()
        self._rows: dict[str, list[torch.Tensor]] = {}
        self._trained = 0  # epochs trained in this process

    def keep_dataset(self, dataset) -> None:
        """Remember who took what, before RecBole splits and augments it."""
        fields = [dataset.uid_field, dataset.iid_field]
        order = [dataset.uid_field, dataset.time_field] if dataset.time_field in dataset.inter_feat else fields[:1]
        self.dataset = dataset
        self._taken = dataset.inter_feat.sort_values(order, kind="stable")[fields].to_numpy()

    def watch(self, trainer) -> None:
        """Follow ``trainer``, and let it go on from the folder's newest checkpoint."""
        self.trainer = trainer
        writes = trainer.config["single_spec"] or trainer.config["local_rank"] == 0
        self._write = write_json if writes else lambda content, path: None
        if hasattr(trainer, "_train_epoch"):
            if make_resumable(trainer, self._checkpoint):
                self._watch_end(trainer)
            self._watch_epochs(trainer)
        self._watch_test(trainer)

    # -- the curve ---------------------------------------------------------------------------------------------------

    def _watch_epochs(self, trainer) -> None:
        train_epoch, valid_epoch = trainer._train_epoch, trainer._valid_epoch

        def watched_train(train_data, epoch_idx, *args, **kwargs):
            if not self._trained:  # the first one here: earlier ones were trained by a process that has ended
                self._go_on(before=epoch_idx)
            began = time.perf_counter()
            losses = train_epoch(train_data, epoch_idx, *args, **kwargs)
            total = sum(losses) if isinstance(losses, tuple) else losses
            self.curve.append({
                "epoch": epoch_idx,
                "loss": round(float(total) / max(1, len(train_data)), 6) if total is not None else None,
                "seconds": round(time.perf_counter() - began, 3),
                "valid": None,
                "valid_seconds": None,
            })  # fmt: skip
            self._trained += 1
            self._epoch_done(epoch_idx)
            return losses

        def watched_valid(*args, **kwargs):
            began = time.perf_counter()
            score, result = valid_epoch(*args, **kwargs)
            if self.curve:
                self.curve[-1] |= {"valid": plugin.plain(result), "valid_seconds": round(time.perf_counter() - began, 3)}
                self._epoch_done(self.curve[-1]["epoch"])
            return score, result

        trainer._train_epoch, trainer._valid_epoch = watched_train, watched_valid

    def _go_on(self, before: float) -> None:
        """Take over the epochs that a process which has ended trained up to the checkpoint."""
        old = self.run.curve if self._checkpoint else []
        self.curve = [entry for entry in old if entry["epoch"] < before]
        for entry in self.curve:
            self.earlier["training"] += entry["seconds"]
            self.earlier["validation"] += entry["valid_seconds"] or 0

    def _epoch_done(self, epoch: int) -> None:
        self._write(self.curve, self.run.folder / CURVE)
        self.progress((epoch + 1) / max(1, self.trainer.epochs))

    def _watch_end(self, trainer) -> None:
        """Stop behind the checkpoint of the last epoch for which there is time."""
        fit = trainer.fit

        def watched_fit(train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
            def after_epoch(epoch, score):
                if callback_fn:
                    callback_fn(epoch, score)
                if self.deadline is not None:
                    self._pause_if_late(epoch)

            result = fit(train_data, valid_data, verbose, saved, show_progress, after_epoch)
            if not self._trained:
                self._go_on(before=math.inf)
            return result

        trainer.fit = watched_fit

    def _pause_if_late(self, epoch: int) -> None:
        newest = self.curve[-self._trained :]
        longest = max(entry["seconds"] + (entry["valid_seconds"] or 0) for entry in newest)
        if time.time() + longest > self.deadline and epoch + 1 < self.trainer.epochs:
            raise Paused

    # -- the test ----------------------------------------------------------------------------------------------------

    def _watch_test(self, trainer) -> None:
        evaluate, collect = trainer.evaluate, trainer.eval_collector.eval_batch_collect
        state = {"test": False, "training": False}
        fit = trainer.fit

        def watched_fit(*args, **kwargs):
            state["training"] = True
            try:
                return fit(*args, **kwargs)
            finally:
                state["training"] = False

        def watched_evaluate(eval_data, *args, **kwargs):
            state["test"] = not state["training"] and bool(eval_data)
            self._rows = {}
            result = evaluate(eval_data, *args, **kwargs)
            if state["test"]:
                self._finish_test(eval_data)
            return result

        def watched_collect(scores, interaction, positive_u, positive_i):
            if state["test"]:
                self._collect(scores, interaction, positive_u, positive_i)
            return collect(scores, interaction, positive_u, positive_i)

        trainer.fit, trainer.evaluate = watched_fit, watched_evaluate
        trainer.eval_collector.eval_batch_collect = watched_collect

    def _collect(self, scores: torch.Tensor, interaction, positive_u, positive_i) -> None:
        """The batch's users, targets, ranks and lists, from the scores [B, N] that RecBole's metrics read."""
        if len(positive_u) != len(scores):
            raise UserError(
                "A comparison ranks one withheld item a user, but some users have another number of test items: leave "
                "eval_args as it is (split {LS: valid_and_test})."
            )
        target = positive_i.to(scores.device)
        top = torch.topk(scores, max(self.trainer.config["topk"]), dim=-1).indices  # as RecBole's collector does
        rows = {"users": interaction[self.dataset.uid_field], "targets": target, "top": top, "ranks": full_rank(scores, top, target)}
        model = self.trainer.model
        for name, ranking in getattr(model, "last_rankings", {}).items():
            raw_id = getattr(model, f"raw_id_{model.modalities[0] if name == 'fused' else name}")
            rows[f"item_ranks.{name}"] = item_rank(ranking, target)
            rows[f"id_ranks.{name}"] = id_rank(ranking, target, raw_id)
        for name, values in rows.items():
            self._rows.setdefault(name, []).append(values.cpu())

    def _finish_test(self, eval_data) -> None:
        rows = {name: torch.cat(parts) for name, parts in self._rows.items()}
        if not self.trainer.config["single_spec"]:
            device = self.trainer.config["device"]
            rows = {name: gather_in_order(v.to(device), eval_data.sample_size).cpu() for name, v in rows.items()}
        self.rows = {name: values.numpy() for name, values in rows.items()}

    # -- the end -----------------------------------------------------------------------------------------------------

    def finish(self) -> dict:
        """Write ranks and codes; returns what the record gains."""
        rows, dataset = self.rows, self.dataset
        histories, counts = self._histories()
        named = {
            kind: {name.split(".", 1)[1]: values for name, values in rows.items() if name.startswith(f"{kind}.")}
            for kind in ("item_ranks", "id_ranks")
        }
        Ranks(
            users=np.asarray(dataset.id2token(dataset.uid_field, rows["users"]), dtype=str),
            items=np.asarray(dataset.field2id_token[dataset.iid_field], dtype=str),
            targets=rows["targets"],
            ranks=rows["ranks"],
            top=rows["top"].astype(np.int32),
            counts=counts,
            histories=[histories[user][:-1] for user in rows["users"].tolist()],
            **named,
        ).save(self.run.folder / RANKS)
        ids = getattr(self.trainer.model, "semantic_ids", None)
        if ids is not None:
            save_codes(ids, self.run.folder / CODES)
        checkpoint = Path(getattr(self.trainer, "saved_model_file", ""))
        return {
            "checkpoint": f"saved/{checkpoint.name}" if checkpoint.name else "",
            "epochs": len(self.curve),
            "test_users": len(rows["users"]),
            "peak_memory_mib": peak_memory(),
        }

    def _histories(self) -> tuple[dict[int, np.ndarray], np.ndarray]:
        """Each user's items in time order, the test target last; and how often an item was trained on, [N]."""
        users, items = self._taken[:, 0], self._taken[:, 1]
        starts = np.flatnonzero(np.diff(users, prepend=-1))
        histories = dict(zip(users[starts].tolist(), np.split(items, starts[1:])))
        trained = [h[: max(1, len(h) - HELD_OUT)] for h in histories.values()]
        return histories, np.bincount(np.concatenate(trained), minlength=self.dataset.item_num)


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
    return {"host": round(_host_peak() / 2**20, 1), "gpu": None if gpu is None else round(gpu, 1)}


def _host_peak() -> int:
    if psutil.WINDOWS:
        return psutil.Process().memory_info().peak_wset
    import resource

    unit = 1 if psutil.MACOS else 1024  # getrusage counts bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
