"""Baseline without training: PCA, then k-means of the residuals level by level.

Axes: N items, F feature width, L levels, K codes, D code width.
"""
import numpy as np
import torch
from sklearn.decomposition import PCA

from recbole_macrec.data.blocks import blocks
from recbole_macrec.semantic_ids.collisions import Geometry
from recbole_macrec.semantic_ids.learnt import Learnt, LearntModality
from recbole_macrec.semantic_ids.quantizer import ResidualQuantizer
from recbole_macrec.semantic_ids.rows import Features, Scale, sample
from recbole_macrec.semantic_ids.settings import SemanticIDSettings


def rq_kmeans(features: dict[str, Features], settings: SemanticIDSettings) -> Learnt:
    """Quantize every modality ([N, F_m], N >= K) on its own; D is ``code_dim``, or less where N or F_m is."""
    return Learnt({m: _one_modality(x, settings) for m, x in features.items()}, history=[])


def _one_modality(x: Features, settings: SemanticIDSettings) -> LearntModality:
    scale, seed = Scale.of(x, settings.standardize), settings.semantic_id_seed
    pca = PCA(min(settings.code_dim, *x.shape), random_state=seed).fit(scale.apply(sample(x, seed)).numpy())
    z = np.concatenate([pca.transform(scale.apply(block).numpy()) for block in blocks(x)])
    z = torch.from_numpy(z.astype(np.float32))  # [N, D]
    quantizer = ResidualQuantizer(settings.codebook_levels, settings.codebook_size, z.shape[1])
    quantizer.initialise(z, seed)
    with torch.no_grad():
        quantized = quantizer(z)
    error = sum(
        float(np.square(scale.apply(block).numpy() - pca.inverse_transform(z_hat)).sum())
        for block, z_hat in zip(blocks(x), blocks(quantized.z_hat.numpy()))
    )
    codebooks = quantizer.codebooks.detach()
    weights = {
        "mean": scale.mean,
        "scale": scale.scale,
        "pca_mean": torch.from_numpy(pca.mean_.astype(np.float32)),
        "components": torch.from_numpy(pca.components_.astype(np.float32)),  # [D, F]
        "codebooks": codebooks,
    }
    return LearntModality(quantized.codes.numpy(), Geometry(z.numpy(), codebooks.numpy()),
                          error / (x.shape[0] * x.shape[1]), weights)
