"""Rotary positions (Su et al., "RoFormer", 2021): queries and keys are rotated by angles that grow with their position.

Legend: S positions, E width of a head.
"""
from typing import NamedTuple

import torch

BASE = 1000.0  # the slowest pair of a head turns once in about 2 pi times as many positions


class Rotation(NamedTuple):
    """The rotation of the rows of every user, position by position.

    Entry e of a head and entry e + E/2 form a pair, rotated by ``position * BASE ** (-2e / E)``.
    """

    cos: torch.Tensor  # [..., S, E/2]
    sin: torch.Tensor  # [..., S, E/2]

    @classmethod
    def at(cls, position: torch.Tensor, width: int) -> "Rotation":
        """For positions [..., S] and heads of ``width`` E."""
        half = width // 2
        frequency = BASE ** -(torch.arange(half, device=position.device) / half)
        angle = position.unsqueeze(-1).float() * frequency
        return cls(angle.cos(), angle.sin())

    def of_keys(self, x: torch.Tensor, back: bool = False) -> torch.Tensor:
        """Rotate rows [..., S', E], S' at most S; with ``back`` the transposed map, which gradients need."""
        cos, sin = (part[..., : x.shape[-2], :].to(x.dtype) for part in self)
        if back:
            sin = -sin
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)

    def of_queries(self, x: torch.Tensor, back: bool = False) -> torch.Tensor:
        """As :meth:`of_keys`, over the square root of E, so that products with keys are scaled scores."""
        return self.of_keys(x, back) * x.shape[-1] ** -0.5
