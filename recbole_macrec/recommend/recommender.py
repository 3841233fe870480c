"""Recommendations of trained models.

Shapes: M models, B users, C candidates of a user, F_m feature width of modality m.
"""
from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.quick_start import quick_start

from recbole_macrec.config.validation import check_whole
from recbole_macrec.data.id_files import modality_of
from recbole_macrec.errors import UserError
from recbole_macrec.generation.decoding.ranker import max_users_in_memory
from recbole_macrec.generation.decoding.search import Ranking
from recbole_macrec.generation.decoding.weighted import TOP, fused_scores
from recbole_macrec.model.base import GenerativeRecommender
from recbole_macrec.model.windowed import WindowedRecommender
from recbole_macrec.recommend.base import ItemRecommender, Rank
from recbole_macrec.recommend.input import feature_matrix, item_titles, new_tokens
from recbole_macrec.recommend.pretrained import is_pretrained, read_pretrained, write_pretrained
from recbole_macrec.recommend.rebuild import with_items_of
from recbole_macrec.semantic_ids.frozen import FrozenQuantizer
from recbole_macrec.semantic_ids.new_items import with_new_items
from recbole_macrec.utils.files import replace_folder
from recbole_macrec.utils.hardware import available_device
from recbole_macrec.utils.sorted_rows import distinct

FUSION, FUSION_FORMAT = "fusion.json", "recbole_macrec fusion, version 1"


class Recommender(ItemRecommender):
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

    def __init__(self, model: WindowedRecommender, titles: Mapping[str, str] | None = None,
                 quantizer: FrozenQuantizer | None = None):
        if not isinstance(model, WindowedRecommender):
            other = "its method recommend" if hasattr(model, "recommend") else "RecBole's full_sort_topk"
            raise UserError(f"{type(model).__name__} can't rank for any history, which Recommender needs; use {other}.")
        if model.requires_users:
            raise UserError(f"{type(model).__name__} reads users besides histories and ranks only for the users of its "
                            "training; use RecBole's full_sort_topk.")
        self.model = model
        self._quantizer = quantizer
        if titles is not None:
            self.titles = dict(titles)

    @classmethod
    def load(cls, file: str | Path, data_path: str | Path | None = None) -> ItemRecommender:
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
            return (FusedRecommender if (Path(file) / FUSION).is_file() else cls).from_pretrained(file)
        return cls(quick_start.load_data_and_model(str(file), data_path)[1])

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str | None = None) -> Recommender:
        """Load a folder of :meth:`save_pretrained` on ``device`` (by default a GPU, if available).

        Raises:
            UserError: the folder is missing, damaged or changed, or the device is unavailable.
        """
        return cls(*read_pretrained(Path(folder), available_device(device)))

    def save_pretrained(self, folder: str | Path, overwrite: bool = False) -> None:
        """Save the model, including added items, for :meth:`from_pretrained`; see pretrained.py.

        Raises:
            UserError: ``folder`` exists; with ``overwrite``, only if it is not a folder of this method. Or the model reads
                item features.
        """
        if self.model.reads_features(self.model.config):
            raise UserError(
                f"{type(self.model).__name__} reads item features, which a saved folder does not contain; use its checkpoint "
                "and the dataset."
            )
        quantizer = self.quantizer if self._has_quantizer else None
        write_pretrained(Path(folder), self.model, self.titles, quantizer, overwrite)

    @staticmethod
    def fuse(recommenders: Sequence[Recommender], weights: Sequence[float], top: int = TOP) -> FusedRecommender:
        """Recommend by several models together; see :class:`FusedRecommender`."""
        return FusedRecommender(recommenders, weights, top)

    # -- the catalogue -----------------------------------------------------------------------------------------------

    @property
    def item_tokens(self) -> tuple[str, ...]:
        """All items, added ones last."""
        return self.model.ids_of_items.item_tokens

    @cached_property
    def titles(self) -> dict[str, str]:
        """Item token -> title, of the items that have one."""
        return item_titles(self.model.config, self.item_tokens)

    @property
    def excludes_seen(self) -> bool:
        return self.model.exclude_seen

    @property
    def _has_quantizer(self) -> bool:
        """Whether :attr:`quantizer` exists: the model has semantic IDs, and none of them are published."""
        ids = self.model.ids_of_items
        return self._quantizer is not None or 0 < len(ids.modalities) == len(ids.bundles)

    @property
    def quantizer(self) -> FrozenQuantizer:
        """The quantizer that learnt the semantic IDs; raises a UserError for published IDs, and without IDs."""
        ids = self.model.ids_of_items
        if not ids.modalities:
            raise UserError(
                f"{type(self.model).__name__} has an embedding of its own for every item and no semantic IDs, so it cannot "
                "read new items; train it again with them."
            )
        if self._quantizer is None:
            if not self._has_quantizer:
                published = ", ".join(m for m in ids.modalities if m not in ids.bundles)
                raise UserError(
                    f"This model has published semantic IDs ({published}) and no quantizer for them, which new items need; "
                    "train it with --semantic_ids=learn to add items."
                )
            self._quantizer = FrozenQuantizer.of_ids(ids)
        return self._quantizer

    def semantic_id(self, item: str) -> dict[str, tuple[int, ...]]:
        """Modality -> the semantic ID of an item."""
        if item not in self._numbers:
            raise UserError(f"item is {item!r}, which is not in the catalogue of the model; item_tokens has all items.")
        number, ids = self._numbers[item], self.model.ids_of_items
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
        quantizer, ids = self.quantizer, self.model.ids_of_items
        if not isinstance(self.model, GenerativeRecommender):
            raise UserError(
                f"{type(self.model).__name__} has an embedding of its own for every item, so it cannot read new items; train "
                "it again with them."
            )
        sources = {m: quantizer.sources(m) for m in map(modality_of, ids.modalities)}
        tokens = new_tokens(features, list(dict.fromkeys(chain(*sources.values()))), self._numbers)
        matrices = {
            m: feature_matrix({source: features[source] for source in read}, tokens, quantizer.width(m))
            for m, read in sources.items()
        }
        titles = self.titles | dict(titles or {})
        self.model = with_items_of(self.model, with_new_items(ids, quantizer, tokens, matrices))
        self.titles = titles
        del self._numbers  # of the old catalogue

    # -- recommendations ---------------------------------------------------------------------------------------------

    def scores(self, rows: list[list[int]], items: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of items [B, C] (numbers, 0 for none) after histories of item numbers; -inf for none."""
        return self.model.item_scores(self._batch(rows), items.to(self.model.device)).cpu()

    def users_at_once(self, batch_size: int) -> int:
        whole = not isinstance(self.model, GenerativeRecommender) or self.model.ranking.decode in ("exact", "fused")
        return min(batch_size, max_users_in_memory(self.model.n_items, "exact", self.model.device)) if whole else batch_size

    @contextmanager
    def ranking(self, k: int, allowed: np.ndarray | None, exclude_seen: bool) -> Iterator[Rank]:
        model, was_training = self.model, self.model.training
        model.eval()
        try:
            yield partial(self._rank, k, model.restriction(allowed), exclude_seen)
        finally:
            model.train(was_training)

    def _rank(self, k: int, restriction: Any, exclude_seen: bool, rows: list[list[int]]) -> Ranking:
        excluded = padded([sorted(set(row)) for row in rows]).to(self.model.device) if exclude_seen else None
        ranking = self.model.best_items(self._batch(rows), k, restriction, excluded)
        return Ranking(*(column.cpu() for column in ranking.first(k)))

    def _batch(self, rows: list[list[int]]) -> Interaction:
        model = self.model
        read = [row[-model.max_seq_length :] for row in rows]
        batch = Interaction({model.ITEM_SEQ: padded(read), model.ITEM_SEQ_LEN: torch.tensor([len(row) for row in read])})
        return batch.to(model.device)


class FusedRecommender(ItemRecommender):
    """Ranks the best items of several models by the weighted sum of their log-probabilities.

    The candidates of a user are the ``top`` best items of each model. The command ``benchmark fuse`` chooses ``weights`` on the
    validation data of a comparison; they are in ``result.json`` of the fused run.

    Args:
        recommenders: at least two, of the same items.
        weights: one for each recommender, not negative, not all 0.
        top: candidates of each model.

    Raises:
        UserError: fewer than two recommenders, one that is no single model, other items, or invalid weights.
    """

    def __init__(self, recommenders: Sequence[Recommender], weights: Sequence[float], top: int = TOP):
        if len(recommenders) < 2 or len(recommenders) != len(weights):
            raise UserError(
                f"{len(recommenders)} recommenders and {len(weights)} weights; give at least two recommenders and a weight "
                "for each."
            )
        if others := [each for each in recommenders if not isinstance(each, Recommender)]:
            raise UserError(
                f"recommenders contains a {type(others[0]).__name__}; give a Recommender for each model, such as "
                "Recommender.load(FILE), and for a fusion those of its models."
            )
        try:
            values = np.asarray(weights, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.array([np.nan])
        if not np.isfinite(values).all() or values.min() < 0 or values.max() == 0:
            raise UserError(
                f"weights is {list(weights)}; expected numbers that are not negative, at least one of them above 0."
            )
        check_whole(1, top=top)
        self.recommenders, self.weights, self.top = list(recommenders), [float(weight) for weight in weights], top
        self._number_items()

    def _number_items(self) -> None:
        """Map item numbers of the first model to those of each model, and back."""
        tokens = self.item_tokens
        if any(set(other.item_tokens) != set(tokens) for other in self.recommenders[1:]):
            raise UserError(
                "The recommenders know different items; train them on the same dataset, and add new items to all of them."
            )
        tables = [recommender._numbers for recommender in self.recommenders]
        self._own = [np.array([0, *(numbers[token] for token in tokens)]) for numbers in tables]
        self._first = [np.argsort(own) for own in self._own]

    @property
    def item_tokens(self) -> tuple[str, ...]:
        return self.recommenders[0].item_tokens

    @property
    def _numbers(self) -> dict[str, int]:
        return self.recommenders[0]._numbers  # up to date also after add_items

    @property
    def titles(self) -> dict[str, str]:
        return self.recommenders[0].titles

    @property
    def excludes_seen(self) -> bool:
        return any(recommender.excludes_seen for recommender in self.recommenders)

    def save_pretrained(self, folder: str | Path, overwrite: bool = False) -> None:
        """Save the models and their weights in one folder, which :meth:`Recommender.load` reads.

        Raises:
            UserError: ``folder`` exists; with ``overwrite``, only if it is not a folder of this method.
        """
        folder = Path(folder)
        if folder.exists() and not (overwrite and _is_fusion(folder)):
            raise UserError(f"{folder} already exists; choose another folder, or replace a saved fusion, without other files, "
                            "with overwrite=True.")
        with replace_folder(folder, overwrite) as fresh:
            for number, recommender in enumerate(self.recommenders):
                recommender.save_pretrained(fresh / str(number))
                (fresh / f".{number}.lock").unlink(missing_ok=True)
            content = {"format": FUSION_FORMAT, "weights": self.weights, "top": self.top}
            (fresh / FUSION).write_text(json.dumps(content, indent=1), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str | None = None) -> FusedRecommender:
        """Load a folder of :meth:`save_pretrained` on ``device`` (by default a GPU, if available).

        Raises:
            UserError: the folder is missing or damaged.
        """
        path = Path(folder) / FUSION
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FUSION_FORMAT:
                raise ValueError(f"its format is not '{FUSION_FORMAT}'")
            weights, top = [float(weight) for weight in content["weights"]], int(content["top"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{path} can't be read as a fusion of recbole_macrec ({error}); save it again.") from None
        folders = [Path(folder) / str(number) for number in range(len(weights))]
        return cls([Recommender.from_pretrained(own, device) for own in folders], weights, top)

    def users_at_once(self, batch_size: int) -> int:
        return min(recommender.users_at_once(batch_size) for recommender in self.recommenders)

    @contextmanager
    def ranking(self, k: int, allowed: np.ndarray | None, exclude_seen: bool) -> Iterator[Rank]:
        if any(len(own) != 1 + len(other.item_tokens) for own, other in zip(self._own, self.recommenders)):  # items were added
            self._number_items()
        with ExitStack() as stack:
            ranks = [
                stack.enter_context(
                    recommender.ranking(max(k, self.top), None if allowed is None else np.sort(own[allowed]), exclude_seen)
                )
                for recommender, own in zip(self.recommenders, self._own)
            ]
            yield partial(self._rank, ranks, k)

    def _rank(self, ranks: list[Rank], k: int, rows: list[list[int]]) -> Ranking:
        lists, histories = [], [[own[row].tolist() for row in rows] for own in self._own]
        for rank, first, read in zip(ranks, self._first, histories):
            lists.append(first[rank(read).items.numpy()])
        items = distinct(torch.from_numpy(np.concatenate(lists, axis=1))).numpy()
        scores = torch.stack([
            recommender.scores(read, torch.from_numpy(own[items]))
            for recommender, own, read in zip(self.recommenders, self._own, histories)
        ])  # fmt: skip
        fused, place = fused_scores(scores, torch.tensor(self.weights)).sort(dim=1, descending=True, stable=True)
        return Ranking(torch.from_numpy(items).gather(1, place), fused).first(k)


def _is_fusion(folder: Path) -> bool:
    """Whether ``folder`` contains only files of :meth:`FusedRecommender.save_pretrained`."""
    if not (folder / FUSION).is_file():
        return False
    return all(path.name == FUSION or path.name.isdecimal() and is_pretrained(path) for path in folder.iterdir())


def padded(rows: list[list[int]]) -> torch.Tensor:
    """Pad rows of different lengths with 0; int64 [B, longest]."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
