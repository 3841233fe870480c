"""Layers and precision of the RQ-VAE."""
import torch

from recbole_macrec.semantic_ids.quantizers.rqvae import RQVAE
from recbole_macrec.semantic_ids.quantizers.rqvae_training import RQVAETraining
from recbole_macrec.semantic_ids.settings import SemanticIDSettings

SMALL = SemanticIDSettings(("text",), quantizer="rqvae", codebook_levels=3, codebook_size=16, code_dim=8, rqvae_projection=0,
                           rqvae_hidden_sizes=(32,), rqvae_epochs=30, rqvae_warmup_epochs=5, rqvae_batch_size=64,
                           rqvae_learning_rate=0.01)


def features():
    """Features [256, 24] of 64 groups of similar items."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(64, 24, generator=generator)
    return groups.repeat(4, 1) + 0.1 * torch.randn(256, 24, generator=generator)


def towers(*precisions):
    """Equal towers in different ``rqvae_precision``, in training mode."""
    made = [RQVAE(24, SMALL.replace(rqvae_precision=precision), torch.Generator().manual_seed(0)) for precision in precisions]
    for tower in made:
        tower.quantizer.initialise(tower.encode(features()), seed=0)
    return made


def test_a_linear_projection_comes_before_the_mlp_and_the_decoder_mirrors_both():
    tower = RQVAE(24, SMALL.replace(rqvae_projection=20, rqvae_hidden_sizes=(16, 12)), torch.Generator())
    encoder, decoder = ([getattr(layer, "out_features", "ReLU") for layer in part] for part in (tower.encoder, tower.decoder))
    assert encoder == [20, 16, "ReLU", 12, "ReLU", 8]
    assert decoder == [12, "ReLU", 16, "ReLU", 20, 24]


def test_bf16_is_used_in_training_only():
    fp32, bf16 = towers("fp32", "bf16")
    x = features()
    expected, close = fp32(x), bf16(x)
    assert close.x_hat.dtype == close.quantized.z_hat.dtype == torch.float32
    assert not torch.equal(close.x_hat, expected.x_hat)
    torch.testing.assert_close(close.recon, expected.recon, rtol=0.02, atol=0)
    torch.testing.assert_close(bf16.autoencode(x), fp32.autoencode(x), rtol=0.02, atol=0)
    assert torch.equal(bf16.encode(x), fp32.encode(x))
    assert torch.equal(bf16.eval()(x).x_hat, fp32.eval()(x).x_hat)


def test_gradients_in_bf16_are_close_to_those_in_fp32():
    fp32, bf16 = towers("fp32", "bf16")
    for tower in (fp32, bf16):
        tower.autoencode(features()).backward()
    for expected, close in zip(fp32.parameters(), bf16.parameters()):
        if expected.grad is not None:  # the auto-encoder has no codebooks
            assert close.grad.dtype == torch.float32
            assert (close.grad - expected.grad).norm() < 0.03 * expected.grad.norm()


def test_auto_is_bf16_on_processors_that_have_it(monkeypatch):
    fp32, bf16, auto = towers("fp32", "bf16", "auto")
    for forced, expected in (("1", bf16), ("0", fp32)):
        monkeypatch.setenv("RECBOLE_MACREC_BF16", forced)
        assert torch.equal(auto(features()).x_hat, expected(features()).x_hat)


def test_ids_learnt_in_bf16_are_as_good_as_in_fp32():
    collisions, errors = {}, {}
    for precision in ("fp32", "bf16"):
        training = RQVAETraining({"text": features().numpy()}, SMALL.replace(rqvae_precision=precision), "cpu")
        learnt = training.run(show_progress=False).modalities["text"]
        collisions[precision] = training.history[-1]["health"]["text"]["collision_rate"]
        errors[precision] = learnt.reconstruction_error
    assert abs(collisions["bf16"] - collisions["fp32"]) < 0.1
    assert abs(errors["bf16"] / errors["fp32"] - 1) < 0.1 and errors["fp32"] < 0.5


def test_precision_names_other_ids_only_if_it_is_set():
    assert "rqvae_precision" not in SMALL.identity()
    assert SMALL.replace(rqvae_precision="fp32").identity()["rqvae_precision"] == "fp32"
