"""The gradients of the CPU layers against plain formulas, including the borders of parts."""
import pytest
import torch
import torch.nn.functional as F

from recbole_macrec.generation.network import cpu
from recbole_macrec.generation.network.cpu import parts
from recbole_macrec.generation.network.cpu.dropout_mask import dropped_per_256, random_mask


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Parts small enough that these small inputs have several."""
    monkeypatch.setattr(parts, "PART", 6000)


def leaves(*shapes) -> list[torch.Tensor]:
    return [torch.randn(shape, dtype=torch.float32).requires_grad_() for shape in shapes]


def check(mine, reference, tensors) -> None:
    """Same value and same gradients; the reference computes in float64."""
    out = mine(*tensors)
    weights = torch.randn_like(out)
    got = torch.autograd.grad((out * weights).sum(), tensors)
    doubles = [t.detach().double().requires_grad_() for t in tensors]
    expected = reference(*doubles)
    torch.testing.assert_close(out, expected.float(), atol=1e-4, rtol=1e-4)
    for g, e in zip(got, torch.autograd.grad((expected * weights).sum(), doubles)):
        assert e.abs().max() > 0
        torch.testing.assert_close(g, e.float(), atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 256, 700])
def test_rms_norm(count):
    torch.manual_seed(0)
    check(
        lambda x, w: cpu.rms_norm(x, w, 1e-6),
        lambda x, w: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w,
        leaves((count, 24), (24,)),
    )


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("count", [1, 256, 700])
def test_feed_forward(count, p):
    def reference(x, up, down):
        torch.manual_seed(5)  # the same draws: a mask [F, rows] for each part
        dropped = dropped_per_256(p)
        rows = parts.row_parts(count, 40)
        masks = [random_mask(torch.Size((40, part.stop - part.start)), dropped).t() for part in rows] if p else []
        mask = torch.cat(masks).double() * 256 / (256 - dropped) if p else 1
        return (F.relu(x @ up.t()) * mask) @ down.t()

    def mine(x, up, down):
        torch.manual_seed(5)
        return cpu.feed_forward(x, up, down, p)

    torch.manual_seed(0)
    check(mine, reference, leaves((count, 24), (40, 24), (24, 40)))


H, E, D = 3, 5, 24
GROUPS = [(2, 3, 3), (70, 4, 4), (1, 17, 17), (1, 300, 300)]  # several parts, a single long user, short and long softmax
CROSS = [(2, 4, 3), (70, 4, 9), (1, 4, 300)]


def attend_plainly(x, source, query, key, value, out, bias, groups):
    """One user and one head at a time."""
    rows, to, of = [], 0, 0
    for users, queries, keys in groups:
        for _ in range(users):
            a, b = x[to : to + queries], source[of : of + keys]
            heads = []
            for h in range(H):
                q, k, v = (y @ w[h * E : (h + 1) * E].t() for y, w in ((a, query), (b, key), (b, value)))
                scores = q @ k.t() + (0 if bias is None else bias[h, :queries, :keys])
                heads.append(scores.softmax(-1) @ v)
            rows.append(torch.cat(heads, -1) @ out.t())
            to, of = to + queries, of + keys
    return torch.cat(rows)


def test_self_attention():
    torch.manual_seed(0)
    count = sum(n * q for n, q, _ in GROUPS)
    weights = ((H * E, D),) * 3 + ((D, H * E),)
    check(
        lambda x, q, k, v, o, bias: cpu.attention(x, x, (q, k, v, o), bias, None, GROUPS, H, 0.0),
        lambda x, q, k, v, o, bias: attend_plainly(x, x, q, k, v, o, bias, GROUPS),
        [t.detach().mul(0.3).requires_grad_() for t in leaves((count, D), *weights, (H, 300, 300))],
    )


def test_cross_attention():
    torch.manual_seed(0)
    to, of = sum(n * q for n, q, _ in CROSS), sum(n * k for n, _, k in CROSS)
    weights = ((H * E, D),) * 3 + ((D, H * E),)
    check(
        lambda x, s, q, k, v, o: cpu.attention(x, s, (q, k, v, o), None, None, CROSS, H, 0.0),
        lambda x, s, q, k, v, o: attend_plainly(x, s, q, k, v, o, None, CROSS),
        [t.detach().mul(0.3).requires_grad_() for t in leaves((to, D), (of, D), *weights)],
    )


def test_attention_dropout_has_the_right_expectation_and_gradient():
    """The output is linear in the values: means over many draws equal output and gradient without dropout."""
    torch.manual_seed(0)
    x, *weights = (t.detach().mul(0.3) for t in leaves((8, D), (H * E, D), (H * E, D), (H * E, D), (D, H * E)))
    weights = [w.requires_grad_() for w in weights]

    def run(p, draws):
        copies = x.repeat(draws, 1)
        y = cpu.attention(copies, copies, weights, None, None, [(2 * draws, 4, 4)], H, p).view(draws, 8, D)
        return y.detach(), torch.autograd.grad(y.sum(), weights[2])[0] / draws

    (plain, plain_gradient), (drawn, gradient) = run(0.0, 1), run(0.25, 4000)
    assert not torch.allclose(drawn[0], drawn[1])
    for mean, expected in ((drawn.mean(0), plain[0]), (gradient, plain_gradient)):
        torch.testing.assert_close(mean, expected, atol=0.03 * expected.abs().max().item(), rtol=0)
