"""LightGT: its sequences, and its formula with dense matrices."""
import pytest
import torch
import torch.nn.functional as F
from dense_graph import adjacency, symmetric
from planted import prepare, write_planted

from recbole_macrec.baselines import lightgt


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return write_planted(tmp_path_factory.mktemp("planted"))


@torch.no_grad()
def test_equals_the_dense_formula(planted):
    """Users one by one, without padding."""
    _, model, _, _ = prepare("LightGT", planted, max_sequence_items=50)
    model.double().eval().padded_users = 7
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    a = symmetric(adjacency(model))
    e0, e1, e2 = model.ids, a @ model.ids, a @ a @ model.ids
    means, o = [(e0 + e1) / 2, (e0 + e1 + e2) / 3], (e0 + e1 + e2) / 3
    scores = model.full_sort_predict({"user_id": torch.arange(model.n_users)})
    width = model.width
    for user in range(1, model.n_users, 9):
        items = torch.from_numpy(model.interactions[user].indices).long()
        nodes = torch.cat([torch.tensor([user]), model.n_users + items])
        expected = 0.05 * o[model.n_users :] @ o[user]
        for m, reader in model.readers.items():
            content = model.features[m] @ reader.project.weight.T + reader.project.bias
            x = torch.cat([model.users[user][None], content[items]])
            for layer, mean in zip(reader.layers, means):
                pi = (mean[nodes] @ reader.position.weight.T + reader.position.bias).sigmoid()
                q, k, v = layer.query(x + pi), layer.key(x + pi), layer.value(x)
                attention = (q @ k.T / (100 * width**0.5)).softmax(1)
                x = F.layer_norm(layer.output(attention @ v), (width,), layer.norm.weight, layer.norm.bias)
            z = F.leaky_relu(x[0] @ reader.output.weight.T + reader.output.bias)
            expected = expected + 0.95 * content @ z
        torch.testing.assert_close(scores[user, 1:], expected[1:])


def test_positions_have_no_gradient(planted):
    _, model, _, (train, _, _) = prepare("LightGT", planted, id_weight=0.0, reg_weight=0.0)
    model.train()
    model.calculate_loss(next(iter(train))).backward()
    assert not model.ids.grad.any() and model.users.grad.any()
    assert model.readers["text"].position.weight.grad.any()


@torch.no_grad()
def test_order_and_padding_of_the_items_have_no_effect(planted):
    _, model, _, _ = prepare("LightGT", planted)
    model.eval()
    (o, means), contents = model.collaborative(), model.contents()
    user, items = torch.tensor([3, 5]), torch.tensor([[4, 9, 2], [8, 1, 0]])
    expected = model.user_vectors(user, items, o, means, contents)
    for other in (torch.tensor([[2, 4, 9], [0, 1, 8]]), torch.tensor([[4, 0, 9, 2, 0], [8, 1, 0, 0, 0]])):
        torch.testing.assert_close(model.user_vectors(user, other, o, means, contents), expected)
    assert not torch.allclose(
        model.user_vectors(user, torch.tensor([[4, 9, 3], [8, 2, 0]]), o, means, contents), expected, atol=1e-4
    )


@pytest.mark.parametrize("target_in_input", [False, True])
@pytest.mark.parametrize("at_once", [1, 30, 10**6])
def test_the_target_is_in_the_sequence_only_if_requested(at_once, target_in_input, planted, monkeypatch):
    monkeypatch.setattr(lightgt, "HISTORY_ITEMS", at_once)
    _, model, _, (train, _, _) = prepare("LightGT", planted, target_in_input=target_in_input, max_sequence_items=50)
    for batch in train:
        items = model.training_items(batch["user_id"], batch["item_id"])
        for user, target, row in zip(batch["user_id"].tolist(), batch["item_id"].tolist(), items.tolist()):
            own = set(model.interactions[user].indices.tolist())
            assert set(row) - {0} == (own if target_in_input else own - {target})


def test_sequences_are_random_in_training_and_the_latest_in_ranking(planted):
    _, model, _, _ = prepare("LightGT", planted, max_sequence_items=2)
    user, none = torch.arange(1, model.n_users), torch.zeros(model.n_users - 1, dtype=torch.long)
    drawn = [model.training_items(user, none) for _ in range(2)]
    assert not torch.equal(*drawn)
    for row, number in zip(drawn[0].tolist(), user.tolist()):
        assert len(set(row) - {0}) == 2 and set(row) <= set(model.interactions[number].indices.tolist())
    model.eval()
    first = [x.clone() for x in model.final_representations()]
    model._cached = None
    assert all(torch.equal(a, b) for a, b in zip(first, model.final_representations()))
