"""InvRL: its weights by hand, second derivatives, and a mask that separates a causal from an environment-dependent feature."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planted import prepare, write_planted

from recbole_macrec.baselines import invrl
from recbole_macrec.baselines.invrl import MaskLearning
from recbole_macrec.trainer.callbacks import TrainingCallback
from recbole_macrec.trainer.epoch_checkpointer import Paused
from recbole_macrec.utils.distributed import Group


@pytest.fixture
def model(tmp_path):
    _, model, _, _ = prepare("InvRL", write_planted(tmp_path / "data"))
    return model


def test_beta_by_hand(model):
    user, item = 3, int(model.interactions[3].indices[0])
    of_user, of_item = model.interactions[3].sum(), model.interactions[:, item].sum()
    expected = np.sqrt(of_user + 1) / of_user / np.sqrt(of_item + 1)
    assert model.beta(torch.tensor(user), torch.tensor(item)).item() == pytest.approx(expected)


@pytest.mark.parametrize("n_negatives", [3, 200])
def test_loss_by_hand(n_negatives, model):
    """For small batches, of which each item is projected, and for large ones, for which the whole table is projected."""
    model.negatives = n_negatives
    user, item = torch.tensor([4, 9]), torch.tensor([7, 30])
    torch.manual_seed(0)
    loss = model.batch_loss(model.backbone, torch.full_like(model.mask, 0.5), user, item)
    torch.manual_seed(0)
    drawn = torch.randint(1, model.n_items, (2, n_negatives))
    p, q = model.backbone.users, torch.cat([model.backbone.items, model.backbone.project(0.5 * model.x)], dim=1)
    expected = 0
    for b in range(2):
        expected = expected + (1 + model.beta(user[b], item[b])) * F.binary_cross_entropy_with_logits(
            p[user[b]] @ q[item[b]], torch.tensor(1.0)
        )
        scores = q[drawn[b]] @ p[user[b]]
        weight = 1 + model.beta(user[b], drawn[b])
        expected = (
            expected + (weight * F.binary_cross_entropy_with_logits(scores, torch.zeros(n_negatives), reduction="none")).mean()
        )
    torch.testing.assert_close(loss, expected)


def test_losses_of_two_processes_average_to_that_of_the_whole_batch(model, monkeypatch):
    """The loss is a sum over the batch, of which each process has a part, and the penalties are those of one step."""
    monkeypatch.setattr(torch, "randint", lambda low, high, size, device: torch.full(size, 5))
    user, item = torch.tensor([4, 9, 12, 30]), torch.tensor([7, 30, 2, 19])

    def loss(rows, processes: int) -> torch.Tensor:
        monkeypatch.setattr(invrl, "current_group", lambda: Group(size=processes))
        return model.calculate_loss({model.USER_ID: user[rows], model.ITEM_ID: item[rows]})

    parts = loss(slice(None, None, 2), 2), loss(slice(1, None, 2), 2)
    torch.testing.assert_close(sum(parts) / 2, loss(slice(None), 1))


def test_the_loss_has_second_derivatives(model):
    weight, gates = model.backbone.project.weight, torch.ones_like(model.mask, requires_grad=True)
    loss = model.batch_loss(model.backbone, gates, torch.tensor([4, 9]), torch.tensor([7, 30]))
    gradient, = torch.autograd.grad(loss, weight, create_graph=True)
    by_weight, by_gates = torch.autograd.grad(gradient.square().sum(), [weight, gates])
    assert by_weight.any() and by_gates.any()


def test_the_mask_of_an_environment_dependent_feature_is_lower(model):
    """Column 0 of the features says which items a user takes in both environments, column 1 in the first; in the second it says
    the opposite."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    x = torch.zeros_like(model.x)
    x[1:, :2] = torch.from_numpy(rng.choice([-1.0, 1.0], size=(model.n_items - 1, 2))).float()
    model.x.copy_(x)
    with torch.no_grad():
        model.backbone.users.fill_(1)
        model.backbone.items.zero_()
    good, agrees = x[:, 0] > 0, x[:, 1] > 0
    chosen = [(good & agrees).nonzero()[:, 0], (good & ~agrees & (torch.arange(len(x)) > 0)).nonzero()[:, 0]]
    user = torch.from_numpy(rng.integers(1, model.n_users, size=400))
    environment = torch.arange(400) % 2
    item = torch.stack([chosen[e][int(rng.integers(len(chosen[e])))] for e in environment.tolist()])
    model.settings.update(mask_steps=45, mask_batch_size=100, gradient_weight=1.0, mask_weight=0.1)
    learning = MaskLearning(model.backbone, torch.zeros_like(model.mask), environment)
    assert len(list(model.fit_mask(learning, user, item))) == 5  # a part has ten steps
    mask = learning.mask
    assert mask[1] < mask[0] - 0.1 and ((mask >= 0) & (mask <= 1)).all()


def test_environments_separate_opposite_interactions(model):
    """Half of the interactions are with items of a positive feature, half with those of a negative one."""
    torch.manual_seed(0)
    x = torch.zeros_like(model.x)
    x[1:, 0] = torch.where(torch.arange(1, model.n_items) % 2 == 0, 1.0, -1.0)
    model.x.copy_(x)
    with torch.no_grad():
        model.backbone.users.fill_(1)
        model.backbone.items.zero_()
    user = torch.randint(1, model.n_users, (300,))
    item = torch.randint(1, model.n_items, (300,))
    model.settings.update(environment_updates=5, environment_steps=20)
    model.mask_learning_rate = 0.02
    start = torch.where(torch.rand(300) < 0.7, item % 2, 1 - item % 2)
    learning = MaskLearning(model.backbone, torch.zeros_like(model.mask), start)
    parts = list(model.update_environments(learning, user, item))
    assert torch.equal(learning.environment, item % 2) and len(parts) == 4  # the second update moves none


def test_environments_of_different_sizes_weigh_the_same(model, monkeypatch):
    """Two environments with the same interactions, repeated in one, have the same gradients: no feature is penalised."""
    monkeypatch.setattr(torch, "randint", lambda low, high, size, device: torch.full(size, 5))
    monkeypatch.setattr(invrl, "GATE_NOISE", 0)
    spreads = []
    monkeypatch.setattr(invrl, "_step", lambda optimizer, weights, loss: spreads.append(loss))
    user, item = torch.tensor([4, 9, 4, 9, 4, 9]), torch.tensor([7, 30, 7, 30, 7, 30])
    model.settings.update(mask_steps=1, mask_batch_size=100, gradient_weight=0.0, mask_weight=0.0)
    torch.manual_seed(0)
    for weight in (0.0, 1e6):
        model.settings["gradient_weight"] = weight
        learning = MaskLearning(model.backbone, torch.zeros_like(model.mask), torch.tensor([0, 0, 1, 1, 1, 1]))
        torch.manual_seed(0)
        list(model.fit_mask(learning, user, item))
    torch.testing.assert_close(spreads[1], spreads[0], rtol=1e-4, atol=0)


@pytest.fixture
def losses(monkeypatch) -> list[float]:
    """The losses of all steps, which change no weight. Nothing is random in them but the weights."""
    losses: list[float] = []
    monkeypatch.setattr(torch, "randint", lambda low, high, size, device: torch.full(size, 5))
    monkeypatch.setattr(invrl, "GATE_NOISE", 0)
    monkeypatch.setattr(invrl, "_step", lambda optimizer, weights, loss: losses.append(loss.item()))
    return losses


def test_penalties_of_the_mask_grow_by_five_percent_in_each_round(model, losses):
    mu, environment = torch.nn.Parameter(torch.linspace(-0.4, 0.4, len(model.mask))), torch.tensor([0, 0, 1])
    user, item = torch.tensor([4, 9, 12]), torch.tensor([7, 30, 2])
    model.settings.update(mask_steps=1, mask_batch_size=100)
    optimizer = torch.optim.Adam([mu])
    for gradients, mask, rounds in ((0, 0, 0), (0, 8.0, 0), (0, 8.0, 2), (8.0, 0, 0), (8.0, 0, 2)):
        model.settings.update(gradient_weight=gradients, mask_weight=mask)
        learning = MaskLearning(model.backbone, model.mask, environment, mu=mu, optimizer=optimizer, rounds=rounds)
        list(model.fit_mask(learning, user, item))
    without, *others = losses
    of_mask, of_mask_later, of_gradients, of_gradients_later = (loss - without for loss in others)
    assert of_mask == pytest.approx(8 * mu.square().sum().item(), rel=1e-3) and of_gradients > 0
    assert [of_mask_later / of_mask, of_gradients_later / of_gradients] == pytest.approx([1.05**2] * 2, rel=1e-2)


def test_an_environment_is_penalised_for_what_the_mask_keeps(model, losses):
    mask = torch.linspace(0, 1, len(model.mask))
    model.settings["environment_steps"] = 1
    for weight in (0.0, 500.0):
        model.settings["environment_l1"] = weight
        torch.manual_seed(0)
        model._train_environment(model.backbone, torch.tensor([4, 9]), torch.tensor([7, 30]), mask)
    expected = 500 * (model.backbone.project.weight * mask).abs().mean().item()
    assert losses[1] - losses[0] == pytest.approx(expected, rel=1e-3)


def test_the_mask_is_learnt_once_and_loaded_with_the_model(tmp_path):
    path = write_planted(tmp_path / "data")
    _, model, trainer, (train, valid, _) = prepare("InvRL", path, epochs=1)
    assert (model.mask == 1).all() and not model.mask_is_learnt
    trainer.fit(train, valid)
    mask = model.mask.clone()
    assert model.mask_is_learnt and not (mask == 1).all()
    assert list(model.long_preparation()) == [] and torch.equal(model.mask, mask)
    _, other, loading, _ = prepare("InvRL", path, resume=trainer.newest_model_file)
    loading.resume_checkpoint(trainer.newest_model_file)
    assert torch.equal(other.mask, mask) and other.mask_is_learnt


class PauseWithin(TrainingCallback):
    """Pauses after ``parts`` parts of the learning of the mask."""

    def __init__(self, parts: int):
        self.parts = parts

    def on_batch_end(self, trainer, epoch, batches, total, loss):
        self.parts -= not batches
        if self.parts == 0 and not batches:
            trainer.pause()


def test_learning_the_mask_resumes_and_equals_uninterrupted_training(tmp_path):
    """The parts: 2 epochs of the backbone, then two rounds of 2 environments, at most twice, and of 15 steps of the mask."""
    path = write_planted(tmp_path / "data")
    options = {"epochs": 1, "pretrain_epochs": 2, "mask_rounds": 2, "environment_updates": 2, "mask_steps": 15,
               "train_batch_size": 128}
    _, whole, trainer, (train, valid, test) = prepare("InvRL", path, **options)
    parts = PauseWithin(-1)
    trainer.callbacks.append(parts)
    expected = trainer.fit(train, valid), trainer.evaluate(test)
    assert 2 + 2 * (2 + 2) <= -1 - parts.parts <= 2 + 2 * (2 * 2 + 2)
    for number in range(1, -parts.parts):
        _, _, left, (train, valid, _) = prepare("InvRL", path, **options)
        left.callbacks.append(PauseWithin(number))
        with pytest.raises(Paused):
            left.fit(train, valid)
        _, model, resumed, (train, valid, test) = prepare("InvRL", path, **options, resume=left.newest_model_file)
        rest = PauseWithin(-1)
        resumed.callbacks.append(rest)
        assert (resumed.fit(train, valid), resumed.evaluate(test)) == expected
        assert number - 1 - rest.parts == -1 - parts.parts  # no part is repeated
        for key, value in whole.state_dict().items():
            assert torch.equal(model.state_dict()[key], value), key


def test_a_masked_feature_changes_neither_loss_nor_scores(model):
    results: dict[int, list] = {0: [], 1: []}
    for gate, found in results.items():
        for value in (0.0, 3.0):
            model.mask[0], model.x[1:, 0] = gate, value
            torch.manual_seed(0)
            loss = model.calculate_loss({model.USER_ID: torch.tensor([4, 9]), model.ITEM_ID: torch.tensor([7, 30])})
            found.append([loss.item(), *model.full_sort_predict({model.USER_ID: torch.tensor([4])})[0, 1:].tolist()])
    assert results[0][0] == results[0][1] and not {*results[1][0]} & {*results[1][1]}


def test_without_mask_rounds_no_feature_is_masked(tmp_path):
    _, model, trainer, (train, _, _) = prepare("InvRL", write_planted(tmp_path / "data"), epochs=1, mask_rounds=0)
    parts = PauseWithin(-1)
    trainer.callbacks.append(parts)
    trainer.fit(train)
    assert (model.mask == 1).all() and model.mask_is_learnt
    assert parts.parts == -1  # nothing is trained for a mask
