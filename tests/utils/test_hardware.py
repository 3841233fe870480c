"""Precision of matrix products."""
import pytest
import torch

from recbole_macrec.utils.hardware import resolve_precision, tf32_products


@pytest.mark.parametrize("forced, expected", [("1", "bf16"), ("0", "fp32")])
def test_tf32_is_auto_on_a_cpu(forced, expected, monkeypatch):
    monkeypatch.setenv("RECBOLE_MACREC_BF16", forced)
    assert resolve_precision("tf32", torch.device("cuda")) == "tf32"
    assert resolve_precision("tf32", torch.device("cpu")) == expected


def test_tf32_is_only_allowed_inside_the_context():
    flag = torch.backends.cuda.matmul
    with tf32_products(True):
        assert flag.allow_tf32
        with tf32_products(False):
            assert not flag.allow_tf32
        assert flag.allow_tf32
    assert not flag.allow_tf32
