"""Dropout with fast masks on a CPU.

``F.dropout`` draws one Bernoulli number per element, which on a CPU costs more than the matrix products around it. Here
one random byte per element is drawn: elements are dropped with probability round(256 p) / 256, and the others divided by
the actual probability to keep, so the expectation is exact.
"""
import numpy as np
import torch
import torch.nn.functional as F

from recbole_macrec.utils.cpu_threads import random_bits


def dropout(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """Drop elements of ``x`` with probability ``p`` while training."""
    if not training or p == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p)
    return x * dropout_mask(x.shape, p).to(x.dtype)


class Dropout(torch.nn.Dropout):
    """:func:`dropout` as a module."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return dropout(x, self.p, self.training)


class Attention(torch.nn.MultiheadAttention):
    """``torch.nn.MultiheadAttention`` with :func:`dropout`, for batches first and without attention weights in the result.

    The masks do not depend on the number of threads that compute parts of a batch, as those of torch do.
    """

    @classmethod
    def like(cls, module: torch.nn.MultiheadAttention) -> "Attention":
        """Replace ``module``; the parameters are those of ``module``."""
        replaced = cls.__new__(cls)
        replaced.__dict__.update(module.__dict__)
        return replaced

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True, attn_mask: torch.Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        """See ``torch.nn.MultiheadAttention``; without ``attn_mask`` and ``need_weights``.

        Args:
            key_padding_mask: bool [B, S] or float [B, S], which is added to the logits.
        """
        if attn_mask is not None or need_weights or not self.batch_first:
            raise ValueError("attn_mask, need_weights and batch_first=False are not supported")
        projected = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3))
        q, k, v = (F.linear(x, w, b).unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2) for x, w, b in projected)
        logits = q @ k.transpose(2, 3) * self.head_dim**-0.5  # [B, H, T, S]
        if key_padding_mask is not None:
            mask = key_padding_mask[:, None, None]
            logits = logits.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        weights = dropout(logits.softmax(3), self.dropout, self.training)
        return self.out_proj((weights @ v).transpose(1, 2).flatten(2)), None


def dropout_mask(shape: torch.Size, p: float) -> torch.Tensor:
    """Draw a float32 mask on the CPU: 0 with probability round(256 ``p``) / 256, else the inverse of the probability to keep.

    The bytes come from a NumPy generator, as torch is several times slower.
    """
    dropped = round(256 * p)
    count = shape.numel()
    draws = random_bits().random_raw((count + 7) // 8)  # uint64
    random_bytes = torch.from_numpy(draws.view(np.uint8))[:count].view(shape)
    return torch.ge(random_bytes, dropped, out=torch.empty(shape)).mul_(256 / (256 - dropped))
