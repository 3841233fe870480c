"""InfoNCE against a loop, sampled positives, and the gradients of L_con and L_align."""
import math

import pytest
import torch

from recbole_macrec.semantic_ids.quantizers.cross_modal import CrossModalRQVAE
from recbole_macrec.semantic_ids.quantizers.losses import info_nce, sample_positives
from recbole_macrec.semantic_ids.settings import SemanticIDSettings

SMALL = SemanticIDSettings(("a", "b"), codebook_levels=3, codebook_size=4, code_dim=6, rqvae_projection=0,
                           rqvae_hidden_sizes=(12,), rqvae_precision="fp32", con_layers=(2,),
                           commitment_weight=0.5, contrast_temperature=0.2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def info_nce_by_loop(anchors, candidates, target, temperature, excluded):
    total = 0.0
    for i, anchor in enumerate(anchors):
        cosine = [float(anchor @ c / (anchor.norm() * c.norm())) for c in candidates]
        weights = [0.0 if excluded is not None and j == excluded[i] else math.exp(cosine[j] / temperature)
                   for j in range(len(candidates))]
        total -= math.log(weights[target[i]] / sum(weights))
    return total / len(anchors)


@pytest.mark.parametrize("excluded", [None, [0, 1, -1, 3]])
def test_info_nce_equals_a_loop(excluded):
    anchors, candidates = torch.randn(4, 3, generator=generator()), torch.randn(6, 3, generator=generator(1))
    target = torch.tensor([1, 5, 0, 2])
    ours = info_nce(anchors, candidates, target, 0.1, None if excluded is None else torch.tensor(excluded))
    assert ours.item() == pytest.approx(info_nce_by_loop(anchors, candidates, target, 0.1, excluded), rel=1e-4)


def test_info_nce_without_anchors_is_zero():
    assert info_nce(torch.zeros(0, 3), torch.ones(2, 3), torch.zeros(0, dtype=torch.long), 0.1).item() == 0


def test_a_zero_residual_gives_finite_small_gradients():
    x = torch.randn(4, 3, generator=generator())
    x[1] = 0
    x[2] = 1e-9
    x.requires_grad_()
    rows = torch.arange(4)
    info_nce(x, x, rows.roll(1), 0.1, rows).backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().max() < 1e5
    assert x.grad.abs().max() > 0


def test_positives_are_other_rows_with_the_same_label():
    labels = torch.randint(0, 40, (128,), generator=generator())
    draws = torch.stack([sample_positives(labels, generator(seed)) for seed in range(60)])  # [60, 128]
    assert (labels[draws] == labels).all()
    group_size = torch.bincount(labels)[labels]  # [128]
    itself = draws == torch.arange(128)
    assert itself[:, group_size == 1].all() and not itself[:, group_size > 1].any()
    crowded = int(group_size.argmax())  # every other member of a group is drawn sooner or later
    assert len(draws[:, crowded].unique()) == group_size[crowded] - 1
    assert torch.equal(draws[0], sample_positives(labels, generator(0)))


def model_and_batch(settings, count=2, items=32):
    names = ("a", "b", "c")[:count]
    model = CrossModalRQVAE({m: 5 + i for i, m in enumerate(names)}, settings.replace(modalities=names), generator())
    x = [torch.randn(items, 5 + i, generator=generator(i)) for i in range(count)]
    labels = [torch.randint(0, 6, (items,), generator=generator(10 + i)) for i in range(count)]
    for tower, part in zip(model.towers, x):
        tower.quantizer.initialise(tower.encode(part), seed=0)
    return model, x, labels


def encoder_gradient(loss, model):
    parameters = [p for tower in model.towers for p in tower.encoder.parameters()]
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return max(0.0 if g is None else g.abs().max().item() for g in gradients)


@pytest.mark.parametrize("positives", ["pseudo_label", "self"])
def test_l_con_at_layer_two_has_encoder_gradients_only_with_detached_residuals(positives):
    detached, x, labels = model_and_batch(SMALL.replace(con_positives=positives))
    assert encoder_gradient(detached(x, labels).con, detached) > 1e-3
    through, x, labels = model_and_batch(SMALL.replace(con_positives=positives, residual="straight_through"))
    assert encoder_gradient(through(x, labels).con, through) < 1e-6


def test_positives_of_l_con_have_equal_labels_in_the_other_modality():
    """All items have different labels in a and the same label in b, so only the residuals of a have positives."""
    model, x, _ = model_and_batch(SMALL)
    labels = [torch.arange(32), torch.zeros(32, dtype=torch.long)]
    loss = model(x, labels).con
    gradients = [torch.autograd.grad(loss, list(tower.encoder.parameters()), retain_graph=True, allow_unused=True)
                 for tower in model.towers]
    assert max(g.abs().max() for g in gradients[0]) > 1e-3
    assert all(g is None or g.abs().max() == 0 for g in gradients[1])


@pytest.mark.parametrize("denominator", ["others", "all"])
def test_l_con_is_the_sum_over_modalities_and_layers(denominator):
    model, x, labels = model_and_batch(SMALL.replace(con_layers=(1, 2), con_denominator=denominator))
    quantized = [tower(part).quantized for tower, part in zip(model.towers, x)]
    model.generator = generator(5)
    ours = model.contrast(quantized, labels).item()
    again, expected = generator(5), 0.0
    for anchor, other in ((0, 1), (1, 0)):
        positives = sample_positives(labels[other], again)
        rows = [i for i in range(32) if positives[i] != i]
        for layer in (1, 2):
            residuals = quantized[anchor].residuals[:, layer].detach()
            excluded = rows if denominator == "others" else None
            expected += info_nce_by_loop(residuals[rows], residuals, positives[rows], 0.2, excluded)
    assert ours == pytest.approx(expected, rel=1e-4)


def test_loss_reduction_sum_gives_squared_norms():
    model, x, labels = model_and_batch(SMALL.replace(loss_reduction="sum"))
    loss, recon, rq = model(x, labels), 0.0, 0.0
    for tower, part in zip(model.towers, x):
        z, x_hat = tower.encoder(part), tower(part).x_hat
        recon += (x_hat - part).square().sum(1).mean().item()
        rest = z
        for codebook in tower.quantizer.codebooks:
            word = codebook[torch.cdist(rest, codebook).argmin(1)]
            rq += (1 + 0.5) * (rest - word).square().sum(1).mean().item()
            rest = rest - word
    assert loss.recon.item() == pytest.approx(recon, rel=1e-4) and loss.rq.item() == pytest.approx(rq, rel=1e-4)


def test_three_modalities_sum_over_all_ordered_pairs():
    model, x, labels = model_and_batch(SMALL, count=3)
    quantized = [tower(part).quantized for tower, part in zip(model.towers, x)]
    rows = torch.arange(32)
    expected = sum(info_nce(quantized[a].z_hat, quantized[b].z_hat, rows, 0.2).item()
                   for a in range(3) for b in range(3) if a != b)
    loss = model(x, labels)
    assert loss.align.item() == pytest.approx(expected, rel=1e-5)
    assert all(encoder_gradient(part, model) > 0 for part in (loss.recon, loss.rq, loss.con, loss.align))


def test_total_loss_is_the_weighted_sum_of_its_terms():
    model, x, labels = model_and_batch(SMALL.replace(lambda_con=0.3, lambda_align=0.2))
    loss = model(x, labels)
    assert loss.total.item() == pytest.approx(
        (loss.recon + loss.rq + 0.3 * loss.con + 0.2 * loss.align).item(), rel=1e-5)
    assert loss.con > 0 and loss.align > 0
    model, x, labels = model_and_batch(SMALL.replace(lambda_con=0.0, lambda_align=0.0))
    loss = model(x, None)
    assert loss.con == 0 and loss.align == 0 and loss.total > 0


def test_batch_without_any_positive_still_trains():
    model, x, _ = model_and_batch(SMALL)
    loss = model(x, [torch.arange(32), torch.arange(32)])
    assert loss.con == 0
    loss.total.backward()
