"""MMGCN against its formula with dense matrices; all its tables are trained."""
import pytest
import torch
import torch.nn.functional as F
from dense_graph import adjacency, assert_represents, row_mean
from planted import prepare, write_planted


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return write_planted(tmp_path_factory.mktemp("planted"))


@pytest.mark.parametrize("combination", ["concat", "add"])
@torch.no_grad()
def test_equals_the_dense_formula(combination, planted):
    _, model, _, _ = prepare("MMGCN", planted, combination=combination, max_feature_width=10)
    model.double()
    mean, total = row_mean(adjacency(model)), 0
    for m, network in model.networks.items():
        items = model.features[m]
        if m == "text":  # 12 wide
            items = items @ network.project.weight.T + network.project.bias
        assert items.shape[1] == (10 if m == "text" else 9)
        x = torch.cat([network.preferences, items])
        x = x / x.norm(dim=1, keepdim=True).clamp(min=1e-12)
        for w1, w2, w3 in zip(network.propagate, network.own, network.combine):
            h = F.leaky_relu(mean @ x @ w1.weight.T)
            own = F.leaky_relu(x @ w2.weight.T + w2.bias) + model.ids
            if combination == "concat":
                x = F.leaky_relu(torch.cat([h, own], dim=1) @ w3.weight.T + w3.bias)
            else:
                x = F.leaky_relu(h @ w3.weight.T + w3.bias + own)
        total = total + x / 2
    assert_represents(model, *total.split([model.n_users, model.n_items]))


def test_every_parameter_is_trained(planted):
    _, model, trainer, (train, _, _) = prepare("MMGCN", planted, max_feature_width=10)
    before = {name: p.clone() for name, p in model.named_parameters()}
    trainer.train_steps(train, 1)
    assert {"ids", "networks.text.preferences", "networks.image.preferences", "networks.text.project.weight"} <= set(before)
    for name, parameter in model.named_parameters():
        assert parameter.grad.any() and not torch.equal(parameter, before[name]), name
