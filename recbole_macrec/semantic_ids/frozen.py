"""A quantizer after its training: the codes it gives to items that it never saw.

Axes: n new items, F feature width, L levels, D code width.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.bundle import read_identity, read_weights
from recbole_macrec.semantic_ids.collisions.base import Geometry
from recbole_macrec.semantic_ids.quantizers.quantizer import ResidualQuantizer
from recbole_macrec.semantic_ids.quantizers.rqvae import AT_ONCE, RQVAE
from recbole_macrec.semantic_ids.rows import Scale, Streamed
from recbole_macrec.semantic_ids.settings import SemanticIDSettings


@dataclass(frozen=True)
class FrozenQuantizer:
    """What learnt the semantic IDs of some modalities, as it was when it gave them.

    Attributes:
        settings: the options it was learnt with.
        weights: ``<modality>/<weight>`` -> tensor, as in a bundle.
    """

    settings: SemanticIDSettings
    weights: Mapping[str, Tensor]

    @classmethod
    def of_bundle(cls, folder: Path, modalities: Sequence[str]) -> "FrozenQuantizer":
        """The quantizer of ``modalities`` in a bundle of semantic IDs.

        Raises:
            UserError: when the bundle is gone or damaged.
        """
        try:
            settings = SemanticIDSettings.from_identity(read_identity(folder))
            weights = {name: torch.from_numpy(array) for name, array in read_weights(folder).items()}
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(f"{folder}: the quantizer there can't be read ({type(error).__name__}: {error}): learn the "
                            "semantic IDs again by running the model on its dataset.") from None
        return cls(settings, {name: w for name, w in weights.items() if name.rpartition("/")[0] in modalities})

    def width(self, modality: str) -> int:
        """F, the features that an item has in ``modality``."""
        return len(self.weights[f"{modality}/mean"])

    @torch.no_grad()
    def quantize(self, modality: str, features: np.ndarray) -> tuple[np.ndarray, Geometry]:
        """Codes [n, L] before collision resolution of features [n, F] float32, and where the items lie.

        Raises:
            UserError: when this kind of quantizer needs more than the features of an item.
        """
        weights = {n.removeprefix(f"{modality}/"): w for n, w in self.weights.items() if n.startswith(f"{modality}/")}
        x = Streamed(features, Scale(weights.pop("mean"), weights.pop("scale")), "cpu")
        if self.settings.quantizer == "rq_kmeans":
            z = torch.cat([(part - weights["pca_mean"]) @ weights["components"].T for part in x.split(AT_ONCE)])
            codebooks = weights["codebooks"]
            quantizer = ResidualQuantizer(*codebooks.shape)
            quantizer.load_state_dict({"codebooks": codebooks})
        elif self.settings.quantizer in ("rqvae", "cross_modal_rqvae"):
            model = RQVAE(x.shape[1], self.settings, torch.Generator())
            model.load_state_dict(weights)
            z, quantizer = model.encode(x), model.quantizer
        else:
            raise UserError(f"quantizer = {self.settings.quantizer} gives no IDs to new items: it needs more than their "
                            "features; use rqvae, cross_modal_rqvae or rq_kmeans.")
        return quantizer.codes(z).numpy(), Geometry(z.numpy(), quantizer.codebooks.numpy())
