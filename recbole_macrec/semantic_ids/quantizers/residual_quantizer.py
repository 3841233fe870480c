"""Residual quantizer: a vector is mapped to L codes, each the nearest codeword to the residual of the levels before.

Shapes: B batch, N items, L levels, K codes per level, D code width.
"""
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_macrec.semantic_ids.quantizers.kmeans import kmeans_centres
from recbole_macrec.utils.blocks import blocks
from recbole_macrec.utils.lookup import rows_of

SINKHORN_ITERATIONS = 50


class Quantized(NamedTuple):
    """Output of :class:`ResidualQuantizer` for a batch."""

    codes: Tensor  # [B, L] int64
    z_hat: Tensor  # [B, D] sum of the codewords; its gradient is passed to z (straight-through)
    residuals: Tensor  # [B, L, D] input of each level: residuals[:, 0] is z
    loss: Tensor  # scalar, L_rq


class ResidualQuantizer(nn.Module):
    """L codebooks of K codewords of width D (Zhang et al., arXiv 2511.15122; Lee et al., CVPR 2022).

    With r_0 = z and e_l the codeword nearest to r_l, r_{l+1} = r_l - e_l and

        L_rq = sum_l ||sg[r_l] - e_l||^2 + alpha ||r_l - sg[e_l]||^2      (mean over batch and width).

    Example: with codebooks [[0, 0], [4, 4]] and [[0, 0], [1, 0]], z = (5, 4) has codes (1, 1): (4, 4) is nearest,
    the residual is (1, 0), which is codeword 1 of the second level.

    Args:
        residual: ``detached`` subtracts sg[e_l], so every r_l carries the gradient of z. ``straight_through``
            subtracts r_l + sg[e_l - r_l], as the released code does: the values are the same, but there is no gradient
            from level 1 on.
        sinkhorn_epsilon: if it is above 0, codes of the last level are balanced over the batch in training
            (:func:`balanced_codewords`), as in MQL4GRec (Zhai et al., ICLR 2025: 0.003).
    """

    def __init__(
        self,
        levels: int,
        size: int,
        dim: int,
        commitment_weight: float = 0.25,
        residual: str = "detached",
        sinkhorn_epsilon: float = 0.0,
    ):
        super().__init__()
        self.codebooks = nn.Parameter(torch.zeros(levels, size, dim))  # [L, K, D], filled by initialise
        self.commitment_weight = commitment_weight
        self.residual = residual
        self.sinkhorn_epsilon = sinkhorn_epsilon

    def forward(self, z: Tensor) -> Quantized:
        """Quantize ``z`` [B, D]."""
        rest, loss = z, z.new_zeros(())
        codes, residuals = [], []
        for level, codebook in enumerate(self.codebooks):  # [K, D]
            if self.sinkhorn_epsilon and self.training and level == len(self.codebooks) - 1:
                code = balanced_codewords(rest, codebook, self.sinkhorn_epsilon)  # [B]
            else:
                code = nearest_codeword(rest, codebook)  # [B]
            word = rows_of(codebook, code)  # [B, D]
            loss = loss + F.mse_loss(word, rest.detach())
            loss = loss + self.commitment_weight * F.mse_loss(rest, word.detach())
            codes.append(code)
            residuals.append(rest)
            rest = rest - self._subtrahend(rest, word)
        z_hat = z - rest.detach()  # straight-through: codewords get gradients only from L_rq
        return Quantized(torch.stack(codes, 1), z_hat, torch.stack(residuals, 1), loss)

    def _subtrahend(self, rest: Tensor, word: Tensor) -> Tensor:
        return word.detach() if self.residual == "detached" else rest + (word - rest).detach()

    @torch.no_grad()
    def codes(self, z: Tensor) -> Tensor:
        """Codes [N, L] of all items ``z`` [N, D], computed in blocks of items."""
        codes = torch.empty(len(z), len(self.codebooks), dtype=torch.int64, device=z.device)
        for part, z_part in zip(blocks(codes), blocks(z)):
            part.copy_(self(z_part).codes)
        return codes

    @torch.no_grad()
    def initialise(self, z: Tensor, seed: int) -> None:
        """Set every codebook to the k-means centres of the residuals of all items, ``z`` [N, D], N >= K."""
        rest = z.clone()
        for level, codebook in enumerate(self.codebooks):
            centres = kmeans_centres(rest.float().cpu().numpy(), len(codebook), seed + level)
            codebook.copy_(torch.from_numpy(centres))
            for part in blocks(rest):
                part -= codebook[nearest_codeword(part, codebook)]

    @torch.no_grad()
    def restart_dead_codes(self, z: Tensor, codes: Tensor, optimizer: torch.optim.Optimizer,
                           generator: torch.Generator) -> int:
        """Replace unused codewords by residuals of random items, and reset their Adam moments.

        Args:
            z: [N, D], all items.
            codes: [N, L], their codes.

        Returns:
            The number of replaced codewords.
        """
        restarts = []  # per level the unused codewords [n] and their new values [n, D]
        for level, codebook in enumerate(self.codebooks):
            dead = (torch.bincount(codes[:, level], minlength=len(codebook)) == 0).nonzero()[:, 0]
            rows = torch.randperm(len(z), generator=generator)[: len(dead)].to(z.device)
            restarts.append((dead[: len(rows)], self(z[rows]).residuals[:, level]))
        moments = [optimizer.state[self.codebooks][name] for name in ("exp_avg", "exp_avg_sq")
                   if name in optimizer.state.get(self.codebooks, {})]
        for level, (dead, residuals) in enumerate(restarts):
            self.codebooks[level, dead] = residuals
            for moment in moments:
                moment[level, dead] = 0
        return sum(len(dead) for dead, _ in restarts)


def nearest_codeword(x: Tensor, codebook: Tensor) -> Tensor:
    """Index [B] of the nearest codeword (Euclidean) to each row of ``x`` [B, D]; the first if several are equally near."""
    return (codebook.square().sum(1) - 2 * x @ codebook.T).argmin(1)


@torch.no_grad()
def balanced_codewords(x: Tensor, codebook: Tensor, epsilon: float) -> Tensor:
    """Index [B] of a codeword for each row of ``x`` [B, D], such that all codewords are used about equally often.

    The codeword of a row has the largest entry in its row of the transport plan

        P = argmin_P sum_ij P_ij C_ij - epsilon H(P)    with row sums 1 / B and column sums 1 / K

    where C are the squared distances scaled to -1 .. 1 and H is the entropy. P is computed by Sinkhorn's algorithm (Cuturi,
    NeurIPS 2013) on logarithms.
    """
    cost = (x.double().unsqueeze(1) - codebook.double()).square().sum(-1)  # [B, K]
    middle, half_range = (cost.max() + cost.min()) / 2, (cost.max() - cost.min()) / 2
    log_plan = -(cost - middle) / (half_range.clamp_min(1e-12) * epsilon)
    for _ in range(SINKHORN_ITERATIONS):
        log_plan = log_plan - log_plan.logsumexp(1, keepdim=True) - math.log(len(x))
        log_plan = log_plan - log_plan.logsumexp(0, keepdim=True) - math.log(len(codebook))
    return log_plan.argmax(1)
