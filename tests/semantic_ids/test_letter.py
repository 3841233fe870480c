"""``quantizer: letter``: the collaborative and the diversity loss."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_ids import learn
from small_models import data_path, prepare  # noqa: F401  data_path is a fixture

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.quantizers.letter import COLLABORATIVE, LETTERTraining, balanced_clusters, diversity_loss
from recbole_macrec.semantic_ids.settings import SemanticIDSettings

SETTINGS = SemanticIDSettings(
    ("text",), quantizer="letter", codebook_levels=2, codebook_size=8, code_dim=4, rqvae_projection=0, rqvae_hidden_sizes=(16,),
    rqvae_epochs=12, rqvae_warmup_epochs=3, rqvae_batch_size=64, lambda_cf=0.0, lambda_div=0.0, con_layers=(0,),
)  # fmt: skip


def items(count: int = 120, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"text": rng.standard_normal((count, 10)).astype(np.float32),
            COLLABORATIVE: rng.standard_normal((count, 4)).astype(np.float32)}  # fmt: skip


def settings_with(**options):
    return SETTINGS.replace(**options)


def test_codes_without_both_losses_equal_those_of_rqvae():
    features = items()
    ours = learn(features, SETTINGS).modalities["text"].codes
    plain = (
        learn({"text": features["text"]}, settings_with(quantizer="rqvae")).modalities["text"].codes
    )
    assert np.array_equal(ours, plain)


def test_clusters_are_balanced():
    codebook = np.concatenate([np.random.default_rng(i).normal(10 * i, 0.1, (4, 3)) for i in range(3)]).astype(np.float32)
    assigned = balanced_clusters(codebook, 3, seed=0)
    assert all(len(set(assigned[4 * i : 4 * i + 4])) == 1 for i in range(3)) and len(set(assigned)) == 3
    assert np.bincount(balanced_clusters(codebook, 5, seed=0)).max() <= 3


def test_diversity_loss_equals_the_formula():
    codebook, codes = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
    clusters = torch.tensor([0, 0, 1, 2])  # the only other codeword of 0 is 1; 2 is alone
    expected = []
    for own, other in ((0, 1), (1, 0)):
        scores = torch.stack([codebook[own] @ codebook[k] if k != own else torch.tensor(-torch.inf) for k in range(4)])
        expected.append(-F.log_softmax(scores, 0)[other])
    loss = diversity_loss(codebook, codes, clusters, torch.Generator().manual_seed(1))
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)
    assert diversity_loss(codebook, codes, torch.arange(4), torch.Generator()).item() == 0


def test_total_loss_is_the_weighted_sum_of_its_terms():
    options = settings_with(lambda_cf=0.2, lambda_div=0.3)
    training = LETTERTraining(items()[COLLABORATIVE], {"text": items()["text"]}, options, "cpu")
    (tower,) = training.model.towers
    training._initialise(tower.quantizer, training._encode(tower, training.x[0]))
    state, rows = training.generator.get_state(), torch.arange(64)
    loss = training.losses(rows)
    assert loss["cf"] > 0 and loss["div"] > 0
    torch.testing.assert_close(loss["total"], loss["recon"] + loss["rq"] + 0.2 * loss["cf"] + 0.3 * loss["div"])
    training.generator.set_state(state)
    codes = tower(training.x[0][rows]).quantized.codes
    levels = zip(tower.quantizer.codebooks, codes.T, training.clusters)
    torch.testing.assert_close(loss["div"], sum(diversity_loss(*level, training.generator) for level in levels))


def test_diversity_loss_has_gradients_of_codebooks_only():
    training = LETTERTraining(items()[COLLABORATIVE], {"text": items()["text"]}, settings_with(lambda_div=1.0), "cpu")
    (tower,) = training.model.towers
    training._initialise(tower.quantizer, training._encode(tower, training.x[0]))
    training.clusters = torch.zeros_like(training.clusters)
    training.losses(torch.arange(64))["div"].backward()
    assert tower.quantizer.codebooks.grad.abs().sum() > 0 and all(p.grad is None for p in tower.encoder.parameters())


@pytest.mark.parametrize("codebook_size", [2, 8])
def test_diversity_loss_has_an_effect_on_small_codebooks(codebook_size):
    training = LETTERTraining(
        items()[COLLABORATIVE], {"text": items()["text"]}, settings_with(lambda_div=1.0, codebook_size=codebook_size), "cpu"
    )
    training.run(show_progress=False)
    assert all(np.bincount(level).max() == 2 for level in training.clusters.numpy())


def skewed_items() -> dict[str, np.ndarray]:
    """600 items in 8 groups; the largest has half of them."""
    rng = np.random.default_rng(0)
    group = rng.choice(8, 600, p=[0.5, 0.2, 0.1, 0.05, 0.05, 0.05, 0.03, 0.02])
    x = 3 * rng.standard_normal((8, 10))[group] + 0.3 * rng.standard_normal((600, 10))
    return {"text": x.astype(np.float32), COLLABORATIVE: rng.standard_normal((600, 4)).astype(np.float32)}


def test_diversity_loss_raises_the_usage_entropy_on_skewed_data():
    settings = settings_with(codebook_size=32, rqvae_epochs=30, rqvae_batch_size=128, restart_dead_codes=False)

    def entropy(weight: float) -> float:
        learnt = learn(skewed_items(), settings.replace(lambda_div=weight))
        counts = np.bincount(learnt.modalities["text"].codes[:, 0])
        share = counts[counts > 0] / 600
        return -(share * np.log(share)).sum()

    assert entropy(1.0) > entropy(0.0) + 0.1


def test_collaborative_loss_gives_items_of_one_group_the_same_first_code():
    """Two groups of items that differ in only one of ten features."""
    features, group = items(), np.arange(120) % 2
    features["text"][:, 0] = 2 * group - 1
    features[COLLABORATIVE] = np.where(group[:, None] == 0, 3.0, -3.0).astype(np.float32) * np.ones((1, 4), dtype=np.float32)

    def purity(weight):
        first = (
            learn(features, settings_with(lambda_cf=weight, rqvae_epochs=100))
            .modalities["text"]
            .codes[:, 0]
        )
        counts = np.stack([np.bincount(first[group == g], minlength=8) for g in (0, 1)])
        return counts.max(0).sum() / 120

    assert purity(10.0) > max(0.9, purity(0.0) + 0.1)


def test_collaborative_vectors_of_another_width_are_a_user_error():
    features = {**items(), COLLABORATIVE: np.zeros((120, 5), dtype=np.float32)}
    with pytest.raises(UserError, match="code_dim is 4, but the collaborative vectors have 5"):
        learn(features, SETTINGS)


@pytest.mark.parametrize("name, quantizer", [("TIGER", "letter"), ("TIGER", "cid"), ("MACRec", "letter")])
def test_model_trains_with_letter_ids(name, quantizer, data_path):
    options = {"quantizer": quantizer, "cf_epochs": 1, "cid_clusters": 3, "cid_leaf_size": 8, "epochs": 1, "rqvae_epochs": 2}
    if name == "TIGER":
        options |= {"modalities": ["text"], "code_dim": 5}  # RecBole's SASRec has two heads by default
    _, model, trainer, (train, valid, _) = prepare(name, data_path, **options)
    score, _ = trainer.fit(train, valid, saved=False)
    assert 0 <= score <= 1 and model.semantic_ids.bundle.is_dir()


@pytest.mark.parametrize("quantizer", ["letter", "cid"])
def test_ids_do_not_depend_on_held_out_interactions(quantizer, data_path):
    options = {"quantizer": quantizer, "cf_epochs": 1, "cid_clusters": 3, "cid_leaf_size": 8, "rqvae_epochs": 2,
               "modalities": ["text"], "lambda_cf": 1.0}  # fmt: skip
    _, before, _, _ = prepare("TIGER", data_path, **options)
    file = data_path / "tiny" / "tiny.inter"
    header, *rows = file.read_text().splitlines()
    of_user: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        of_user.setdefault(row.split("\t")[0], []).append(i)
    for user, own in of_user.items():
        for i in own[-2:]:  # the validation and the test interaction
            _, item, *rest = rows[i].split("\t")
            rows[i] = "\t".join([user, f"i{(int(item[1:]) + 7) % 30}", *rest])
    file.write_text("\n".join([header, *rows]) + "\n")
    _, after, _, _ = prepare("TIGER", data_path, **options)
    assert before.semantic_ids.fingerprint() == after.semantic_ids.fingerprint()
