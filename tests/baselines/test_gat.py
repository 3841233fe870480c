"""GAT against a masked softmax over dense matrices."""
import pytest
import torch
import torch.nn.functional as F
from dense_graph import adjacency, assert_represents, masked_softmax, row_mean
from planted import prepare, write_planted


@pytest.fixture
def model(tmp_path):
    _, model, _, _ = prepare("GAT", write_planted(tmp_path / "data"), n_heads=2)
    with torch.no_grad():
        for layer in model.layers:
            layer.of_target.mul_(5)
            layer.of_source.mul_(5)
    return model.double().eval()


@torch.no_grad()
def test_equals_the_dense_formula(model):
    h, graph = torch.cat([model.users, model.items]), adjacency(model, self_loops=True)
    for number, layer in enumerate(model.layers):
        outputs = []
        for head, values in enumerate(layer.values):
            z = h @ values.weight.T
            logits = (z @ layer.of_target[head])[:, None] + (z @ layer.of_source[head])[None]
            outputs.append(masked_softmax(F.leaky_relu(logits, 0.2), graph) @ z)
        h = F.elu(torch.cat(outputs, dim=1)) if number == 0 else sum(outputs) / len(outputs)
    assert h.shape[1] == 16
    assert_represents(model, *h.split([model.n_users, model.n_items]))


@torch.no_grad()
def test_attention_sums_to_one_and_is_uniform_with_zero_weights(model):
    layer, x = model.layers[0], torch.cat([model.users, model.items])
    alpha = layer.attention(0, layer.values[0](x), model.edges)
    torch.testing.assert_close(model.edges.sum(alpha), torch.ones(len(x), dtype=torch.float64))
    assert not torch.allclose(alpha, model.edges.mean_weights().double(), atol=1e-2)
    layer.of_target.zero_()
    layer.of_source.zero_()
    expected = row_mean(adjacency(model, self_loops=True)) @ torch.cat([values(x) for values in layer.values], dim=1)
    torch.testing.assert_close(layer(x, model.edges), expected)


@torch.no_grad()
def test_attention_weights_are_dropped(model):
    """The padding has no neighbour but itself. Without this neighbour its output is zero."""
    torch.manual_seed(0)
    layer, x = model.layers[0].train(), torch.cat([model.users, model.items])
    layer.dropout = 0.5
    heads = torch.stack([layer(x, model.edges)[0].view(layer.heads, -1) for _ in range(400)])
    assert float((heads == 0).all(2).float().mean()) == pytest.approx(0.5, abs=0.05)
