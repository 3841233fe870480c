"""Training, ranking and quantizing on a simulated device: no mixed devices, no synchronization, and the same results as on the
CPU."""
import contextlib

import numpy as np
import pytest
import torch
from simulated_device import DEVICE, OnDevice, held, simulated
from small_models import data_path, prepare  # noqa: F401 (a fixture)

from recbole_macrec.semantic_ids.quantizers.rqvae_training import RQVAETraining
from recbole_macrec.semantic_ids.settings import SemanticIDSettings

READS = {  # functions that may read from the device: lengths, items and candidates of a batch, and a certified search
    "histories", "_alignment_items", "distinct", "distinct_of_each_row", "on_host", "true_indices", "first_best",
}


@pytest.fixture(autouse=True)
def fp32(monkeypatch):
    """Turn off autocast, which the simulated device does not support."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *args: False)


def on_device(interaction):
    for name, column in interaction.interaction.items():
        interaction.interaction[name] = OnDevice(column)
    return interaction


@pytest.mark.parametrize("network, training", [
    ("encoder_decoder", "per_target"), ("encoder_decoder", "per_user"), ("decoder_only", "per_user"),
])  # fmt: skip
def test_a_training_step_stays_on_the_device(network, training, data_path):
    options = {"network": network, "training": training, "output": "trie", "dropout_prob": 0.0, "precision": "fp32"}
    _, model, trainer, loaders = prepare("MACRec", data_path, **options)
    batch = next(iter(trainer.training_loader(loaders[0])))
    weights = [p for p in model.parameters() if p.requires_grad]

    def gradients(weights):
        torch.manual_seed(1)
        loss = model.calculate_loss(batch)
        return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)

    loss, expected = gradients(weights)
    with simulated(model, READS) as simulation:
        weights = [p for p in model.parameters() if p.requires_grad]
        found_loss, found = gradients(weights)
        optimizer = torch.optim.AdamW(weights, foreach=False)
        for weight, gradient in zip(weights, found):
            weight.grad = gradient
        optimizer.step()
    assert simulation.waits == []
    torch.testing.assert_close(held(found_loss), loss)
    for mine, theirs in zip(found, expected):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(held(mine), theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("decode", ["beam", "exact", "certified"])
@pytest.mark.parametrize("network", ["encoder_decoder", "decoder_only"])
def test_ranking_stays_on_the_device(network, decode, data_path):
    options = {"network": network, "training": "per_user", "decode": decode, "fusion": "lse", "output": "trie"}
    _, model, trainer, loaders = prepare("MACRec", data_path, **options)
    trainer.train_steps(trainer.training_loader(loaders[0]))
    model.eval()
    users = loaders[2]._dataset[np.arange(12)]
    expected = model.rank(users)
    with simulated(model, READS) as simulation:
        found = model.rank(on_device(users))
    assert simulation.waits == []
    for name, ranking in expected.items():
        assert torch.equal(held(found[name].items)[:, :10], ranking.items[:, :10])
        torch.testing.assert_close(held(found[name].scores)[:, :10], ranking.scores[:, :10])


def test_quantizing_stays_on_the_device():
    rng = np.random.default_rng(0)
    features = {name: rng.standard_normal((40, 12)).astype(np.float32) for name in ("text", "image")}
    settings = SemanticIDSettings(modalities=("text", "image"), codebook_levels=2, codebook_size=8, code_dim=4,
                                  rqvae_projection=0, rqvae_hidden_sizes=(16,), con_layers=(0, 1), pseudo_labels=4)
    training = RQVAETraining(features, settings, "cpu")
    rows = torch.arange(32)

    def gradients(rows):
        training.generator.manual_seed(0)
        loss = training.losses(rows)["total"]
        return loss.detach(), torch.autograd.grad(loss, list(training.model.parameters()))

    loss, expected = gradients(rows)
    with simulated(training.model, ()) as simulation:
        training.x = [OnDevice(x) for x in training.x]
        found_loss, found = gradients(rows)
    assert simulation.waits == []
    torch.testing.assert_close(held(found_loss), loss)
    for mine, theirs in zip(found, expected):
        torch.testing.assert_close(held(mine), theirs, rtol=1e-3, atol=1e-6)


def test_simulated_device_detects_cpu_tensors_and_synchronization():
    model = torch.nn.Linear(3, 3)
    with simulated(model, ["allowed"]) as simulation:
        with pytest.raises(RuntimeError, match="on the device and on the CPU"):
            model(torch.ones(2, 3))
        y = model(torch.ones(2, 3, device=DEVICE))

        def allowed():
            return y.sum().item()

        allowed()
        assert simulation.waits == []
        y.sum().item()
        y[y > 0]
        assert len(simulation.waits) == 2
