"""Rotary positions (Su et al., "RoFormer", 2021): queries and keys are rotated by angles that grow with their position.

Shapes: S positions, E width of a head.
"""
from typing import NamedTuple

import torch

BASE = 1000.0  # the period of the slowest pair of a head is about 2 pi * BASE positions


class Rotation(NamedTuple):
    """Rotation of queries and keys at each position.

    Entry e of a head and entry e + E/2 form a pair, rotated by ``position * BASE ** (-2e / E)``.
    """

    cos: torch.Tensor  # [..., S, E/2]
    sin: torch.Tensor  # [..., S, E/2]

    @classmethod
    def at(cls, position: torch.Tensor, width: int) -> "Rotation":
        """Compute the rotation for positions [..., S] and heads of ``width`` E."""
        half = width // 2
        frequency = BASE ** -(torch.arange(half, device=position.device) / half)
        angle = position.unsqueeze(-1).float() * frequency
        return cls(angle.cos(), angle.sin())

    def rotate_keys(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate rows [..., S', E], S' <= S."""
        cos, sin = (part[..., : x.shape[-2], :].to(x.dtype) for part in self)
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)

    def rotate_queries(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate and divide by the square root of E, so that products with keys are scaled scores."""
        return self.rotate_keys(x) * x.shape[-1] ** -0.5
