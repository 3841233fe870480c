"""Evaluation: the number of users ranked at once, the users of a validation, and items that are not ranked."""
import functools
import importlib

import numpy as np
import torch
import torch.nn.functional as F
from recbole.data.dataloader import AbstractDataLoader, FullSortEvalDataLoader, NegSampleEvalDataLoader
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from torch.nn.utils.rnn import pad_sequence

from recbole_macrec.data.interactions import history_column
from recbole_macrec.errors import UserError
from recbole_macrec.generation.decoding.ranker import max_users_in_memory
from recbole_macrec.model.registered import RegisteredModel
from recbole_macrec.model.windowed import EXCLUDED_ITEMS_FIELD


def limit_ranked_users_to_memory() -> None:
    """Rank fewer users at once than ``eval_batch_size`` if the matrix of their scores would not fit into the free memory.

    This applies to the full rankings of all models, including RecBole's, and is logged.
    """
    original = FullSortEvalDataLoader._init_batch_size_and_step

    @functools.wraps(original)
    def _init_batch_size_and_step(self):
        original(self)
        items, device = self._dataset.item_num, self.config["device"]
        fit = max_users_in_memory(items, self.config["decode"] or "beam", device)
        if self.step > fit:
            self.logger.warning(
                f"eval_batch_size: {fit} users are ranked at once instead of {self.step}, whose scores of {items:,} items do "
                f"not fit into the free memory of {device}."
            )
            self.step = fit
            self.set_batch_size(fit if self.is_sequential else fit * items)

    FullSortEvalDataLoader._init_batch_size_and_step = _init_batch_size_and_step


def limit_validation_users() -> None:
    """Limit the validation of all models, including RecBole's, to ``valid_users`` users.

    The users are the first with validation data in a random order of all users, the same order for every model, seed and epoch.
    Testing is always on all users. The attribute ``whole_dataset`` of a loader has the rows of all users.
    """
    for loader in (FullSortEvalDataLoader, NegSampleEvalDataLoader):
        _limit_users(loader)


def _limit_users(loader: type[AbstractDataLoader]) -> None:
    original = loader.__init__

    @functools.wraps(original)
    def __init__(self, config, dataset, sampler, shuffle=False):
        self.whole_dataset = dataset
        if config["valid_users"] and sampler is not None and sampler.phase == "valid":
            users = dataset.inter_feat[dataset.uid_field].numpy()
            random_order = np.random.default_rng(0).permutation(np.arange(1, dataset.user_num))
            chosen = random_order[np.isin(random_order, users)][: config["valid_users"]]
            dataset = dataset.copy(dataset.inter_feat[np.isin(users, chosen)])
        original(self, config, dataset, sampler, shuffle=shuffle)

    loader.__init__ = __init__


def exclude_seen_items() -> None:
    """Let ``exclude_seen`` leave the items of the history out of full rankings of sequential models, RecBole's included.

    As in RecBole's rankings of general models, the target is ranked even if it is in the history.
    """
    collate = FullSortEvalDataLoader.collate_fn

    @functools.wraps(collate)
    def collate_fn(self, index):
        interaction, seen, rows, targets = collate(self, index)
        if self.is_sequential and self.config["exclude_seen"]:
            history = _seen_items(interaction, self._dataset)
            seen = history.nonzero()[:, 0], history[history > 0]
        return interaction, seen, rows, targets

    FullSortEvalDataLoader.collate_fn = collate_fn


def rank_as_the_evaluation_in_case_studies() -> None:
    """Let ``full_sort_scores`` mask the same items as the evaluation, for sequential models those of ``exclude_seen``.

    Our models receive the masked items together with the histories, as they do from our trainer. A beam search finds only some
    items, and if some of them were masked afterwards, its list would be too short. For the same reason they rank at least the
    ``k`` items of ``full_sort_topk``.

    A user without a row in the data is a UserError. For a sequential model RecBole leaves out the scores of the user, so that
    those of all later users are in the wrong rows.
    """
    case_study = importlib.import_module("recbole.utils.case_study")
    original = case_study.full_sort_scores

    @functools.wraps(original)
    def full_sort_scores(uid_series, model, test_data, device=None):
        _check_users(test_data.dataset, uid_series)
        masked = _masked_items(test_data, uid_series)
        if masked is not None and isinstance(model, RegisteredModel):
            model = _ModelWithMaskedItems(model, masked)
        scores = original(uid_series, model, test_data, device)
        if masked is not None and test_data.is_sequential:  # RecBole masks the items of general models only
            scores = scores.scatter(1, masked.to(scores.device), -torch.inf)
        return scores

    topk = case_study.full_sort_topk

    @functools.wraps(topk)
    def full_sort_topk(uid_series, model, test_data, k, device=None):
        return topk(uid_series, model.with_top(k) if isinstance(model, RegisteredModel) else model, test_data, k, device)

    vars(case_study).update(full_sort_scores=full_sort_scores, full_sort_topk=full_sort_topk)


def _check_users(dataset: Dataset, users) -> None:
    """Raise a UserError unless every user has a row in this part of the data."""
    missing = np.setdiff1d(users, dataset.inter_feat[dataset.uid_field].numpy())
    if len(missing):
        user = dataset.id2token(dataset.uid_field, int(missing[0]))
        raise UserError(
            f"The user {user} has no row in this part of the data; leave the user out, or rank by a history with "
            "Recommender.recommend."
        )


def _masked_items(test_data: FullSortEvalDataLoader, users) -> torch.Tensor | None:
    """The items that the evaluation masks for ``users``, int64 [B, S], padded with 0; None if it masks none."""
    if not test_data.is_sequential:
        masked = pad_sequence(list(test_data.uid2history_item[list(users)]), batch_first=True)
        return F.pad(masked, (0, 1))  # a column of padding: with repeatable: True no user has masked items
    if not test_data.config["exclude_seen"]:
        return None
    dataset = test_data.dataset
    rows = (dataset.inter_feat[dataset.uid_field] == torch.as_tensor(users)[:, None]).nonzero()[:, 1]
    return _seen_items(dataset.inter_feat[rows], dataset)


def _seen_items(interaction: Interaction, dataset: Dataset) -> torch.Tensor:
    """The items of the histories of an interaction, int64 [B, S]; 0 for padding and in place of the target."""
    history = interaction[history_column(dataset.config)]
    return history.masked_fill(history == interaction[dataset.iid_field].unsqueeze(1), 0)


class _ModelWithMaskedItems:
    """A model whose ``full_sort_predict`` is called with the items [B, S] that the caller masks, padded with 0."""

    def __init__(self, model: AbstractRecommender, masked: torch.Tensor):
        self.model, self.masked = model, masked

    def __getattr__(self, name: str):
        return getattr(self.model, name)

    def full_sort_predict(self, interaction: Interaction) -> torch.Tensor:
        interaction.update(Interaction({EXCLUDED_ITEMS_FIELD: self.masked.to(self.model.device)}))
        return self.model.full_sort_predict(interaction)
