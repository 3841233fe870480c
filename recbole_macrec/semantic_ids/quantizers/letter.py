"""LETTER: an RQ-VAE whose codes follow a collaborative signal and are used evenly.

Shapes: B batch, N items, F feature width, L levels, K codes of a level, D code width, G clusters of a codebook.
"""
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.codes import LearntCodes
from recbole_macrec.semantic_ids.quantizers.base import Execution
from recbole_macrec.semantic_ids.quantizers.kmeans import kmeans_centres
from recbole_macrec.semantic_ids.quantizers.rqvae_training import RQVAEQuantizer, RQVAETraining, learn_alone
from recbole_macrec.semantic_ids.rows import Features
from recbole_macrec.semantic_ids.settings import SemanticIDSettings
from recbole_macrec.utils.distributed import ALONE, Group
from recbole_macrec.utils.lookup import rows_of

COLLABORATIVE = "collaborative vectors"  # name of the vectors among the features
CLUSTERS = 10  # of the codewords of a level; fewer if these would have less than two codewords


class LETTER(RQVAEQuantizer):
    """An RQ-VAE per modality with a collaborative and a diversity loss (LETTER).

    Wang et al., "Learnable Item Tokenization for Generative Recommendation", CIKM 2024, arXiv 2405.07314.

        L = L_recon + L_rq + lambda_cf L_cf + lambda_div sum_l L_div

    L_cf is the cross-entropy that finds an item's collaborative vector among those of the batch, from its quantized vector.
    L_div is the cross-entropy that finds, from the chosen codeword, a random other codeword of the same cluster of the
    codebook; it moves codebooks alone. The official code initialises the codebooks by balanced k-means, this class by k-means.
    """

    trains_in_processes = False
    auxiliary_features = (COLLABORATIVE,)

    def learn(
        self, features: Mapping[str, Features], settings: SemanticIDSettings, execution: Execution = Execution()
    ) -> LearntCodes:
        """Train every modality alone; ``features`` also contains COLLABORATIVE, float32 [N, D] with D = ``code_dim``."""
        collaborative = np.asarray(features[COLLABORATIVE][:])
        if collaborative.shape[1] != settings.code_dim:
            raise UserError(
                f"code_dim is {settings.code_dim}, but the collaborative vectors have {collaborative.shape[1]} numbers; both "
                "must be equal."
            )
        modalities = {name: x for name, x in features.items() if name != COLLABORATIVE}
        return learn_alone(modalities, settings, execution, partial(LETTERTraining, collaborative))


class LETTERTraining(RQVAETraining):
    """Training of one modality with the losses of LETTER."""

    def __init__(self, collaborative: np.ndarray, features: Mapping[str, Features], settings: SemanticIDSettings, device: str,
                 group: Group = ALONE):
        super().__init__(features, settings, device, group)
        self.collaborative = torch.from_numpy(np.ascontiguousarray(collaborative, dtype=np.float32)).to(device)  # [N, D]
        self.clusters = torch.zeros(settings.codebook_levels, settings.codebook_size, dtype=torch.long)  # [L, K]

    def before_epoch(self) -> None:
        """Cluster the codewords of each level, for the diversity loss."""
        if not self.settings.lambda_div:
            return
        codebooks = self.model.towers[0].quantizer.codebooks.detach().cpu().numpy()
        seed, count = self.settings.semantic_id_seed, min(CLUSTERS, self.settings.codebook_size // 2)
        self.clusters = torch.stack([torch.from_numpy(balanced_clusters(codebook, count, seed)) for codebook in codebooks])

    def losses(self, rows: Tensor) -> dict[str, Tensor]:
        s, (tower,), (x,) = self.settings, self.model.towers, self.batch(rows)
        output = tower(x)
        quantized, zero = output.quantized, output.recon.new_zeros(())
        own = torch.arange(len(rows), device=x.device)
        cf = div = zero
        if s.lambda_cf:
            cf = F.cross_entropy(quantized.z_hat @ self.collaborative[rows.to(x.device)].T, own)
        if s.lambda_div:
            div = torch.stack([
                diversity_loss(codebook, quantized.codes[:, level], self.clusters[level], self.generator)
                for level, codebook in enumerate(tower.quantizer.codebooks)
            ]).sum()  # fmt: skip
        total = output.recon + quantized.loss + s.lambda_cf * cf + s.lambda_div * div
        return {"total": total, "recon": output.recon, "rq": quantized.loss, "cf": cf, "div": div}


def diversity_loss(codebook: Tensor, codes: Tensor, clusters: Tensor, generator: torch.Generator) -> Tensor:
    """L_div of a level: mean over items of -log softmax(e E^T)[target], the item's own codeword excluded.

    The target is a random other codeword of the cluster of the item's codeword e. Items whose codeword is alone in its cluster
    are left out.

    Args:
        codebook: E [K, D].
        codes: int64 [B], the items' codes.
        clusters: int64 [K] on the CPU, the cluster of each codeword.
        generator: a CPU generator.
    """
    own = codes.cpu()
    same = (clusters[own].unsqueeze(1) == clusters) & (torch.arange(len(codebook)) != own.unsqueeze(1))  # [B, K]
    chosen = same.any(1).nonzero()[:, 0]
    if not len(chosen):
        return codebook.new_zeros(())
    target = torch.multinomial(same[chosen].float(), 1, generator=generator)[:, 0].to(codebook.device)
    chosen = chosen.to(codebook.device)
    logits = rows_of(codebook, codes[chosen]) @ codebook.T  # [b, K]
    logits = logits.scatter(1, codes[chosen].unsqueeze(1), -torch.inf)
    return F.cross_entropy(logits, target)


def balanced_clusters(codebook: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Assign codewords [K, D] to clusters of at most ceil(K / clusters) codewords, int64 [K].

    The centres are those of k-means. The assignment has the smallest sum of squared distances to them.
    """
    clusters = min(clusters, len(codebook))
    capacity = -(-len(codebook) // clusters)
    centres = kmeans_centres(codebook, clusters, seed)
    distances = np.square(codebook[:, None] - centres[None]).sum(2)  # [K, G]
    rows, columns = linear_sum_assignment(np.repeat(distances, capacity, axis=1))
    assigned = np.zeros(len(codebook), dtype=np.int64)
    assigned[rows] = columns // capacity
    return assigned
