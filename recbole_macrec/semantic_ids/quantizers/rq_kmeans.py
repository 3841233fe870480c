"""RQ-k-means, a baseline without training: PCA, then k-means of the residuals level by level.

Shapes: N items, F feature width, L levels, K codes, D code width.
"""
from collections.abc import Mapping

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from recbole_macrec.semantic_ids.codes import LearntCodes, LearntModality
from recbole_macrec.semantic_ids.collisions.base import Geometry
from recbole_macrec.semantic_ids.quantizers.base import Execution, Quantizer
from recbole_macrec.semantic_ids.quantizers.residual_quantizer import ResidualQuantizer
from recbole_macrec.semantic_ids.rows import Features, Scale, StreamedFeatures, sample_rows
from recbole_macrec.semantic_ids.settings import SemanticIDSettings
from recbole_macrec.utils.blocks import blocks
from recbole_macrec.utils.device_budget import DeviceBudget


class RQKMeans(Quantizer):
    """PCA, then k-means of the residuals level by level; a baseline without training.

    D is ``code_dim``, or less where N or F_m is.
    """

    shares_codewords = True

    def learn(
        self, features: Mapping[str, Features], settings: SemanticIDSettings, execution: Execution = Execution()
    ) -> LearntCodes:
        return LearntCodes({m: _one_modality(x, settings) for m, x in features.items()}, history=[])

    def quantize(
        self, x: StreamedFeatures, weights: dict[str, Tensor], settings: SemanticIDSettings
    ) -> tuple[np.ndarray, Geometry]:
        parts = x.split(DeviceBudget.of(x.device).encoded_items)
        z = torch.cat([(part - weights["pca_mean"]) @ weights["components"].T for part in parts])
        quantizer = ResidualQuantizer(*weights["codebooks"].shape)
        quantizer.load_state_dict({"codebooks": weights["codebooks"]})
        return quantizer.codes(z).numpy(), Geometry(z.numpy(), quantizer.codebooks.detach().numpy())


def _one_modality(x: Features, settings: SemanticIDSettings) -> LearntModality:
    scale, seed = Scale.fit(x, settings.standardize), settings.semantic_id_seed
    pca = PCA(min(settings.code_dim, *x.shape), random_state=seed).fit(scale.apply(sample_rows(x, seed)).numpy())
    z = torch.empty(len(x), pca.n_components_)  # [N, D]
    for part, block in zip(blocks(z), blocks(x)):
        part.copy_(torch.from_numpy(pca.transform(scale.apply(block).numpy())))
    quantizer = ResidualQuantizer(settings.codebook_levels, settings.codebook_size, z.shape[1]).requires_grad_(False)
    quantizer.initialise(z, seed)
    codes, error = torch.empty(len(x), settings.codebook_levels, dtype=torch.int64), 0.0
    for part, z_block, block in zip(blocks(codes), blocks(z), blocks(x)):
        quantized = quantizer(z_block)
        part.copy_(quantized.codes)
        error += float(np.square(scale.apply(block).numpy() - pca.inverse_transform(quantized.z_hat.numpy())).sum())
    codebooks = quantizer.codebooks.detach()
    weights = {
        "mean": scale.mean,
        "scale": scale.scale,
        "pca_mean": torch.from_numpy(pca.mean_.astype(np.float32)),
        "components": torch.from_numpy(pca.components_.astype(np.float32)),  # [D, F]
        "codebooks": codebooks,
    }
    return LearntModality(codes.numpy(), Geometry(z.numpy(), codebooks.numpy()),
                          error / (x.shape[0] * x.shape[1]), weights)
