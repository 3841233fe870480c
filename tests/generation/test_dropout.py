"""Dropout with random bytes: rate, expectation and gradient."""
import pytest
import torch

from recbole_macrec.generation.network.decoder_only import DecoderOnly
from recbole_macrec.generation.network.dropout import Attention, dropout
from recbole_macrec.generation.network.layers import FeedForward, TransformerSettings
from recbole_macrec.generation.network.transformer import Transformer


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_rate_and_expectation(p):
    torch.manual_seed(0)
    x = torch.ones(1000, 999)
    y = dropout(x, p, training=True)
    assert (y == 0).float().mean().item() == pytest.approx(round(256 * p) / 256, abs=2e-3)
    assert y.mean().item() == pytest.approx(1, abs=3e-3)
    by_column = (y == 0).float().mean(0)
    assert by_column.std() < 0.02 and by_column.max() < p + 0.08  # no column is favoured


def test_gradient_is_nonzero_where_the_value_is():
    torch.manual_seed(0)
    x = torch.randn(64, 65, requires_grad=True)
    y = dropout(x, 0.25, training=True)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.where(y != 0, 1 / 0.75, 0))


@pytest.mark.parametrize("masked", [None, "bool", "float"])
def test_attention_equals_that_of_torch(masked):
    """With the same parameters, and without dropout."""
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(12, 3, dropout=0.4, batch_first=True).eval()
    ours = Attention.like(theirs)
    query, key = torch.randn(2, 4, 12), torch.randn(2, 5, 12)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    mask = {None: None, "bool": padding, "float": torch.zeros(2, 5).masked_fill(padding, -torch.inf)}[masked]
    expected, _ = theirs(query, key, key, key_padding_mask=mask, need_weights=False)
    found, _ = ours(query, key, key, key_padding_mask=mask, need_weights=False)
    torch.testing.assert_close(found, expected)
    assert ours.in_proj_weight is theirs.in_proj_weight
    assert not torch.allclose(ours.train()(query, key, key, key_padding_mask=mask, need_weights=False)[0], expected)


def test_disabled_outside_training_and_repeatable():
    x = torch.randn(10, 10)
    assert dropout(x, 0.5, training=False) is x
    torch.manual_seed(4)
    first = dropout(x, 0.5, training=True)
    torch.manual_seed(4)
    assert torch.equal(first, dropout(x, 0.5, training=True))


def test_networks_drop_embeddings_hidden_layers_and_outputs():
    """As in T5: half of the embeddings, of the hidden units, of what a layer adds, and of the encoder's output."""
    torch.manual_seed(0)
    settings = TransformerSettings(32, 64, 2, 8, encoder_layers=1, decoder_layers=1, dropout=0.5)
    tokens, x, hidden = torch.arange(400).view(40, 10) % 50, torch.randn(400, 32), []
    layer = FeedForward(settings)
    layer.down.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    parts = [
        (layer(x) - x, 1 / 2),
        (hidden[0], 3 / 4),  # ReLU gives the other zeros
        (DecoderOnly(50, settings).embed(tokens), 1 / 2),
        # an eighth of its input is 0: the embedding and what both parts of the layer add were dropped
        (Transformer(50, settings).read(tokens, torch.full((40,), 10)).hidden, 1 / 2 + 1 / 16),
    ]
    for part, zeros in parts:
        assert float((part == 0).float().mean()) == pytest.approx(zeros, abs=0.03)
