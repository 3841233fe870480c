"""Rotary positions against a product of complex numbers."""
import pytest
import torch

from recbole_macrec.generation.network.rotary import Rotation


@pytest.mark.parametrize("width", [2, 8])
def test_rotation_is_a_product_of_complex_numbers(width):
    """Entries e and e + E/2 are one number, multiplied by exp(i * position * 1000 ** (-2e / E))."""
    x, position, half = torch.randn(5, width), torch.tensor([0, 1, 2, 7, 30]), width // 2
    angle = position[:, None] * 1000.0 ** -(torch.arange(half) / half)
    z = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones_like(angle), angle)
    expected, rotation = torch.cat([z.real, z.imag], dim=1), Rotation.at(position, width)
    torch.testing.assert_close(rotation.rotate_keys(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rotation.rotate_queries(x), expected / width**0.5, atol=1e-5, rtol=1e-5)
