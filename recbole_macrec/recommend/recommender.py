"""Recommendations of a trained model.

Shapes: B users, F_m feature width of modality m.
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
from recbole_macrec.generation.decoding.budget import max_users_in_memory
from recbole_macrec.generation.decoding.eligible import Eligible
from recbole_macrec.generation.decoding.search import Ranking
from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.model.base import GenerativeRecommender
from recbole_macrec.recommend.input import Sequences, feature_matrix, histories, item_numbers, item_titles, new_tokens
from recbole_macrec.recommend.pretrained import read_pretrained, write_pretrained
from recbole_macrec.recommend.rebuild import with_items_of
from recbole_macrec.semantic_ids.frozen import FrozenQuantizer
from recbole_macrec.semantic_ids.new_items import with_new_items


class Recommender:
    """A trained model with its catalogue; recommends items for histories of item tokens.

        recommender = Recommender.load("saved/TIGER-....pth")         # needs the dataset of the training
        recommender.recommend([["i1", "i2"], ["i7"]], k=10)           # DataFrame of user, item, rank, score
        recommender.save_pretrained("tiger")                          # safetensors and JSON
        recommender = Recommender.from_pretrained("tiger")            # needs only this folder

    Args:
        model: a trained model, e.g. from ``load_data_and_model``. It is not changed: :meth:`add_items` creates another model
            that shares its weights.
        titles: item token -> title; by default those of the dataset's ``NAME.item``.
        quantizer: quantizer for the semantic IDs of new items; by default the one that learnt the model's IDs.
    """

    def __init__(self, model: GenerativeRecommender, titles: Mapping[str, str] | None = None,
                 quantizer: FrozenQuantizer | None = None):
        if not isinstance(model, GenerativeRecommender):
            raise UserError(f"{type(model).__name__} does not generate semantic IDs; use a generative model of "
                            "recbole_macrec, or RecBole's full_sort_topk.")
        if model.requires_users:
            raise UserError(f"{type(model).__name__} reads users besides histories and ranks only for the users of its "
                            "training; use RecBole's full_sort_topk.")
        self._set_model(model)
        self._quantizer = quantizer
        if titles is not None:
            self.titles = dict(titles)

    def _set_model(self, model: GenerativeRecommender) -> None:
        self.model = model
        self._tokens = np.array(["", *self.item_tokens], dtype=object)  # [n_items], by internal number
        self._numbers = {token: number for number, token in enumerate(self.item_tokens, 1)}

    @classmethod
    def load(cls, file: str | Path, data_path: str | Path | None = None) -> Recommender:
        """Load a checkpoint, which needs the dataset of the training, or a folder of :meth:`save_pretrained`.

        Args:
            file: the checkpoint or the folder.
            data_path: folder with the dataset's folder, if this is neither at its path of the training nor moved together
                with the checkpoint.

        Raises:
            UserError: the file is missing or damaged, or the dataset is missing.
        """
        if Path(file).is_dir():
            if data_path is not None:
                raise UserError(f"data_path is {str(data_path)!r}, but the folder {file} needs no dataset; remove data_path.")
            return cls.from_pretrained(file)
        return cls(quick_start.load_data_and_model(str(file), data_path)[1])

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str | None = None) -> Recommender:
        """Load a folder of :meth:`save_pretrained` on ``device`` (by default a GPU, if available).

        Raises:
            UserError: the folder is missing, damaged or changed.
        """
        return cls(*read_pretrained(Path(folder), device or ("cuda" if torch.cuda.is_available() else "cpu")))

    def save_pretrained(self, folder: str | Path, overwrite: bool = False) -> None:
        """Save the model, including added items, for :meth:`from_pretrained`; see pretrained.py.

        Raises:
            UserError: ``folder`` exists; with ``overwrite``, only if it is not a folder of this method.
        """
        quantizer = self.quantizer if self._has_quantizer else None
        write_pretrained(Path(folder), self.model, self.titles, quantizer, overwrite)

    # -- the catalogue -----------------------------------------------------------------------------------------------

    @property
    def item_tokens(self) -> tuple[str, ...]:
        """All items, added ones last."""
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
        """The quantizer that learnt the semantic IDs; raises a UserError for published IDs."""
        if not self._has_quantizer:
            raise UserError("This model has published semantic IDs and no quantizer, which new items need; train it with "
                            "--semantic_ids=learn to add items.")
        if self._quantizer is None:
            ids = self.model.semantic_ids
            self._quantizer = FrozenQuantizer.of_bundle(ids.bundle, ids.modalities)
        return self._quantizer

    def semantic_id(self, item: str) -> dict[str, tuple[int, ...]]:
        """Modality -> the semantic ID of an item."""
        number, ids = item_numbers([item], self._numbers, "semantic_id")[0], self.model.semantic_ids
        return {m: tuple(ids.codes[m][number - 1].tolist()) for m in ids.modalities}

    def add_items(self, features: Mapping[str, Mapping[str, np.ndarray]], titles: Mapping[str, str] | None = None) -> None:
        """Add new items to the catalogue, without training.

        The frozen quantizer computes their semantic IDs; then they can be recommended and occur in histories. The IDs of
        existing items never change. A new item whose ID is in use gets the nearest free one, unless the model lets items
        share IDs (``collision: keep``). generation/decoding/prior.py describes how IDs are ranked that the network was not
        trained on.

        Args:
            features: modality -> item token -> feature row [F_m], computed like the features that the IDs were learnt from.
            titles: item token -> title.

        Raises:
            UserError: for invalid features, items already in the catalogue, and models with published IDs.
        """
        quantizer, ids = self.quantizer, self.model.semantic_ids
        tokens = new_tokens(features, ids.modalities, self._numbers)
        matrices = {m: feature_matrix(m, features[m], tokens, quantizer.width(m)) for m in ids.modalities}
        titles = self.titles | dict(titles or {})
        self._set_model(with_items_of(self.model, with_new_items(ids, quantizer, tokens, matrices)))
        self.titles = titles

    # -- recommendations ---------------------------------------------------------------------------------------------

    def recommend(self, sequences: Sequences, k: int = 10, exclude_seen: bool = False,
                  candidates: Iterable[str] | None = None, batch_size: int = 1024,
                  show_progress: bool = False) -> pd.DataFrame:
        """Recommend ``k`` items for every history.

        The model ranks as in evaluation (``decode``, ``num_beams``, ``fusion``), but with at least ``k`` beams, so that every
        user gets ``k`` items if there are as many.

        Args:
            sequences: histories of item tokens, oldest first, or user -> history. The model reads the newest
                ``MAX_ITEM_LIST_LENGTH`` items of each.
            exclude_seen: do not recommend items of the user's history, even beyond ``MAX_ITEM_LIST_LENGTH``.
            candidates: recommend only these items; the search uses the trie of their IDs.
            batch_size: users ranked together, fewer if memory is short. Does not change the result.

        Returns:
            One row per recommendation: ``user`` (the key, or the position in the list from 0), ``item`` (token), ``rank``
            from 1, ``score`` (see the options ``decode`` and ``fusion``); users in the given order.

        Raises:
            UserError: for items that are not in the catalogue, an empty history, and a ``k`` below 1.
        """
        check_whole(1, k=k, batch_size=batch_size)
        users, rows = histories(sequences, self._numbers)
        tries = dict(self.model.tries.items()) if candidates is None else self._tries(candidates)
        eligible = Eligible(tries, max(self.model.beams, k), top=k)
        if self.model.decode == "exact":
            batch_size = min(batch_size, max_users_in_memory(self.model.n_items, "exact", self.model.device))
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
        """Build the tries of ``candidates`` by modality."""
        numbers = np.unique(np.array(item_numbers(candidates, self._numbers, "candidates"), dtype=np.int64))
        if not len(numbers):
            raise UserError("candidates is empty; give at least one item, or None to recommend from all items.")
        return self.model.build_tries(numbers)

    def _rank(self, rows: list[list[int]], eligible: Eligible, k: int, exclude_seen: bool) -> Ranking:
        """Rank at most ``k`` items for a batch of histories; returned on the CPU."""
        model = self.model
        read = [row[-model.max_seq_length :] for row in rows]
        if exclude_seen:
            eligible = eligible._replace(excluded=padded([sorted(set(row)) for row in rows]).to(model.device))
        batch = Interaction({model.ITEM_SEQ: padded(read), model.ITEM_SEQ_LEN: torch.tensor([len(row) for row in read])})
        ranking = model.rank(batch.to(model.device), eligible)["fused"]
        return Ranking(ranking.items[:, :k].cpu(), ranking.scores[:, :k].cpu())

    def _table(self, users: list, ranked: list[Ranking]) -> pd.DataFrame:
        exists = [ranking.items.numpy() > 0 for ranking in ranked]  # [B, k]
        counts = np.concatenate([part.sum(1) for part in exists]) if exists else np.zeros(0, dtype=np.int64)
        ranks = [np.nonzero(part)[1] + 1 for part in exists]
        items = [ranking.items.numpy()[part] for ranking, part in zip(ranked, exists)]
        scores = [ranking.scores.double().numpy()[part] for ranking, part in zip(ranked, exists)]
        return pd.DataFrame({
            "user": pd.Series(users, dtype=None if users else object).repeat(counts).reset_index(drop=True),
            "item": self._tokens[np.concatenate([*items, np.zeros(0, dtype=np.int64)])],
            "rank": np.concatenate([*ranks, np.zeros(0, dtype=np.int64)]),
            "score": np.concatenate([*scores, np.zeros(0)]),
        })


def padded(rows: list[list[int]]) -> torch.Tensor:
    """Pad rows of different lengths with 0; int64 [B, longest]."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
