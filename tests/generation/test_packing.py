"""Packing of users without padding, or with the cheapest padding."""
import itertools

import pytest
import torch
import torch.nn.functional as F

from recbole_macrec.generation.network.packing import group_lengths, pack, split_batch, with_rounded_rows
from recbole_macrec.utils.rounded_rows import linear


def test_packed_rows_are_consecutive():
    tokens = torch.tensor([[1, 2, 0], [3, 4, 0], [5, 6, 7]])
    lengths = torch.tensor([2, 2, 3])
    source = pack(tokens, lengths)
    assert source.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert source.groups == [(2, 2), (1, 3)] and source.keep is None
    source = pack(tokens, lengths, overhead=5)
    assert source.tokens.tolist() == [1, 2, 0, 3, 4, 0, 5, 6, 7]
    assert source.groups == [(3, 3)]
    assert source.keep.tolist() == [True, True, False] * 2 + [True] * 3


@pytest.mark.parametrize("overhead", [0, 3, 7, 100])
def test_groups_have_the_lowest_cost(overhead):
    lengths = [2, 2, 2, 3, 5, 5, 6, 9, 4]

    def cost(groups):
        return sum(n * longest + overhead for n, longest in groups)

    options = []
    for cuts in itertools.product([False, True], repeat=len(lengths) - 1):
        groups, begin = [], 0
        for end in [i + 1 for i, cut in enumerate(cuts) if cut] + [len(lengths)]:
            groups.append((end - begin, max(lengths[begin:end])))
            begin = end
        options.append(groups)
    got = group_lengths(lengths, overhead)
    assert sum(n for n, _ in got) == len(lengths)
    assert cost(got) == min(map(cost, options))


def test_split_batch_keeps_every_user_once():
    lengths = torch.randint(4, 80, (500,), generator=torch.Generator().manual_seed(0))
    for multiple in (1, 2, 5):
        parts = split_batch(lengths, budget=1000, multiple=multiple)
        assert sorted(torch.cat(parts).tolist()) == list(range(500))
        assert torch.equal(lengths[torch.cat(parts)], lengths.sort().values) and len(parts) % multiple == 0
        totals = [int(lengths[p].sum()) for p in parts]
        assert max(totals) < 1080 and max(totals) - min(totals) < 160
    assert [p.tolist() for p in split_batch(torch.tensor([9, 2000]), budget=1000)] == [[0], [1]]
    assert split_batch(lengths[:0], budget=10) == []
    assert [len(p) for p in split_batch(torch.ones(7).long(), budget=1000, max_users=3)] == [3, 2, 2]


def test_rows_are_rounded_in_bf16_training_on_a_cpu():
    tokens, lengths = torch.arange(1, 13).view(3, 4), torch.tensor([2, 2, 4])
    source = pack(tokens, lengths, overhead=5)
    assert with_rounded_rows(source) is source
    with torch.autocast("cpu", torch.bfloat16):
        rounded = with_rounded_rows(source)
        with torch.no_grad():
            assert with_rounded_rows(source) is source
    for name in ("tokens", "keep", "position"):
        values, given = getattr(rounded, name), getattr(source, name)
        assert len(values) == 64 and torch.equal(values[: len(given)], given)
    assert rounded.groups[: len(source.groups)] == source.groups
    assert sum(users * length for users, length in rounded.groups) == 64
    assert max(length for _, length in rounded.groups) == 4 and int(rounded.position.max()) == 3


def test_linear_of_rounded_rows():
    x, weight = torch.randn(70, 8, requires_grad=True), torch.randn(5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = linear(x, weight)
        expected = F.linear(x, weight)
    assert torch.equal(y, expected)
    (found,) = torch.autograd.grad(y.float().square().sum(), x, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected.float().square().sum(), x)
    assert torch.allclose(found, wanted, rtol=0.02, atol=0.1)
