"""Gradients of several processes."""
import pytest
import torch
import torch.distributed as dist

from recbole_macrec.utils.distributed_tensors import average_gradients


@pytest.mark.parametrize("other, expected", [(None, None), ([4.0, 2.0], [2.0, 1.0])])
def test_a_parameter_has_a_gradient_if_it_has_one_in_any_process(other, expected, monkeypatch):
    """Adam would move a parameter with a gradient of 0 by its momentum. The other of two processes has the gradients ``other``
    for the second parameter and 3 for the first."""
    first, second, frozen = (torch.nn.Parameter(torch.zeros(n)) for n in (1, 2, 3))
    frozen.requires_grad_(False)
    first.grad = torch.tensor([1.0])
    theirs = [torch.tensor([3.0, *(other or [0.0, 0.0]), 1.0, float(other is not None)])]  # gradients, and which exist
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.add_(theirs.pop(0)))
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    average_gradients([first, second, frozen])
    assert first.grad.tolist() == [2.0] and frozen.grad is None and theirs == []
    assert second.grad is None if expected is None else second.grad.tolist() == expected
