"""Precision of matrix products."""
import torch

from recbole_macrec.utils.hardware import resolve_precision, tf32_products


def test_tf32_is_fp32_on_a_cpu():
    assert resolve_precision("tf32", torch.device("cuda")) == "tf32"
    assert resolve_precision("tf32", torch.device("cpu")) == "fp32"


def test_tf32_is_only_allowed_inside_the_context():
    flag = torch.backends.cuda.matmul
    with tf32_products(True):
        assert flag.allow_tf32
        with tf32_products(False):
            assert not flag.allow_tf32
        assert flag.allow_tf32
    assert not flag.allow_tf32
