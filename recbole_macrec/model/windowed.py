"""What all our models share: they train on windows of items, part of a batch by part, and rank in a precision of their own.

Legend: B users, T items of the longest history.
"""
from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType

from recbole_macrec.config.values import check_choice, check_number
from recbole_macrec.generation.decoding.search import Ranking
from recbole_macrec.generation.network.packing import passes
from recbole_macrec.generation.network.windows import Windows
from recbole_macrec.semantic_ids import SemanticIDSettings
from recbole_macrec.utils.hardware import chosen_precision, computing_in

FIRST_TARGET = "first_target"  # field of windows: int64 [B], the place of the first item that is a target


class Histories(NamedTuple):
    """What is known of B users."""

    items: torch.Tensor  # int64 [B, T]
    length: torch.Tensor  # int64 [B] on the CPU, how many of the items count, from the first; at least 1
    users: torch.Tensor | None = None  # int64 [B], where the model reads them

    def rows(self, rows: torch.Tensor) -> "Histories":
        """Some of the users, cut to the longest of them; ``rows`` is on the CPU."""
        length, here = self.length[rows], rows.to(self.items.device)
        items = self.items.index_select(0, here)[:, : int(length.max())]
        return Histories(items, length, None if self.users is None else self.users.index_select(0, here))


def in_eval_precision(method: Callable) -> Callable:
    """A ranking ``method`` of a model that always computes in the model's ``eval_precision``."""

    @wraps(method)
    def computed(self, *args, **kwargs):
        with computing_in(self.eval_precision, self.device):
            return method(self, *args, **kwargs)

    return computed


class WindowedRecommender(SequentialRecommender):
    """Base of the models that our trainer trains.

    Training reads windows of items, of which some are targets: a history and one target, as RecBole's samples are, or with
    ``training: per_user`` a user's sequence with all its targets.

    Attributes:
        eval_precision: ``fp32`` or ``bf16``, what every ranking is computed in.
        last_rankings: name -> the lists of the last :meth:`full_sort_predict`; empty for a model that only scores items.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.config = config
        self.eval_precision = chosen_precision(config["eval_precision"] or "fp32", self.device)  # older models have no such option
        self.pass_tokens = config["pass_tokens"] or (4096 if self.device.type == "cpu" else 131072)
        self.last_rankings: dict[str, Ranking] = {}

    @classmethod
    def reads_semantic_ids(cls, config) -> bool:
        """Whether a model with the settings ``config`` needs the semantic IDs of the items."""
        return True

    @classmethod
    def settings_of_split(cls, split: dict) -> dict:
        """Evaluation options for RecBole when ``eval_args`` sets the split ``split``."""
        return {}

    @classmethod
    def check_values(cls, config: dict) -> None:
        """Raise a UserError for the first option of this model or its trainer that can't be meant, before anything is read.

        Args:
            config: the final settings; an absent one reads as None.
        """
        check_choice(("auto", "fp32", "bf16"), precision=config["precision"], eval_precision=config["eval_precision"])
        check_choice(("cosine", "constant"), scheduler=config["scheduler"])
        check_number(0, 0.99, dropout_prob=config["dropout_prob"])
        if cls.reads_semantic_ids(config):
            named = isinstance(config["modalities"], list | tuple) and config["modalities"]
            SemanticIDSettings.from_config(config, named or ["text"])

    def calculate_loss(self, interaction) -> torch.Tensor:
        """The loss of a batch; a trainer that wants less memory goes through :meth:`loss_parts` itself."""
        return sum(part() for part in self.loss_parts(interaction))

    def loss_parts(self, interaction) -> list[Callable[[], torch.Tensor]]:
        """Functions whose values add up to the batch's loss, each with a graph of its own, the longest first.

        Args:
            interaction: samples of RecBole, each a history and one target, or windows (:class:`WindowLoader`).
        """
        raise NotImplementedError

    def windows(self, interaction) -> Windows:
        """The training sequences of a batch."""
        items, length = interaction[self.ITEM_SEQ].to(self.device), interaction[self.ITEM_SEQ_LEN].cpu()
        if FIRST_TARGET in interaction:
            return Windows(items, length, interaction[FIRST_TARGET].cpu())
        return Windows(with_target(items, length, interaction[self.POS_ITEM_ID]), length + 1, length)

    def histories(self, interaction) -> Histories:
        """The histories that the users of ``interaction`` are ranked by."""
        return Histories(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN].cpu())

    def overhead_of(self, network: torch.nn.Module) -> int:
        """Positions that a further group of lengths costs in :func:`pack`: Python about 7e7 multiplications' time on CPU, and far
        more of a GPU's."""
        return round(7e7 / sum(p.numel() for p in network.parameters())) if self.device.type == "cpu" else 8192

    def _parts(self, length: torch.Tensor, users: int | None = None) -> list[torch.Tensor]:
        """Rows of the parts of a batch, of at most ``users``, that go through the network together, shorter first.

        Args:
            length: int64 [B] on the CPU, items in the histories.
        """
        pairs = 2 if self.device.type == "cpu" else 1  # whatever the number of lanes, on which nothing may depend
        return passes(self._positions(length), self.pass_tokens, users, pairs)

    def _positions(self, length: torch.Tensor) -> torch.Tensor:
        """Positions [B] that the network reads of histories of ``length`` [B]."""
        return length

    def _keep(self, name: str, values: np.ndarray) -> None:
        self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values)), persistent=False)


def with_target(items: torch.Tensor, length: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Histories [B, T], of which the first ``length`` [B] count, with ``target`` [B] behind them; [B, T + 1], then 0."""
    position, length = torch.arange(items.shape[1] + 1, device=items.device), length.to(items.device).unsqueeze(1)
    longer = F.pad(items, (0, 1))
    return torch.where(position == length, target.to(items.device).unsqueeze(1), longer.masked_fill(position > length, 0))
