"""The amount of work that is sent to a device at once."""
import dataclasses

import torch
from torch import nn

from recbole_macrec.generation.network.packing import group_lengths
from recbole_macrec.utils import device_budget
from recbole_macrec.utils.device_budget import DeviceBudget, count_that_fits

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_pass_tokens_overrides_only_pass_positions():
    default = DeviceBudget.of(CPU)
    assert (default.pass_positions, DeviceBudget.of(GPU).pass_positions) == (4096, 131072)
    assert DeviceBudget.of(CPU, 40) == dataclasses.replace(default, pass_positions=40)
    assert DeviceBudget.of(CPU, None) == default


def test_overhead_of_a_group():
    network = nn.Linear(70, 100, bias=False)  # 7,000 multiplications for a position
    assert DeviceBudget.of(CPU).group_overhead(network) == 10_000
    assert DeviceBudget.of(GPU).group_overhead(network) == 8192
    lengths = [5] * 10 + [6] * 10
    assert group_lengths(lengths, 9) == [(10, 5), (10, 6)] and group_lengths(lengths, 11) == [(20, 6)]  # padding costs 10


def test_a_quarter_of_the_free_memory_is_used(monkeypatch):
    monkeypatch.setattr(device_budget, "free_memory", lambda device: 1600)
    assert count_that_fits(10, CPU) == 10  # 400 bytes are 100 numbers
    assert count_that_fits(10_000, CPU) == 1


def test_every_field_is_documented():
    for field in dataclasses.fields(DeviceBudget):
        assert f"    {field.name}: " in DeviceBudget.__doc__
