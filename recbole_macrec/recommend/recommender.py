"""A trained model with its catalogue, for everything that comes after training.

Legend: B users, F_m feature width of modality m.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from recbole.quick_start import quick_start
from tqdm import tqdm

from recbole_macrec.config.values import check_whole
from recbole_macrec.errors import UserError
from recbole_macrec.generation.decoding.budget import rows_that_fit
from recbole_macrec.generation.decoding.eligible import Eligible
from recbole_macrec.generation.decoding.search import Ranking
from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.model.base import GenerativeRecommender
from recbole_macrec.recommend.input import Sequences, feature_matrix, histories, item_numbers, item_titles, new_tokens
from recbole_macrec.recommend.pretrained import read_pretrained, write_pretrained
from recbole_macrec.recommend.rebuild import with_items_of
from recbole_macrec.semantic_ids.frozen import FrozenQuantizer
from recbole_macrec.semantic_ids.newcomers import with_new_items


class Recommender:
    """Recommends items to histories of item tokens.

        recommender = Recommender.load("saved/TIGER-....pth")         # needs the dataset it was trained on
        recommender.recommend([["i1", "i2"], ["i7"]], k=10)           # DataFrame of user, item, rank, score
        recommender.save_pretrained("tiger")                          # safetensors and JSON
        recommender = Recommender.from_pretrained("tiger")            # needs that folder alone

    Args:
        model: a trained model, such as the one that ``load_data_and_model`` returns. It stays as it is: :meth:`add_items`
            makes another around the same weights.
        titles: item token -> title; by default those of the dataset's ``NAME.item``.
        quantizer: what gives new items their semantic IDs; by default what learnt those of the model.
    """

    def __init__(self, model: GenerativeRecommender, titles: Mapping[str, str] | None = None,
                 quantizer: FrozenQuantizer | None = None):
        if not isinstance(model, GenerativeRecommender):
            raise UserError(f"{type(model).__name__} writes no semantic IDs to recommend by; use a generative model of "
                            "recbole_macrec, or RecBole's full_sort_topk.")
        if model.reads_users:
            raise UserError(f"{type(model).__name__} reads users besides their histories, and knows those of its training alone; "
                            "use RecBole's full_sort_topk.")
        self._use(model)
        self._quantizer = quantizer
        if titles is not None:
            self.titles = dict(titles)

    def _use(self, model: GenerativeRecommender) -> None:
        self.model = model
        self._tokens = np.array(["", *self.item_tokens], dtype=object)  # [n_items], by internal number
        self._numbers = {token: number for number, token in enumerate(self.item_tokens, 1)}

    @classmethod
    def load(cls, file: str | Path, data_path: str | Path | None = None) -> Recommender:
        """The model of a checkpoint, with the dataset it was trained on, or of a folder of :meth:`save_pretrained`.

        Args:
            data_path: the folder with the dataset's folder, where that is neither where it lay in training nor moved together
                with the checkpoint.

        Raises:
            UserError: when there is neither, or it is damaged, or the dataset is missing.
        """
        if Path(file).is_dir():
            if data_path is not None:
                raise UserError(f"data_path is {str(data_path)!r}, but {file} is a folder that needs no dataset; leave data_path out.")
            return cls.from_pretrained(file)
        return cls(quick_start.load_data_and_model(str(file), data_path)[1])

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str | None = None) -> Recommender:
        """The model of a folder of :meth:`save_pretrained`, on ``device`` (by default a GPU where there is one).

        Raises:
            UserError: when the folder is missing, damaged or changed.
        """
        return cls(*read_pretrained(Path(folder), device or ("cuda" if torch.cuda.is_available() else "cpu")))

    def save_pretrained(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write all that :meth:`from_pretrained` needs, added items included; see pretrained.py.

        Raises:
            UserError: when ``folder`` exists; with ``overwrite``, when it is no folder of this method.
        """
        quantizer = self.quantizer if self._has_quantizer else None
        write_pretrained(Path(folder), self.model, self.titles, quantizer, overwrite)

    # -- the catalogue -----------------------------------------------------------------------------------------------

    @property
    def item_tokens(self) -> tuple[str, ...]:
        """All items; those that were added come last."""
        return self.model.semantic_ids.item_tokens

    @cached_property
    def titles(self) -> dict[str, str]:
        """Item token -> title, of the items that have one."""
        return item_titles(self.model.config, self.item_tokens)

    @property
    def _has_quantizer(self) -> bool:
        return self._quantizer is not None or self.model.semantic_ids.bundle is not None

    @property
    def quantizer(self) -> FrozenQuantizer:
        """What learnt the semantic IDs; a UserError where others published them."""
        if not self._has_quantizer:
            raise UserError("This model has published semantic IDs, without the quantizer that could give one to a new item; "
                            "train it with --semantic_ids=learn to add items.")
        if self._quantizer is None:
            ids = self.model.semantic_ids
            self._quantizer = FrozenQuantizer.of_bundle(ids.bundle, ids.modalities)
        return self._quantizer

    def semantic_id(self, item: str) -> dict[str, tuple[int, ...]]:
        """Modality -> the semantic ID of an item."""
        number, ids = item_numbers([item], self._numbers, "semantic_id")[0], self.model.semantic_ids
        return {m: tuple(ids.codes[m][number - 1].tolist()) for m in ids.modalities}

    def add_items(self, features: Mapping[str, Mapping[str, np.ndarray]], titles: Mapping[str, str] | None = None) -> None:
        """Take new items into the catalogue, without training.

        The frozen quantizer gives them semantic IDs; then they can be recommended, and stand in histories. The IDs of
        the items before never change. An item whose ID is taken gets the nearest free one, unless the model lets items
        share IDs (``collision: keep``). How an ID is ranked that the network was not trained on: generation/prior.py.

        Args:
            features: modality -> item token -> feature row [F_m], made the way of those that the IDs were learnt from.
            titles: item token -> title.

        Raises:
            UserError: for features that cannot be used, items that are there already, and models with published IDs.
        """
        quantizer, ids = self.quantizer, self.model.semantic_ids
        tokens = new_tokens(features, ids.modalities, self._numbers)
        matrices = {m: feature_matrix(m, features[m], tokens, quantizer.width(m)) for m in ids.modalities}
        titles = self.titles | dict(titles or {})
        self._use(with_items_of(self.model, with_new_items(ids, quantizer, tokens, matrices)))
        self.titles = titles

    # -- recommendations ---------------------------------------------------------------------------------------------

    def recommend(self, sequences: Sequences, k: int = 10, exclude_seen: bool = False,
                  candidates: Iterable[str] | None = None, batch_size: int = 1024,
                  show_progress: bool = False) -> pd.DataFrame:
        """The best ``k`` items for every history.

        The model ranks as in its evaluation (``decode``, ``num_beams``, ``fusion``), but with at least ``k`` beams, so
        that every user gets ``k`` items where there are as many.

        Args:
            sequences: histories of item tokens, oldest first, or user -> history. The model reads the newest
                ``MAX_ITEM_LIST_LENGTH`` items of each.
            exclude_seen: recommend no item of the user's history, however long it is.
            candidates: recommend no other items; the search runs over the trie of their IDs alone.
            batch_size: users ranked together, fewer where memory is short; changes nothing else.

        Returns:
            One row per recommendation: ``user`` (the key, or the place in the list from 0), ``item`` (token), ``rank``
            from 1, ``score`` (what the model ranks by, see ``decode`` and ``fusion``); users in the order they came in.

        Raises:
            UserError: for items that the catalogue lacks, an empty history, and a ``k`` below 1.
        """
        check_whole(1, k=k, batch_size=batch_size)
        users, rows = histories(sequences, self._numbers)
        tries = dict(self.model.tries.items()) if candidates is None else self._tries(candidates)
        eligible = Eligible(tries, max(self.model.beams, k), top=k)
        if self.model.decode == "exact":
            batch_size = min(batch_size, rows_that_fit(self.model.n_items, "exact", self.model.device))
        was_training = self.model.training
        self.model.eval()
        try:
            ranked = [
                self._rank(rows[begin : begin + batch_size], eligible, k, exclude_seen)
                for begin in tqdm(range(0, len(rows), batch_size), disable=not show_progress, desc="Recommend", unit="batch")
            ]
        finally:
            self.model.train(was_training)
        return self._table(users, ranked)

    def _tries(self, candidates: Iterable[str]) -> dict[str, Trie]:
        """Modality -> the trie of ``candidates``."""
        numbers = np.unique(np.array(item_numbers(candidates, self._numbers, "candidates"), dtype=np.int64))
        if not len(numbers):
            raise UserError("candidates is empty; name at least one item, or leave it out to recommend from all.")
        return self.model.tries_of(numbers)

    def _rank(self, rows: list[list[int]], eligible: Eligible, k: int, exclude_seen: bool) -> Ranking:
        """The ``k`` best of a batch of histories, on the CPU; fewer where there are fewer."""
        model = self.model
        read = [row[-model.max_seq_length :] for row in rows]
        if exclude_seen:
            eligible = eligible._replace(excluded=padded([sorted(set(row)) for row in rows]).to(model.device))
        batch = Interaction({model.ITEM_SEQ: padded(read), model.ITEM_SEQ_LEN: torch.tensor([len(row) for row in read])})
        ranking = model.rank(batch.to(model.device), eligible)["fused"]
        return Ranking(ranking.items[:, :k].cpu(), ranking.scores[:, :k].cpu())

    def _table(self, users: list, ranked: list[Ranking]) -> pd.DataFrame:
        found = [ranking.items.numpy() > 0 for ranking in ranked]  # [B, k]
        counts = np.concatenate([part.sum(1) for part in found]) if found else np.zeros(0, dtype=np.int64)
        ranks = [np.nonzero(part)[1] + 1 for part in found]
        items = [ranking.items.numpy()[part] for ranking, part in zip(ranked, found)]
        scores = [ranking.scores.double().numpy()[part] for ranking, part in zip(ranked, found)]
        return pd.DataFrame({
            "user": pd.Series(users, dtype=None if users else object).repeat(counts).reset_index(drop=True),
            "item": self._tokens[np.concatenate([*items, np.zeros(0, dtype=np.int64)])],
            "rank": np.concatenate([*ranks, np.zeros(0, dtype=np.int64)]),
            "score": np.concatenate([*scores, np.zeros(0)]),
        })


def padded(rows: list[list[int]]) -> torch.Tensor:
    """Rows of different lengths as one int64 [B, longest], filled up with 0."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
