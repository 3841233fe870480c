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
    """The reference reads users one by one, and multiplies by each matrix of a layer."""
    _, model, _, _ = prepare("LightGT", planted, max_sequence_items=50)
    model.double().eval()
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
    for other in (torch.tensor([[2, 4, 9], [1, 8, 0]]), torch.tensor([[4, 9, 2, 0, 0], [8, 1, 0, 0, 0]])):
        torch.testing.assert_close(model.user_vectors(user, other, o, means, contents), expected)
    assert not torch.allclose(
        model.user_vectors(user, torch.tensor([[4, 9, 3], [8, 2, 0]]), o, means, contents), expected, atol=1e-4
    )


def draw(model, user, target):
    """Users and items of the sequences, and the sequence of each sample, as lists."""
    users, items, sequence = model.training_sequences(user, target)
    return users.tolist(), [[item for item in row if item] for row in items.tolist()], sequence.tolist()


@pytest.mark.parametrize("target_in_input", [False, True])
@pytest.mark.parametrize("at_once", [1, 30, 10**6])
def test_the_target_is_in_the_sequence_only_if_requested(at_once, target_in_input, planted, monkeypatch):
    monkeypatch.setattr(lightgt, "HISTORY_ITEMS", at_once)
    _, model, _, (train, _, _) = prepare("LightGT", planted, target_in_input=target_in_input, max_sequence_items=50)
    for batch in train:
        users, items, sequence = draw(model, batch["user_id"], batch["item_id"])
        for user, target, number in zip(batch["user_id"].tolist(), batch["item_id"].tolist(), sequence):
            own = set(model.interactions[user].indices.tolist())
            assert users[number] == user and len(set(items[number])) == len(items[number])
            assert set(items[number]) == (own if target_in_input else own - {target})


def test_samples_of_a_user_share_a_sequence_that_has_none_of_their_targets(planted):
    """Each user has four items. Two are left of user 1, enough for the sequence, and one of user 2."""
    _, model, _, _ = prepare("LightGT", planted, max_sequence_items=2)
    own = [model.interactions[user].indices.tolist() for user in (1, 2)]
    assert list(map(len, own)) == [4, 4]
    user, target = torch.tensor([1, 2, 2, 2, 1]), torch.tensor([own[0][0], *own[1][:3], own[0][1]])
    users, items, sequence = draw(model, user, target)
    assert sequence[0] == sequence[4] and len(set(sequence)) == 4
    for number, sample_user, sample_target in zip(sequence, user.tolist(), target.tolist()):
        assert len(items[number]) == 2 and sample_target not in items[number]
        assert set(items[number]) <= set(own[sample_user - 1]) and users[number] == sample_user


def test_sequences_are_random_in_training_and_the_latest_in_ranking(planted):
    _, model, _, _ = prepare("LightGT", planted, max_sequence_items=2)
    user, none = torch.arange(1, model.n_users), torch.zeros(model.n_users - 1, dtype=torch.long)
    drawn = [draw(model, user, none)[1] for _ in range(2)]
    assert drawn[0] != drawn[1]
    for row, number in zip(drawn[0], user.tolist()):
        assert len(set(row)) == 2 and set(row) <= set(model.interactions[number].indices.tolist())
    model.eval()
    first = [x.clone() for x in model.final_representations()]
    model._cached = None
    assert all(torch.equal(a, b) for a, b in zip(first, model.final_representations()))
