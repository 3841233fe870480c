"""Interface of the quantizers.

Shapes: N items, n new items, F_m feature width of modality m, L levels, D code width.
"""
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from recbole_macrec.semantic_ids.codes import LearntCodes
from recbole_macrec.semantic_ids.collisions.base import Geometry
from recbole_macrec.semantic_ids.rows import Features, StreamedFeatures
from recbole_macrec.semantic_ids.settings import SemanticIDSettings
from recbole_macrec.utils.distributed import ALONE, Group


class Execution(NamedTuple):
    """Options of the execution of a quantizer's training, which change codes only by rounding."""

    device: str = "cpu"
    show_progress: bool = True
    group: Group = ALONE  # the processes that train together, all with the same features; the first one needs the result
    state_folder: Path | None = None  # folder for the states of a training, from which the next call resumes; None: not kept

    def state_file(self, name: str) -> Path | None:
        """File for the state of the training ``name``; None if no state is kept."""
        return None if self.state_folder is None else self.state_folder / f"{name}.pt"


class Quantizer(ABC):
    """A method that turns features of items into codes.

    The first line of its docstring describes it in the documentation of the option ``quantizer``.

    Attributes:
        joins_modalities: whether it learns the codes of two or more modalities together. Otherwise every modality is learnt
            alone.
        reads_interactions: whether it reads the training interactions [U, N] instead of features; ``features`` of :meth:`learn`
            then maps the name of every ID to them.
        auxiliary_features: names of further features that :meth:`learn` needs and that are no modalities.
        shares_codewords: whether all items share the codewords of a level, which are the geometry of the codes.
        trains_in_processes: whether several processes can train it together. Otherwise the first process learns the codes.
    """

    joins_modalities: ClassVar[bool] = False
    shares_codewords: ClassVar[bool] = False
    trains_in_processes: ClassVar[bool] = False
    reads_interactions: ClassVar[bool] = False
    auxiliary_features: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def learn(
        self, features: Mapping[str, Features], settings: SemanticIDSettings, execution: Execution = Execution()
    ) -> LearntCodes:
        """Learn codes of all items.

        Args:
            features: name of the ID (usually a modality) -> float32 [N, F_m], N >= ``codebook_size``. An array, or an object
                that reads rows when it is indexed; :class:`~recbole_macrec.semantic_ids.rows.Scale` standardizes its columns.
            settings: ``codebook_levels``, ``codebook_size``, ``semantic_id_seed`` and the quantizer's own options.

        Returns:
            For each ID a ``LearntModality``: codes int64 [N, L] below ``codebook_size``, the geometry if
            :attr:`shares_codewords`, the reconstruction error, and weights as float32 tensors, which are saved. The weights
            contain at least ``mean`` and ``scale`` [F_m] of the features.
        """

    def quantize(
        self, x: StreamedFeatures, weights: dict[str, Tensor], settings: SemanticIDSettings
    ) -> tuple[np.ndarray, Geometry | None]:
        """Compute the codes of new items. A quantizer without this method cannot add items to a trained model.

        Args:
            x: features of the n new items, standardized by ``mean`` and ``scale``.
            weights: the weights of the learnt modality, without ``mean`` and ``scale``.

        Returns:
            Codes int64 [n, L] and their geometry, None if there is none.
        """
        raise NotImplementedError

    def sizes(self, codes: np.ndarray, settings: SemanticIDSettings) -> tuple[int, ...]:
        """Number of possible codes of each level of learnt ``codes`` [N, L]."""
        return (settings.codebook_size,) * settings.codebook_levels

    @classmethod
    def quantizes_new_items(cls) -> bool:
        """Whether the class implements :meth:`quantize`."""
        return cls.quantize is not Quantizer.quantize
