"""Baseline without training: PCA, then k-means of the residuals level by level.

Axes: N items, F feature width, L levels, K codes, D code width.
"""
import numpy as np
import torch
from sklearn.decomposition import PCA

from recbole_macrec.semantic_ids.learnt import Learnt, LearntModality, Scale
from recbole_macrec.semantic_ids.quantizer import ResidualQuantizer
from recbole_macrec.semantic_ids.resolve import Geometry
from recbole_macrec.semantic_ids.settings import SemanticIDSettings


def rq_kmeans(features: dict[str, np.ndarray], settings: SemanticIDSettings) -> Learnt:
    """Quantize every modality ([N, F_m], N >= K) on its own; D is ``code_dim``, or less where N or F_m is."""
    return Learnt({m: _one_modality(x, settings) for m, x in features.items()}, history=[])


def _one_modality(features: np.ndarray, settings: SemanticIDSettings) -> LearntModality:
    scale = Scale.of(features, settings.standardize)
    x = scale.apply(features).numpy()  # [N, F]
    pca = PCA(min(settings.code_dim, *x.shape), random_state=settings.semantic_id_seed).fit(x)
    z = torch.from_numpy(pca.transform(x).astype(np.float32))  # [N, D]
    quantizer = ResidualQuantizer(settings.codebook_levels, settings.codebook_size, z.shape[1])
    quantizer.initialise(z, settings.semantic_id_seed)
    with torch.no_grad():
        quantized = quantizer(z)
    x_hat = pca.inverse_transform(quantized.z_hat.numpy())  # [N, F]
    codebooks = quantizer.codebooks.detach()
    weights = {
        "mean": scale.mean,
        "scale": scale.scale,
        "pca_mean": torch.from_numpy(pca.mean_.astype(np.float32)),
        "components": torch.from_numpy(pca.components_.astype(np.float32)),  # [D, F]
        "codebooks": codebooks,
    }
    return LearntModality(quantized.codes.numpy(), Geometry(z.numpy(), codebooks.numpy()),
                          float(np.square(x - x_hat).mean()), weights)
