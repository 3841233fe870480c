"""A trained quantizer, which computes codes of new items.

Shapes: n new items, F feature width, L levels, D code width.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from recbole_macrec.data.id_files import modality_of
from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.bundle import read_identity, read_weights
from recbole_macrec.semantic_ids.codes import SemanticIDs
from recbole_macrec.semantic_ids.collisions.base import Geometry
from recbole_macrec.semantic_ids.quantizers import QUANTIZERS
from recbole_macrec.semantic_ids.rows import Scale, StreamedFeatures
from recbole_macrec.semantic_ids.settings import SemanticIDSettings


@dataclass(frozen=True)
class FrozenQuantizer:
    """The quantizer that learnt the semantic IDs of some modalities.

    Attributes:
        settings: the options of its training.
        weights: ``<modality>/<weight>`` -> tensor, as in a bundle; of further tokenizations ``<modality>@2/<weight>``, ...
    """

    settings: SemanticIDSettings
    weights: Mapping[str, Tensor]

    @classmethod
    def of_bundle(cls, folder: Path, modalities: Sequence[str]) -> "FrozenQuantizer":
        """Load the quantizer of ``modalities`` from a bundle of semantic IDs.

        Raises:
            UserError: the bundle is missing or damaged.
        """
        try:
            settings = SemanticIDSettings.from_identity(read_identity(folder))
            weights = {name: torch.from_numpy(array) for name, array in read_weights(folder).items()}
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(f"{folder}: the quantizer there can't be read ({type(error).__name__}: {error}); learn the "
                            "semantic IDs again by running the model on its dataset.") from None
        return cls(settings, {name: w for name, w in weights.items() if name.rpartition("/")[0] in modalities})

    @classmethod
    def of_ids(cls, ids: SemanticIDs) -> "FrozenQuantizer":
        """Load the quantizers of learnt ``ids``: a bundle per tokenization, with the same settings but the seed.

        Raises:
            UserError: a bundle is missing or damaged.
        """
        weights: dict[str, Tensor] = {}
        for name in ids.modalities:
            modality = modality_of(name)
            own = cls.of_bundle(ids.bundles[name], [modality])
            weights |= {name + weight.removeprefix(modality): value for weight, value in own.weights.items()}
        return cls(own.settings, weights)

    def sources(self, modality: str) -> tuple[str, ...]:
        """The modalities whose features, side by side, :meth:`quantize` reads for the ID ``modality``.

        Raises:
            UserError: this kind of quantizer needs more than the features of an item.
        """
        self._check_new_items()
        return self.settings.modalities if self.settings.representation == "concatenated" else (modality,)

    def width(self, modality: str) -> int:
        """F, number of features of an item for the ID ``modality``.

        Raises:
            UserError: this kind of quantizer needs more than the features of an item.
        """
        self._check_new_items()
        return len(self.weights[f"{modality}/mean"])

    @torch.no_grad()
    def quantize(self, modality: str, features: np.ndarray) -> tuple[np.ndarray, Geometry | None]:
        """Compute the codes [n, L] of features [n, F] float32, before collision resolution, and their geometry.

        Raises:
            UserError: this kind of quantizer needs more than the features of an item.
        """
        self._check_new_items()
        weights = {n.removeprefix(f"{modality}/"): w for n, w in self.weights.items() if n.startswith(f"{modality}/")}
        x = StreamedFeatures(features, Scale(weights.pop("mean"), weights.pop("scale")), "cpu")
        return QUANTIZERS[self.settings.quantizer]().quantize(x, weights, self.settings)

    def _check_new_items(self) -> None:
        if self.settings.representation == "graph":
            raise UserError("representation = graph cannot give IDs to new items, as the graph has no interactions with them; "
                            "use concatenated or modality.")
        if not QUANTIZERS[self.settings.quantizer].quantizes_new_items():
            able = [name for name, other in QUANTIZERS.items() if other.quantizes_new_items()]
            raise UserError(f"quantizer = {self.settings.quantizer} cannot compute IDs of new items, as it needs more than "
                            f"their features; use {' or '.join(able)}.")
