"""Attention over packed sequences against a loop over users and heads, with gradients."""
import pytest
import torch

from recbole_macrec.generation.network.layers import (
    CrossAttention,
    RMSNorm,
    SelfAttention,
    TransformerSettings,
    aligned,
    attention_masks,
    own_groups,
)

HEADS, E, D = 3, 5, 24
SIZES = TransformerSettings(d_model=D, num_heads=HEADS, d_kv=E, dropout=0.0)
OWN = [(2, 3), (70, 4), (1, 17), (1, 300)]  # users and positions of each
CROSS = [(2, 4, 3), (70, 4, 9), (1, 4, 300)]  # users, queries and keys of each


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def attend_one_by_one(layer, x, source, groups, bias=None, keep=None):
    """One user and one head at a time; x [M, D] and source [M', D] are normalized already."""
    rows, to, of = [], 0, 0
    for users, queries, keys in groups:
        for _ in range(users):
            a, b = x[to : to + queries], source[of : of + keys]
            heads = []
            for h in range(HEADS):
                q, k, v = (
                    y @ w.weight[h * E : (h + 1) * E].t() for y, w in ((a, layer.query), (b, layer.key), (b, layer.value))
                )
                scores = q @ k.t() + (0 if bias is None else bias[h, :queries, :keys])
                if keep is not None:
                    scores = scores.masked_fill(~keep[of : of + keys], -torch.inf)
                heads.append(scores.softmax(-1) @ v)
            rows.append(torch.cat(heads, -1) @ layer.out.weight.t())
            to, of = to + queries, of + keys
    return torch.cat(rows)


def assert_same(layer, inputs, result, expected):
    """Same values, and same gradients of inputs and weights."""
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-4)
    leaves = [*inputs, *(p for name, p in layer.named_parameters() if name != "norm.weight")]
    weights = torch.randn_like(result)
    for got, reference in zip(*(torch.autograd.grad((y * weights).sum(), leaves) for y in (result, expected))):
        assert reference.abs().max() > 0
        torch.testing.assert_close(got, reference, atol=1e-4, rtol=1e-3)


def test_self_attention():
    layer = SelfAttention(SIZES)
    x = torch.randn(sum(n * length for n, length in OWN), D, requires_grad=True)
    bias = torch.randn(HEADS, 300, 300, requires_grad=True)
    expected = x + attend_one_by_one(layer, layer.norm(x), layer.norm(x), [(n, length, length) for n, length in OWN], bias)
    assert_same(layer, [x, bias], layer(x, OWN, attention_masks(own_groups(OWN), bias)), expected)


def test_padding_is_not_attended_to():
    layer = SelfAttention(SIZES)
    x = torch.randn(3 * 6, D, requires_grad=True)
    keep = torch.arange(6).repeat(3) < torch.tensor([6, 2, 4]).repeat_interleave(6)
    expected = x + attend_one_by_one(layer, layer.norm(x), layer.norm(x), [(3, 6, 6)], keep=keep)
    assert_same(layer, [x], layer(x, [(3, 6)], attention_masks([(3, 6, 6)], keep=keep)), expected)


def test_attention_to_other_rows():
    layer = CrossAttention(SIZES)
    x = torch.randn(sum(n * queries for n, queries, _ in CROSS), D, requires_grad=True)
    source = torch.randn(sum(n * keys for n, _, keys in CROSS), D, requires_grad=True)
    result = layer.attend(x, source, CROSS, [None] * len(CROSS))
    assert_same(layer, [x, source], result, attend_one_by_one(layer, x, source, CROSS))


def test_aligned_masks_are_equal_and_begin_rows_at_multiples_of_8():
    mask = torch.randn(2, 5, 11)
    result = aligned(mask[:, :, :9])
    assert torch.equal(result, mask[:, :, :9])
    assert result.stride() == (5 * 16, 16, 1)


def test_dropout_of_attention_weights_keeps_the_expectation():
    """The output is linear in the values: its mean over many draws equals the output without dropout."""
    layer = SelfAttention(SIZES)
    x, draws = torch.randn(8, D), 4000
    layer.dropout = 0.25
    drawn = layer.attend(x.repeat(draws, 1), x.repeat(draws, 1), [(2 * draws, 4, 4)], [None]).view(draws, 8, D)
    plain = layer.eval().attend(x, x, [(2, 4, 4)], [None])
    assert not torch.allclose(drawn[0], drawn[1])
    torch.testing.assert_close(drawn.mean(0), plain, atol=0.03 * plain.abs().max().item(), rtol=0)


def test_rms_norm():
    norm, x = RMSNorm(D), torch.randn(700, D)
    norm.weight.data = torch.randn(D)
    torch.testing.assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight)
