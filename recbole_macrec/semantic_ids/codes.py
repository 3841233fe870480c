"""Containers for the semantic IDs of all items and for learnt codes."""
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from recbole_macrec.data.id_files import tokenization_name
from recbole_macrec.semantic_ids.collisions.base import Geometry
from recbole_macrec.semantic_ids.order import token_order


class GraphRepresentations(NamedTuple):
    """Representations of U users and N items, learnt on the graph of the training interactions; float32."""

    users: np.ndarray  # [U, D]
    items: np.ndarray  # [N, D]


@dataclass(frozen=True)
class SemanticIDs:
    """Semantic IDs of N items in one or more modalities.

    With several tokenizations, the IDs of a modality in each of them count as a modality of their own, named by
    :func:`tokenization_name`.

    The order of the items can be changed by :meth:`reordered`; it does not affect :meth:`fingerprint`.

    Attributes:
        item_tokens: the N item tokens, as in the atomic files; row i of every array belongs to ``item_tokens[i]``.
        codes: modality -> int64 array [N, L], the IDs after collision resolution; ``codes[m][:, l] < sizes[m][l]``.
        sizes: modality -> L codebook sizes.
        raw_codes: modality -> int64 array [N, L_raw], the IDs before collision resolution; items with equal rows
            collide.
        statistics: modality -> plain numbers (collision_rate, usage, perplexity, ...).
        n_new_items: number of items added after training; they are the last ones.
        bundles: modality -> folder with the quantizer that learnt its IDs; published IDs have none.
        graph: representations of users and items, if the settings require them; users in the order of the given interactions.
        item_counts: int64 [N], number of training interactions of each item; None if unknown. Not part of the fingerprint.
    """

    item_tokens: tuple[str, ...]
    codes: dict[str, np.ndarray]
    sizes: dict[str, tuple[int, ...]]
    raw_codes: dict[str, np.ndarray]
    statistics: dict[str, dict] = field(default_factory=dict)
    n_new_items: int = 0
    bundles: dict[str, Path] = field(default_factory=dict)
    graph: GraphRepresentations | None = None
    item_counts: np.ndarray | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.codes)

    @property
    def bundle(self) -> Path | None:
        """The first bundle; None if all IDs are published."""
        return next(iter(self.bundles.values()), None)

    def fingerprint(self) -> str:
        """Hash of item tokens and codes, independent of the order of the items."""
        order = token_order(self.item_tokens)
        digest = hashlib.sha256("\n".join(sorted(self.item_tokens)).encode())
        for modality in self.modalities:
            digest.update(f"\n{modality} {self.sizes[modality]}\n".encode())
            digest.update(np.ascontiguousarray(self.codes[modality][order], dtype=np.int64).tobytes())
        return digest.hexdigest()[:16]

    def reordered(self, items: np.ndarray, users: np.ndarray | None = None) -> "SemanticIDs":
        """Return the IDs with item ``items[i]`` [N] in row i, and user ``users[j]`` [U] in row j of the graph."""
        codes, raw_codes = ({m: array[items] for m, array in arrays.items()} for arrays in (self.codes, self.raw_codes))
        graph = self.graph
        if graph is not None:
            graph = GraphRepresentations(graph.users if users is None else graph.users[users], graph.items[items])
        tokens = tuple(self.item_tokens[i] for i in items)
        counts = None if self.item_counts is None else self.item_counts[items]
        return replace(self, item_tokens=tokens, codes=codes, raw_codes=raw_codes, graph=graph, item_counts=counts)

    def only(self, modalities: Sequence[str]) -> "SemanticIDs":
        """Return the IDs of ``modalities``, in this order."""
        return self._with(lambda part: {m: part[m] for m in modalities if m in part})

    def renamed(self, number: int) -> "SemanticIDs":
        """Return the IDs as those of the tokenization ``number``."""
        return self._with(lambda part: {tokenization_name(m, number): value for m, value in part.items()})

    def joined(self, other: "SemanticIDs") -> "SemanticIDs":
        """Return these IDs and those of ``other``, which has the same items in the same order and other modalities."""
        return replace(self, codes=self.codes | other.codes, sizes=self.sizes | other.sizes,
                       raw_codes=self.raw_codes | other.raw_codes, statistics=self.statistics | other.statistics,
                       bundles=self.bundles | other.bundles, graph=self.graph or other.graph)

    def _with(self, change: Callable[[dict], dict]) -> "SemanticIDs":
        """Change everything that is stored by modality."""
        return replace(self, codes=change(self.codes), sizes=change(self.sizes), raw_codes=change(self.raw_codes),
                       statistics=change(self.statistics), bundles=change(self.bundles))


class LearntModality(NamedTuple):
    """Codes of N items in one modality, and the quantizer that learnt them."""

    codes: np.ndarray  # [N, L] int64, before collision resolution
    geometry: Geometry | None  # None if the codewords are not shared by all items
    reconstruction_error: float | None  # mean squared error of the scaled features; None if features are not reconstructed
    weights: dict[str, Tensor]  # weights for quantizing other items


class LearntCodes(NamedTuple):
    """Result of :meth:`Quantizer.learn`."""

    modalities: dict[str, LearntModality]  # by the name of the ID, usually a modality
    history: list[dict]  # one entry per epoch: losses, and health per modality
    graph: GraphRepresentations | None = None
