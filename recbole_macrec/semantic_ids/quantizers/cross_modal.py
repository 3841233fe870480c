"""Cross-modal RQ-VAE: one RQ-VAE per modality, trained together with alignment losses.

Shapes: B batch, F_m feature width of modality m, L levels, D code width.
"""
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recbole_macrec.semantic_ids.quantizers.losses import info_nce, sample_positives
from recbole_macrec.semantic_ids.quantizers.residual_quantizer import Quantized
from recbole_macrec.semantic_ids.quantizers.rqvae import RQVAE
from recbole_macrec.semantic_ids.settings import SemanticIDSettings
from recbole_macrec.utils.distributed_tensors import Share
from recbole_macrec.utils.modules import ModuleList


class CrossModalLoss(NamedTuple):
    """The loss of a batch and its terms, scalars; see :class:`CrossModalRQVAE`."""

    total: Tensor  # recon + rq + lambda_con * con + lambda_align * align
    recon: Tensor
    rq: Tensor
    con: Tensor
    align: Tensor


class CrossModalRQVAE(nn.Module):
    """Quantizer of MACRec (Zhang et al., AAAI 2026, arXiv 2511.15122).

        L = sum_m L_recon + L_rq + lambda_con L_con + lambda_align L_align

    L_con and L_align are sums over ordered pairs of modalities. With a single modality both are 0, which gives the plain
    RQ-VAE.
    """

    def __init__(self, widths: dict[str, int], settings: SemanticIDSettings, generator: torch.Generator):
        super().__init__()
        self.modalities = tuple(widths)
        self.towers = ModuleList(RQVAE(width, settings, generator) for width in widths.values())
        self.settings = settings
        self.generator = generator

    def forward(self, x: list[Tensor], labels: list[Tensor] | None, share: Share | None = None) -> CrossModalLoss:
        """Losses of a batch.

        Args:
            x: per modality standardised features [B, F_m].
            labels: per modality pseudo-labels [B], on the CPU; None when ``con_positives`` is ``self``.
            share: which rows of the batch ``x`` has where several processes divide it; ``labels`` are of the whole batch. The
                mean of the losses over the processes is then the loss of the batch.
        """
        s = self.settings
        outputs = [tower(part) for tower, part in zip(self.towers, x, strict=True)]
        quantized = [output.quantized for output in outputs]
        recon = torch.stack([output.recon for output in outputs]).sum()
        rq = torch.stack([q.loss for q in quantized]).sum()
        if share is not None:
            recon, rq = share.weight * recon, share.weight * rq
            if len(self.towers) > 1:
                quantized = [q._replace(z_hat=share.gather(q.z_hat), residuals=share.gather(q.residuals)) for q in quantized]
        zero = recon.new_zeros(())
        con = self.contrast(quantized, labels) if s.lambda_con and s.con_layers else zero
        align = self.alignment(quantized) if s.lambda_align else zero
        return CrossModalLoss(recon + rq + s.lambda_con * con + s.lambda_align * align, recon, rq, con, align)

    def contrast(self, quantized: list[Quantized], labels: list[Tensor] | None) -> Tensor:
        """L_con: InfoNCE among one modality's residuals, with positives from the pseudo-labels of another modality.

        The positive of an item is another item of the batch with the same pseudo-label in the other modality; items without
        one are left out. The item itself is not in the denominator, unless ``con_denominator`` is ``all``. With
        ``con_positives: self`` the positive is the item itself, so the loss only pushes residuals apart. Summed over
        ``con_layers`` and ordered pairs.
        """
        s, terms = self.settings, []
        for anchor, other in self._ordered_pairs():
            residuals = quantized[anchor].residuals  # [B, L, D]
            own_rows = torch.arange(len(residuals))
            if s.con_positives == "self":
                rows = target = own_rows.to(residuals.device)
                excluded = None
            elif labels is None:
                raise ValueError(
                    "labels is None; expected the pseudo-labels of every modality, which the positives are chosen by"
                )
            else:
                positives = sample_positives(labels[other], self.generator)  # [B]
                rows = (positives != own_rows).nonzero()[:, 0]
                target, rows = positives[rows].to(residuals.device), rows.to(residuals.device)
                excluded = rows if s.con_denominator == "others" else None
            for layer in s.con_layers:
                at_layer = residuals[:, layer]  # [B, D]
                terms.append(info_nce(at_layer[rows], at_layer, target, s.contrast_temperature, excluded))
        return torch.stack(terms).sum() if terms else quantized[0].loss.new_zeros(())

    def alignment(self, quantized: list[Quantized]) -> Tensor:
        """L_align: InfoNCE between z_hat of two modalities of the same item, in both directions."""
        terms = []
        for anchor, other in self._ordered_pairs():
            target = torch.arange(len(quantized[anchor].z_hat), device=quantized[anchor].z_hat.device)
            terms.append(info_nce(quantized[anchor].z_hat, quantized[other].z_hat, target,
                                  self.settings.contrast_temperature))
        return torch.stack(terms).sum() if terms else quantized[0].loss.new_zeros(())

    def _ordered_pairs(self) -> list[tuple[int, int]]:
        count = len(self.towers)
        return [(a, b) for a in range(count) for b in range(count) if a != b]
