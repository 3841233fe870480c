"""Base class of our sequential models: training on windows of items in parts of a batch, and ranking in ``eval_precision``.

Shapes: B users, T items of the longest history.
"""
from collections.abc import Callable
from functools import reduce, wraps
from operator import add
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType

from recbole_macrec.config.schema.base import Options
from recbole_macrec.config.schema.models import GenerativeOptions
from recbole_macrec.generation.decoding.search import Ranking
from recbole_macrec.generation.network.packing import split_batch
from recbole_macrec.generation.network.windows import Histories, Windows, without_random_items
from recbole_macrec.model.registered import RegisteredModel
from recbole_macrec.semantic_ids import SemanticIDs, SemanticIDSettings
from recbole_macrec.utils.device_budget import DeviceBudget
from recbole_macrec.utils.hardware import autocast_to, resolve_precision

FIRST_TARGET = "first_target"  # field of windows: int64 [B], the index of the first item that is a target
EXCLUDED_ITEMS_FIELD = "excluded_items"  # field of an interaction: int64 [B, S], items that the evaluator masks, padded with 0


def in_eval_precision(method: Callable) -> Callable:
    """Decorate a ranking method of a model: it computes in the model's ``eval_precision``."""

    @wraps(method)
    def wrapper(self, *args, **kwargs):
        with autocast_to(self.eval_precision, self.device):
            return method(self, *args, **kwargs)

    return wrapper


class WindowedRecommender(RegisteredModel, SequentialRecommender):
    """Base class of the generative, dense and text-to-text models. General models derive from ``PairwiseRecommender``.

    Training reads windows of items, some of which are targets: a RecBole sample (a history and one target), or with
    ``training: per_user`` a user's sequence with all its targets.

    Attributes:
        eval_precision: ``fp32`` or ``bf16``, the precision of every ranking.
        last_rankings: name -> ranking of the last :meth:`full_sort_predict`; empty for models that only score items, and
            in an evaluation with sampled candidates.
    """

    input_type = InputType.POINTWISE
    requires_users = False  # True if it ranks only for the users of the training data
    semantic_ids: SemanticIDs | None = None  # of the items, for a model that reads them
    item_tokens: list[str]  # by item number, the first is the padding; for a model without semantic IDs
    options: ClassVar[type[Options]] = GenerativeOptions

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.config = config
        self.eval_precision = resolve_precision(config["eval_precision"] or "fp32", self.device)  # None in old checkpoints
        self.budget = DeviceBudget.of(self.device, config["pass_tokens"])
        self.item_dropout = config["item_dropout"] or 0.0  # None in old checkpoints, and for models without it
        self.exclude_seen = bool(config["exclude_seen"])  # read here, so that save_pretrained stores it
        self.last_rankings: dict[str, Ranking] = {}

    # -- for Recommender ----------------------------------------------------------------------------------------------

    def saved_options(self) -> dict:
        """Options, as plain values, that replace those of the training when a saved model is created without its dataset."""
        return {}

    @property
    def ids_of_items(self) -> SemanticIDs:
        """The items, in the model's order, with their semantic IDs; without modalities for a model without semantic IDs."""
        return self.semantic_ids or SemanticIDs(tuple(self.item_tokens[1:]), {}, {}, {})

    def restriction(self, allowed: np.ndarray | None) -> Any:
        """Prepare :meth:`best_items` for the items ``allowed`` (int64, sorted), for all items with None."""
        raise NotImplementedError

    def best_items(self, interaction, k: int, restriction: Any, excluded: torch.Tensor | None = None) -> Ranking:
        """The ``k`` best items of each user, or more.

        Args:
            restriction: from :meth:`restriction`.
            excluded: int64 [B, S], items to leave out, padded with 0.
        """
        raise NotImplementedError

    def excluded(self, interaction) -> torch.Tensor | None:
        """Items [B, S] that must not be recommended to each user, padded with 0."""
        return interaction[EXCLUDED_ITEMS_FIELD] if EXCLUDED_ITEMS_FIELD in interaction else None

    def item_scores(self, interaction, items: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of given items [B, C] of each user, up to a constant factor; -inf for the padding 0."""
        raise NotImplementedError

    # -- settings -----------------------------------------------------------------------------------------------------

    @classmethod
    def reads_semantic_ids(cls, config) -> bool:
        return True

    @classmethod
    def check_values(cls, config: dict) -> None:
        if cls.reads_semantic_ids(config):
            named = isinstance(config["modalities"], list | tuple) and config["modalities"]
            SemanticIDSettings.from_config(config, named or ["text"])

    # -- training -----------------------------------------------------------------------------------------------------

    def calculate_loss(self, interaction) -> torch.Tensor:
        """The loss of a batch. To save memory, call :meth:`loss_parts` and run the backward pass part by part."""
        return reduce(add, (part() for part in self.loss_parts(interaction)))

    def loss_parts(self, interaction) -> list[Callable[[], torch.Tensor]]:
        """Functions whose results add up to the batch's loss, longest sequences first. Each builds its own autograd graph.

        Args:
            interaction: RecBole samples, each a history and one target, or windows (:class:`WindowLoader`).
        """
        raise NotImplementedError

    def windows(self, interaction) -> Windows:
        """Training sequences of a batch."""
        items, length = interaction[self.ITEM_SEQ].to(self.device), interaction[self.ITEM_SEQ_LEN].cpu()
        if FIRST_TARGET in interaction:
            return Windows(items, length, interaction[FIRST_TARGET].cpu())
        return Windows(with_target(items, length, interaction[self.POS_ITEM_ID]), length + 1, length)

    def with_item_dropout(self, windows: Windows) -> Windows:
        """Leave out items of training sequences at random, with probability ``item_dropout``."""
        return without_random_items(windows, self.item_dropout) if self.training and self.item_dropout else windows

    def histories(self, interaction) -> Histories:
        """Histories from which the items are ranked."""
        return Histories(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN].cpu())

    def _batch_parts(self, length: torch.Tensor, users: int | None = None, copies: int = 1) -> list[torch.Tensor]:
        """Split a batch into parts that go through the network one at a time, shorter histories first.

        Args:
            length: int64 [B] on the CPU, number of items in each history.
            users: maximum number of users in a part.
            copies: number of sequences of each user that go through the network together.

        Returns:
            The rows of each part.
        """
        return split_batch(self._input_lengths(length) * copies, self.budget.pass_positions, users, self.budget.pass_multiple)

    def _input_lengths(self, length: torch.Tensor) -> torch.Tensor:
        """Number of network positions [B] for histories of ``length`` [B] items."""
        return length


def with_target(items: torch.Tensor, length: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Append ``target`` [B] to histories [B, T] of ``length`` [B] items; [B, T + 1], padded with 0."""
    position, length = torch.arange(items.shape[1] + 1, device=items.device), length.to(items.device).unsqueeze(1)
    padded = F.pad(items, (0, 1))
    return torch.where(position == length, target.to(items.device).unsqueeze(1), padded.masked_fill(position > length, 0))
