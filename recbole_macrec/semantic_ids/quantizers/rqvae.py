"""RQ-VAE of one modality: encoder, residual quantizer, decoder.

Shapes: B batch, F feature width, L levels, D code width.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_macrec.semantic_ids.quantizers.residual_quantizer import Quantized, ResidualQuantizer
from recbole_macrec.semantic_ids.rows import StreamedFeatures
from recbole_macrec.semantic_ids.settings import SemanticIDSettings
from recbole_macrec.utils.device_budget import DeviceBudget
from recbole_macrec.utils.hardware import autocast_to, resolve_precision


class RQVAEOutput(NamedTuple):
    """Output of :class:`RQVAE` for a batch."""

    quantized: Quantized
    x_hat: Tensor  # [B, F]
    recon: Tensor  # scalar, L_recon


class RQVAE(nn.Module):
    """z = E(x), z_hat = quantizer(z), x_hat = D(z_hat); loss L_recon + L_rq (TIGER, Rajput et al., NeurIPS 2023).

    With ``loss_reduction: sum`` both losses are squared norms, as printed in the papers, otherwise means over the width.

    The encoder is a linear layer to ``rqvae_projection``, then an MLP over ``rqvae_hidden_sizes`` to ``code_dim``;
    the decoder mirrors it. Their matrix products are in ``rqvae_precision`` in training and in fp32 otherwise; the quantizer
    always computes in fp32.
    """

    def __init__(self, width: int, settings: SemanticIDSettings, generator: torch.Generator):
        super().__init__()
        projection = (settings.rqvae_projection,) if settings.rqvae_projection else ()
        widths = (width, *projection, *settings.rqvae_hidden_sizes, settings.code_dim)
        linear_first = len(projection)  # the projection has no activation
        self.encoder = _mlp(widths, linear_first, 0, generator)
        self.decoder = _mlp(widths[::-1], 0, linear_first, generator)
        self.precision = settings.rqvae_precision
        self.sums_widths = settings.loss_reduction == "sum"
        self.quantizer = ResidualQuantizer(settings.codebook_levels, settings.codebook_size, settings.code_dim,
                                           settings.commitment_weight, settings.residual, settings.sinkhorn_epsilon)

    def forward(self, x: Tensor) -> RQVAEOutput:
        """Quantize and reconstruct standardised features ``x`` [B, F]."""
        quantized = self.quantizer(self._run(self.encoder, x))
        x_hat = self._run(self.decoder, quantized.z_hat)
        recon = F.mse_loss(x_hat, x)
        if self.sums_widths:
            recon, quantized = recon * x.shape[1], quantized._replace(loss=quantized.loss * quantized.z_hat.shape[1])
        return RQVAEOutput(quantized, x_hat, recon)

    def autoencode(self, x: Tensor) -> Tensor:
        """L_recon without quantization, for the warm-up."""
        return F.mse_loss(self._run(self.decoder, self._run(self.encoder, x)), x)

    def _run(self, network: nn.Sequential, x: Tensor) -> Tensor:
        """``network(x)`` in fp32, computed in ``rqvae_precision`` in training."""
        with autocast_to(resolve_precision(self.precision, x.device) if self.training else "fp32", x.device):
            return network(x).float()

    @torch.no_grad()
    def encode(self, x: Tensor | StreamedFeatures) -> Tensor:
        """z [N, D] of all items ``x`` [N, F], computed in parts."""
        return torch.cat([self.encoder(part) for part in x.split(DeviceBudget.of(x.device).encoded_items)])

    @torch.no_grad()
    def reconstruction_error(self, x: Tensor | StreamedFeatures, z: Tensor) -> float:
        """Mean squared error of the features reconstructed from the codes of ``z`` [N, D]; predicting the mean gives 1."""
        total, rows = 0.0, DeviceBudget.of(x.device).encoded_items
        for part, z_part in zip(x.split(rows), z.split(rows), strict=True):
            total += F.mse_loss(self.decoder(self.quantizer(z_part).z_hat), part, reduction="sum").item()
        return total / x.numel()


def _mlp(widths: tuple[int, ...], linear_first: int, linear_last: int, generator: torch.Generator) -> nn.Sequential:
    """Linear layers with ReLU between them, but not after the first ``linear_first`` and before the last ``linear_last``."""
    layers: list[nn.Module] = []
    last = len(widths) - 2
    for i, (fan_in, fan_out) in enumerate(zip(widths, widths[1:])):
        linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out)  # does not use torch's global generator
        nn.init.xavier_normal_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers.append(linear)
        if linear_first <= i < last - linear_last:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)
