"""Callback that collects the test ranking of a run: the rank of each target, and the best items of each row.

Shapes: B rows of a batch, W largest number of targets of a row, T targets, K the largest topk, N items with padding, R test
rows.
"""
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from recbole_macrec.benchmark.compare.interactions import all_rows, read_history
from recbole_macrec.benchmark.compare.ranks import Ranks
from recbole_macrec.benchmark.compare.runs import CODES, RANKS, save_codes
from recbole_macrec.trainer.callbacks import TEST, TrainingCallback
from recbole_macrec.trainer.evaluation_batches import padded_rows
from recbole_macrec.trainer.ranking_metrics import item_and_id_ranks
from recbole_macrec.utils.distributed import current_group
from recbole_macrec.utils.distributed_tensors import gather_in_order

SCORES_AT_ONCE = 2**22  # maximum number of scores that are compared with those of the targets at once


class RankingCollector(TrainingCallback):
    """Collects the test ranking, which :meth:`write` writes."""

    def __init__(self):
        self._batches: dict[str, list[torch.Tensor]] = {}
        self._rows: dict[str, np.ndarray] = {}

    def on_train_begin(self, trainer, train_data, valid_data):
        self._train, self._valid = train_data._dataset, all_rows(valid_data)

    def on_evaluation_begin(self, trainer, stage, eval_data):
        if stage == TEST:
            self._batches, self._test_data = {}, eval_data

    def on_evaluation_batch(self, trainer, stage, scores, interaction, rows, items):
        """Collect users, targets, ranks and best items of a batch."""
        if stage != TEST:
            return
        best, top = torch.topk(scores, max(trainer.config["topk"]), dim=-1)  # as in RecBole's collector
        users = interaction[self._train.uid_field]
        if len(users) != len(scores):  # with sampled negatives the batch has a row per candidate
            users = users.unique_consecutive()
        pairs = (rows.to(scores.device) * scores.shape[1] + items.to(scores.device)).unique()  # sorted by row, then by item
        row, target = pairs // scores.shape[1], pairs % scores.shape[1]
        model, of_targets = trainer.model, {"targets": target, "ranks": []}
        rankings = getattr(model, "last_rankings", {})
        at_once = max(1, SCORES_AT_ONCE // scores.shape[1])
        for some_rows, some_items in zip(row.split(at_once), target.split(at_once)):
            of_targets["ranks"].append(full_rank(scores[some_rows], top[some_rows], some_items))
            for name, ranking in rankings.items():
                ranking = ranking._replace(items=ranking.items[some_rows], scores=ranking.scores[some_rows])
                for level, ranks in item_and_id_ranks(model, name, ranking, some_items).items():
                    of_targets.setdefault(f"{level}_ranks.{name}", []).append(ranks)
        self._batches.setdefault("users", []).append(users.cpu())
        self._batches.setdefault("top", []).append(top.masked_fill(best.isneginf(), 0).cpu())
        for name, values in of_targets.items():
            values = values if name == "targets" else torch.cat(values)
            self._batches.setdefault(name, []).append(padded_rows(row, values, len(scores)).cpu())

    def on_evaluation_end(self, trainer, stage, result):
        """Concatenate the batches of all processes."""
        if stage != TEST:
            return
        device, samples = trainer.config["device"], self._test_data.sample_size
        width = max(current_group().gather(max(batch.shape[1] for batch in self._batches["targets"])))
        rows = {}
        for name, batches in self._batches.items():
            if name not in ("users", "top"):
                batches = [F.pad(batch, (0, width - batch.shape[1])) for batch in batches]
            rows[name] = gather_in_order(torch.cat(batches).to(device), samples).cpu()
        self._rows = {name: values.numpy() for name, values in rows.items()}

    def write(self, trainer, folder: Path) -> dict:
        """Write ranks.npz, and codes.npz of a model with semantic IDs; returns the number of test users and rows."""
        rows, train = self._rows, self._train
        is_target = rows["targets"] > 0  # [R, W]
        history = read_history(train, self._valid, self._test_data._dataset, rows["users"])
        named = {
            kind: {name.split(".", 1)[1]: values[is_target] for name, values in rows.items() if name.startswith(f"{kind}.")}
            for kind in ("item_ranks", "id_ranks")
        }
        row = is_target.nonzero()[0]
        Ranks(
            users=np.asarray(train.id2token(train.uid_field, rows["users"]), dtype=str)[row],
            items=np.asarray(train.field2id_token[train.iid_field], dtype=str),
            targets=rows["targets"][is_target],
            ranks=rows["ranks"][is_target],
            top=rows["top"].astype(np.int32),
            counts=history.counts,
            histories=history.histories,
            rows=row,
            **named,
        ).save(folder / RANKS)
        ids = getattr(trainer.model, "semantic_ids", None)
        if ids is not None:
            save_codes(ids, folder / CODES)
        return {"test_users": len(np.unique(rows["users"])), "test_rows": len(rows["users"])}


def full_rank(scores: torch.Tensor, top: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The rank of each target [B] by ``scores`` [B, N], 1 is best; int64 [B].

    Within the top K it is the position in ``top`` [B, K], in which ties may be broken in any order. Below, items with equal
    scores are in item order, and the rank is at least K + 1.
    """
    found = top == target.unsqueeze(1)
    own = scores.gather(1, target.unsqueeze(1))
    number = torch.arange(scores.shape[1], device=scores.device)
    before = (scores > own) | ((scores == own) & (number < target.unsqueeze(1)))
    below = (before.sum(1) + 1).clamp(min=top.shape[1] + 1)
    return torch.where(found.any(1), found.int().argmax(1) + 1, below)
