"""Base class of the recommenders: from histories of item tokens to a table of recommendations.

Shapes: B users.
"""
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import cached_property

import numpy as np
import pandas as pd
from tqdm import tqdm

from recbole_macrec.config.validation import check_whole
from recbole_macrec.errors import UserError
from recbole_macrec.generation.decoding.search import Ranking
from recbole_macrec.recommend.input import Sequences, histories, item_numbers

Rank = Callable[[list[list[int]]], Ranking]  # ranks a batch of histories of item numbers [B]; the result is on the CPU


class ItemRecommender(ABC):
    """Recommends items of a catalogue for histories of item tokens."""

    @property
    @abstractmethod
    def item_tokens(self) -> tuple[str, ...]:
        """All items, added ones last."""

    @property
    @abstractmethod
    def titles(self) -> dict[str, str]:
        """Item token -> title, of the items that have one."""

    @property
    @abstractmethod
    def excludes_seen(self) -> bool:
        """Whether the option ``exclude_seen`` of the training left the items of the history out of rankings."""

    def recommend(self, sequences: Sequences, k: int = 10, exclude_seen: bool | None = None,
                  candidates: Iterable[str] | None = None, batch_size: int = 1024,
                  show_progress: bool = False) -> pd.DataFrame:
        """Recommend ``k`` items for every history.

        A model ranks as in evaluation (``decode``, ``num_beams``, ``fusion``), but with at least ``k`` beams, so that every
        user gets ``k`` items if there are as many.

        Args:
            sequences: histories of item tokens, oldest first, or user -> history. A model reads the newest
                ``MAX_ITEM_LIST_LENGTH`` items of each.
            exclude_seen: do not recommend items of the user's history, even beyond ``MAX_ITEM_LIST_LENGTH``. By default the
                option of the same name of the training, which is False unless it was set.
            candidates: recommend only these items; a generative model searches the trie of their IDs.
            batch_size: users ranked together, fewer if memory is short. Does not change the result.

        Returns:
            One row per recommendation: ``user`` (the key, or the position in the list from 0), ``item`` (token), ``rank``
            from 1, ``score``; users in the given order. The score of a generative model is described at the options
            ``decode`` and ``fusion``, that of another model is the log-probability among all items, and that of a fusion the
            weighted sum of these.

        Raises:
            UserError: for items that are not in the catalogue, an empty history, and a ``k`` below 1.
        """
        check_whole(1, k=k, batch_size=batch_size)
        users, rows = histories(sequences, self._numbers)
        allowed = None if candidates is None else self._candidate_numbers(candidates)
        batch_size, exclude_seen = self.users_at_once(batch_size), self.excludes_seen if exclude_seen is None else exclude_seen
        with self.ranking(k, allowed, exclude_seen) as rank:
            ranked = [
                rank(rows[begin : begin + batch_size])
                for begin in tqdm(range(0, len(rows), batch_size), disable=not show_progress, desc="Recommend", unit="batch")
            ]
        return self._table(users, ranked)

    @abstractmethod
    def users_at_once(self, batch_size: int) -> int:
        """The number of users that fit into memory, at most ``batch_size``."""

    @abstractmethod
    def ranking(self, k: int, allowed: np.ndarray | None, exclude_seen: bool) -> AbstractContextManager[Rank]:
        """Context in which the models are in evaluation mode.

        Its value ranks at most ``k`` of the items ``allowed`` (numbers, sorted), of all items for None.
        """

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.item_tokens, 1)}

    def _candidate_numbers(self, candidates: Iterable[str]) -> np.ndarray:
        numbers = np.unique(np.array(item_numbers(candidates, self._numbers, "candidates"), dtype=np.int64))
        if not len(numbers):
            raise UserError("candidates is empty; give at least one item, or None to recommend from all items.")
        return numbers

    def _table(self, users: list, ranked: list[Ranking]) -> pd.DataFrame:
        tokens = np.array(["", *self.item_tokens], dtype=object)  # by number
        exists = [ranking.items.numpy() > 0 for ranking in ranked]  # [B, k]
        counts = np.concatenate([part.sum(1) for part in exists]) if exists else np.zeros(0, dtype=np.int64)
        ranks = [np.nonzero(part)[1] + 1 for part in exists]
        items = [ranking.items.numpy()[part] for ranking, part in zip(ranked, exists)]
        scores = [ranking.scores.double().numpy()[part] for ranking, part in zip(ranked, exists)]
        return pd.DataFrame({
            "user": pd.Series(users, dtype=None if users else object).repeat(counts).reset_index(drop=True),
            "item": tokens[np.concatenate([*items, np.zeros(0, dtype=np.int64)])],
            "rank": np.concatenate([*ranks, np.zeros(0, dtype=np.int64)]),
            "score": np.concatenate([*scores, np.zeros(0)]),
        })
