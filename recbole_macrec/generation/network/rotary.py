"""Rotary positions (Su et al., "RoFormer", 2021): queries and keys are rotated by angles that grow with their position.

Shapes: M rows, S positions, H heads, E width of a head.
"""
from typing import NamedTuple

import torch

BASE = 1000.0  # the period of the slowest pair of a head is about 2 pi * BASE positions


class Rotation(NamedTuple):
    """Rotation of queries and keys at each position.

    Entry e of a head and entry e + E/2 form a pair, rotated by ``position * BASE ** (-2e / E)``. A rotation of [..., 1, E] is
    broadcast over the heads of queries and keys [..., H, E].
    """

    cos: torch.Tensor  # [..., E], both halves alike
    sin: torch.Tensor  # [..., E], negative in the first half

    @classmethod
    def at(cls, position: torch.Tensor, width: int) -> "Rotation":
        """Compute the rotation for positions [...] and heads of ``width`` E; [..., E]."""
        half = width // 2
        frequency = BASE ** -(torch.arange(half, device=position.device) / half)
        angle = position.unsqueeze(-1).float() * frequency
        sin = angle.sin()
        return cls(torch.cat([angle.cos()] * 2, dim=-1), torch.cat([-sin, sin], dim=-1))

    def of_rows(self, position: torch.Tensor) -> "Rotation":
        """Select the positions [M] of packed rows from a rotation [S, E]; [M, 1, E]."""
        return Rotation(*(part.index_select(0, position).unsqueeze(1) for part in self))

    def rotate_keys(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate keys [..., E]."""
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)

    def rotate_queries(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate and divide by the square root of E, so that products with keys are scaled scores."""
        return self.rotate_keys(x * x.shape[-1] ** -0.5)
