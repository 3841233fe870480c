"""The models that a fusion combines: their best items for every evaluated row, and their scores of given items.

Shapes: B users of a batch, R rows, C candidates of a row, T targets, N items including the padding.
"""
import hashlib
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.quick_start import quick_start
from recbole.utils import ModelType, get_trainer
from tqdm import tqdm

from recbole_macrec.benchmark.compare.ranks import row_keys
from recbole_macrec.benchmark.compare.run_model import fresh_logging
from recbole_macrec.benchmark.compare.runs import Run, check_data, current_data
from recbole_macrec.benchmark.fuse.score_file import ScoreFile
from recbole_macrec.config.options import hidden_argv
from recbole_macrec.errors import UserError
from recbole_macrec.model.windowed import WindowedRecommender
from recbole_macrec.trainer.evaluation_batches import excluded_items
from recbole_macrec.utils.reporting import hidden_log, progress_interval


@dataclass(frozen=True)
class Rows:
    """The evaluated rows of a split, in the order of one model, with its best items.

    Attributes:
        users: [R] tokens.
        row, target: int64 [T], the targets of all rows, in this order; item numbers.
        best: int64 [R, top], the best items of each row, padded with 0.
    """

    users: np.ndarray
    row: np.ndarray
    target: np.ndarray
    best: np.ndarray

    def keys(self, tokens: np.ndarray) -> list[tuple]:
        """Return the identity of each row, which is the same for all models: the user, the targets' ``tokens`` [N], and the
        number of equal rows before."""
        return row_keys(self.users, tokens[self.target], np.searchsorted(self.row, np.arange(len(self.users))))

    def select(self, kept: np.ndarray) -> "Rows":
        """The rows ``kept``, int64 [R'], ascending."""
        inside = np.isin(self.row, kept)
        return Rows(self.users[kept], np.searchsorted(kept, self.row[inside]), self.target[inside], self.best[kept])


class Member:
    """A trained model of a finished run, loaded from its best checkpoint.

    Args:
        data_path: folder of the datasets; None: that of the run.

    Attributes:
        tokens: [N], the items' tokens by number.
        sequential: whether the model ranks by the user's history, and not by the training interactions.

    Raises:
        UserError: the run has no checkpoint, does not rank the whole catalogue, or its data have changed.
    """

    def __init__(self, run: Run, data_path: str | None = None):
        self.run = run
        checkpoint = run.folder / (run.result["checkpoint"] or "-")
        if not checkpoint.is_file():
            raise UserError(f"{run.spec.name} has no checkpoint at {checkpoint}; run the comparison again to train it.")
        data_path = data_path or run.spec.settings.get("data_path")
        with fresh_logging(), hidden_argv(), hidden_log(logging.INFO):
            self.config, self.model, _, self.train, valid, test = quick_start.load_data_and_model(str(checkpoint), data_path)
            self.trainer = get_trainer(self.config["MODEL_TYPE"], self.config["model"])(self.config, self.model)
        self.loaders = {"valid": valid, "test": test}
        for split, loader in self.loaders.items():
            if not isinstance(loader, FullSortEvalDataLoader) or not len(loader):
                raise UserError(
                    f"{run.spec.name} does not rank all items for {split} rows; set eval_args so that both splits have "
                    "rows and mode is full."
                )
        self.model.eval()
        dataset = test._dataset
        self.trainer.tot_item_num, self.trainer.item_tensor = (
            dataset.item_num,
            dataset.get_item_feature().to(self.trainer.device),
        )
        self.dataset = dataset
        self.sequential = self.config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        self.tokens = np.asarray(dataset.field2id_token[dataset.iid_field], dtype=str)
        check_data(run.spec, replace(run.spec, data=current_data(run.spec, data_path)))
        if not np.array_equal(self.tokens, run.ranks.items):
            raise UserError(f"{run.spec.name} has other items than its dataset now; restore the data, or run it again.")
        self._score_files: dict[str, ScoreFile] = {}

    @property
    def label(self) -> str:
        return self.run.spec.label

    def rows(self, split: str, top: int) -> Rows:
        """The rows of ``split`` with this model's ``top`` best items."""
        users, row, target, count = [], [], [], 0
        for interaction, _, positive_u, positive_i in self.loaders[split]:
            users.append(interaction[self.dataset.uid_field].cpu())
            order = torch.argsort(positive_u * len(self.tokens) + positive_i)
            row.append(positive_u[order] + count)
            target.append(positive_i[order])
            count += len(interaction)
        tokens = self.dataset.id2token(self.dataset.uid_field, torch.cat(users).numpy())
        best = self._score_file(split).best(top, lambda: self._compute_best(split, top))
        return Rows(np.asarray(tokens, dtype=str), torch.cat(row).numpy(), torch.cat(target).numpy(), best)

    def scores(self, split: str, items: np.ndarray) -> np.ndarray:
        """Log-probabilities of ``items`` [R, C], in this model's order of rows and numbers of items; -inf for the padding 0.

        A generative model gives the log-probability of the item's semantic ID; items that share an ID divide it as
        ``item_prior`` says, and ``fusion`` combines several modalities. Any other model gives the log-softmax of its scores
        over all items that may be recommended.
        """
        return self._score_file(split).scores(items, lambda missing: self._compute_scores(split, missing))

    def seconds(self, split: str) -> float:
        """Seconds that the model needed to rank the rows of ``split`` and to score the candidates, including data loading. For
        results of an earlier fusion they are the seconds measured at that time."""
        return self._score_file(split).seconds

    def _score_file(self, split: str) -> ScoreFile:
        if split not in self._score_files:
            path = self.run.folder / f"fusion_{split}.npz"
            self._score_files[split] = ScoreFile(path, self._digest(split), len(self.tokens))
        return self._score_files[split]

    def _digest(self, split: str) -> str:
        """SHA-256 of what the results depend on: the checkpoint's name, the items, and the rows with their histories."""
        digest = hashlib.sha256("\n".join([self.run.result["checkpoint"], *self.tokens]).encode())
        for interaction, masked, *positive in self.loaders[split]:
            for values in (*interaction.interaction.values(), *(masked or ()), *positive):
                digest.update(values.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def _compute_best(self, split: str, top: int) -> tuple[np.ndarray, float]:
        began, width = time.perf_counter(), min(top, len(self.tokens) - 1)
        best = [self._best(batch, width).cpu() for batch in self._batches(split, "best items")]
        return torch.cat(best).numpy(), time.perf_counter() - began

    @torch.no_grad()
    def _compute_scores(self, split: str, items: np.ndarray) -> tuple[np.ndarray, float]:
        began, parts, begin = time.perf_counter(), [], 0
        for batch in self._batches(split, "scores of the candidates"):
            rows = torch.from_numpy(items[begin : begin + len(batch[0])]).to(self.trainer.device)
            if isinstance(self.model, WindowedRecommender):
                scores = self.model.item_scores(batch[0].to(self.trainer.device), rows)
                if (excluded := excluded_items(batch)) is not None:
                    seen = (rows.unsqueeze(2) == excluded.to(rows.device).unsqueeze(1)).any(2)
                    scores = scores.masked_fill(seen, -torch.inf)
            else:
                scores = torch.log_softmax(self._all_scores(batch), dim=1).gather(1, rows)
            parts.append(scores.float().masked_fill(rows == 0, -torch.inf).cpu())
            begin += len(rows)
        return torch.cat(parts).numpy(), time.perf_counter() - began

    def _batches(self, split: str, work: str) -> Iterable[tuple]:
        """The batches of ``split``, with a progress bar."""
        return tqdm(self.loaders[split], desc=f"{self.label}: {work} of the {split} users", mininterval=progress_interval())

    def _all_scores(self, batch: tuple) -> torch.Tensor:
        return self.trainer._full_sort_batch_eval(batch)[1].float()  # [B, N]

    def _best(self, batch: tuple, top: int) -> torch.Tensor:
        if not isinstance(self.model, WindowedRecommender):
            scores, items = torch.topk(self._all_scores(batch), top)
            return items.masked_fill(scores == -torch.inf, 0)
        device, excluded = self.trainer.device, excluded_items(batch)
        excluded = None if excluded is None else excluded.to(device)
        best = self.model.best_items(batch[0].to(device), top, self.model.restriction(None), excluded)
        return best.widened(top).items[:, :top]
