"""Residual quantizer: nearest codewords by hand, gradients of both residual modes, dead codes."""
from itertools import permutations

import pytest
import torch

from recbole_macrec.semantic_ids.quantizers.residual_quantizer import ResidualQuantizer, balanced_codewords, nearest_codeword


def quantizer(codebooks, **options):
    codebooks = torch.tensor(codebooks)
    module = ResidualQuantizer(*codebooks.shape, **options)
    module.codebooks.data.copy_(codebooks)
    return module


def test_nearest_codeword_by_hand():
    codebook = torch.tensor([[1.0, 0, 0, 0, 0], [0, 2, 0, 0, 0], [0, 0, 3, 0, 0], [0, 0, 0, 0, -4]])
    x = torch.tensor([
        [0.9, 0.1, 0, 0, 0],  # 0
        [0, 0, 2.1, 0, 0],  # 2
        [0, 1.4, 0, 0, 0],  # 1: at 0.6, codeword 0 at 1.72
        [0, 0, 0, 5, -9],  # 3
        [0, 0, 0, 0, 0],  # 0: the shortest
    ])
    assert nearest_codeword(x, codebook).tolist() == [0, 2, 1, 3, 0]


@pytest.mark.parametrize("residual", ["detached", "straight_through"])
def test_two_levels_by_hand(residual):
    module = quantizer([[[0.0, 0], [4, 4]], [[0.0, 0], [1, 0]]], residual=residual)
    out = module(torch.tensor([[5.0, 4], [0.5, -1]]))
    assert out.codes.tolist() == [[1, 1], [0, 0]]
    assert out.z_hat.tolist() == [[5, 4], [0, 0]]
    assert out.residuals.tolist() == [[[5, 4], [1, 0]], [[0.5, -1], [0.5, -1]]]
    # level 0: (1 + 0 + 0.25 + 1) / 4, level 1: (0 + 0 + 0.25 + 1) / 4; codebook term plus 0.25 x commitment
    assert out.loss.item() == pytest.approx(1.25 * (2.25 / 4 + 1.25 / 4))


def test_gradients_follow_the_residual_mode():
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    codebooks = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(1))
    for residual, passes in (("detached", True), ("straight_through", False)):
        out = quantizer(codebooks.tolist(), residual=residual)(z)
        for level in range(3):
            gradient, = torch.autograd.grad(out.residuals[:, level].square().sum(), z, retain_graph=True)
            assert (gradient.abs().max() > 1e-3) == (passes or level == 0)
            assert passes or level == 0 or gradient.abs().max() < 1e-6
        through, = torch.autograd.grad(out.z_hat.sum(), z)
        assert torch.equal(through, torch.ones_like(z))


@pytest.mark.parametrize("residual, gradient", [("detached", 0.25 * (1.5 + 0.5)), ("straight_through", 0.25 * 1.5)])
def test_gradients_of_the_loss_by_hand(residual, gradient):
    """Codewords move to the residuals (1.5, 0) and (0.5, 0), and z to the codewords with the commitment weight."""
    module = quantizer([[[0.0, 0], [4, 4]], [[0.0, 0], [1, 0]]], residual=residual)
    z = torch.tensor([[5.5, 4]], requires_grad=True)
    module(z).loss.backward()
    assert z.grad.tolist() == [[gradient, 0]]
    assert module.codebooks.grad.tolist() == [[[0, 0], [-1.5, 0]], [[0, 0], [-0.5, 0]]]


def test_kmeans_initialisation_is_reproducible_and_uses_every_code():
    z = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    first, second, other = (ResidualQuantizer(2, 16, 4) for _ in range(3))
    first.initialise(z, seed=3), second.initialise(z, seed=3), other.initialise(z, seed=4)
    assert torch.equal(first.codebooks, second.codebooks)
    assert not torch.equal(first.codebooks, other.codebooks)
    assert all(len(first(z).codes[:, level].unique()) == 16 for level in range(2))
    assert torch.allclose(first(z).residuals[:, 0], z)
    assert (z - first(z).z_hat).square().mean() < 0.3 * z.square().mean()


def test_dead_codes_are_replaced_by_residuals_and_their_optimizer_state_is_reset():
    z = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    module = ResidualQuantizer(2, 8, 4)  # equal codewords: only code 0 is ever used
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0)
    module(z).loss.backward()
    optimizer.step()
    for name in ("exp_avg", "exp_avg_sq"):
        optimizer.state[module.codebooks][name].fill_(7.0)
    module.codebooks.data.zero_()
    module.codebooks.data[0] = 0.5  # so that the levels have different residuals
    before = module(z)
    assert before.codes.unique().tolist() == [0]
    assert module.restart_dead_codes(z, before.codes, optimizer, torch.Generator().manual_seed(1)) == 14
    for name in ("exp_avg", "exp_avg_sq"):
        moment = optimizer.state[module.codebooks][name]
        assert (moment[:, 0] == 7).all() and (moment[:, 1:] == 0).all()
    assert (module.codebooks[0, 0] == 0.5).all() and (module.codebooks[1, 0] == 0).all()
    for level in range(2):
        for word in module.codebooks[level, 1:]:
            assert (before.residuals[:, level] == word).all(1).any()
    after = module(z).codes
    used = [len(after[:, level].unique()) for level in range(2)]
    assert used[0] > 4 and used[1] > 2
    without_state = torch.optim.AdamW(module.parameters())
    assert module.restart_dead_codes(z, after, without_state, torch.Generator()) == 16 - sum(used)


def test_quantizing_in_blocks_equals_quantizing_at_once(monkeypatch):
    z = torch.randn(205, 4, generator=torch.Generator().manual_seed(0))
    whole, in_blocks = ResidualQuantizer(3, 16, 4), ResidualQuantizer(3, 16, 4)
    whole.initialise(z, seed=3)
    monkeypatch.setattr("recbole_macrec.utils.blocks.BLOCK", 50)
    in_blocks.initialise(z, seed=3)
    assert torch.equal(in_blocks.codebooks, whole.codebooks) and torch.equal(in_blocks.codes(z), whole(z).codes)
    assert in_blocks.codes(z[:0]).shape == (0, 3)


def test_balanced_codewords_by_hand():
    x, codebook = torch.tensor([[0.0], [0.3], [0.2], [0.1]]), torch.tensor([[0.0], [1.0]])
    assert nearest_codeword(x, codebook).tolist() == [0, 0, 0, 0]
    assert balanced_codewords(x, codebook, epsilon=0.05).tolist() == [0, 1, 1, 0]  # the two rows nearest to 1


def test_balanced_codewords_minimize_the_total_distance():
    generator = torch.Generator().manual_seed(2)
    x, codebook = torch.randn(6, 3, generator=generator), torch.randn(3, 3, generator=generator)
    cost = torch.cdist(x, codebook).square()
    words = min(set(permutations([0, 0, 1, 1, 2, 2])), key=lambda words: cost[torch.arange(6), list(words)].sum())
    assert balanced_codewords(x, codebook, epsilon=0.05).tolist() == list(words)


def test_codes_are_balanced_only_in_training_and_at_the_last_level():
    codebooks = [[[0.0], [5.0]], [[0.0], [1.0]]]
    z = torch.tensor([[0.0], [0.3], [0.2], [0.1]])
    plain, balanced = quantizer(codebooks), quantizer(codebooks, sinkhorn_epsilon=0.05)
    assert balanced(z).codes.tolist() == [[0, 0], [0, 1], [0, 1], [0, 0]]
    assert torch.equal(balanced.eval()(z).codes, plain(z).codes)
