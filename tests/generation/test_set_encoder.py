"""The set encoder: relation-aware attention against a loop over heads and pairs, and independence of the order."""
import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from recbole_macrec.config.schema.models import MMGRecOptions
from recbole_macrec.generation.network.layers import TransformerSettings, sinusoidal_encodings
from recbole_macrec.generation.network.packing import pack
from recbole_macrec.generation.network.set_encoder import RelationAwareAttention, SetEncoder

SETTINGS = TransformerSettings(d_model=12, d_ff=16, num_heads=3, d_kv=5, encoder_layers=2, decoder_layers=1, dropout=0.0)
WIDTH = 6  # of a representation
ATTENTIONS = get_args(MMGRecOptions.model_fields["attention"].annotation)
LENGTHS = torch.tensor([4, 1, 3])


def attention(norm: str) -> RelationAwareAttention:
    torch.manual_seed(0)
    layer = RelationAwareAttention(replace(SETTINGS, norm=norm), WIDTH)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return layer


def scale_of(mlp, user: torch.Tensor) -> torch.Tensor:
    return mlp.out.weight[0] @ F.leaky_relu(mlp.hidden.weight @ user + mlp.hidden.bias) + mlp.out.bias[0]


def one_by_one(layer: RelationAwareAttention, items: torch.Tensor, user: torch.Tensor) -> torch.Tensor:
    """The layer's output [S, D] for the items [S, D] of one user, by loops over pairs of items and heads."""
    width = SETTINGS.d_kv
    a, b, c = (scale_of(mlp, user) for mlp in (layer.query_scale, layer.key_scale, layer.value_scale))
    inputs = items if layer.post_norm else [x / (x.square().mean() + 1e-6).sqrt() * layer.norm.weight for x in items]
    rows = []
    for i, x_i in enumerate(inputs):
        heads = []
        for h in range(SETTINGS.num_heads):
            part = slice(h * width, (h + 1) * width)
            scores = []
            for x_j in inputs:
                usual = (layer.query.weight[part] @ x_i) @ (layer.key.weight[part] @ x_j)
                own = (a * layer.user_query.weight @ x_i) @ (b * layer.user_key.weight @ x_j)
                scores.append((usual + own) / math.sqrt(width))
            share = torch.stack(scores).softmax(0)
            heads.append(sum(p * (layer.value.weight[part] @ x_j + c * layer.user_value.weight @ x_j)
                             for p, x_j in zip(share, inputs)))
        row = items[i] + layer.out.weight @ torch.cat(heads)
        rows.append(F.layer_norm(row, row.shape, layer.norm.weight, layer.norm.bias) if layer.post_norm else row)
    return torch.stack(rows)


@pytest.mark.parametrize("norm", ["pre_rms", "post_layer"])
@pytest.mark.parametrize("overhead", [0, 10**6])  # the second pads all users to one length
def test_attention_equals_a_loop_over_heads_and_pairs(overhead, norm):
    layer, users = attention(norm), torch.randn(3, WIDTH)
    source = pack(torch.zeros(3, 4, dtype=torch.long), LENGTHS, overhead)
    x = torch.randn(len(source.tokens), SETTINGS.d_model)
    with torch.no_grad():
        y, begin = layer(x, source.groups, users, source.keep), 0
        for user, length in enumerate(LENGTHS.tolist()):
            rows = slice(begin, begin + length)
            torch.testing.assert_close(y[rows], one_by_one(layer, x[rows], users[user]), atol=1e-5, rtol=1e-5)
            begin += length if overhead == 0 else 4


def encoder(kind: str) -> SetEncoder:
    torch.manual_seed(1)
    return SetEncoder(SETTINGS, WIDTH, kind)


def read(reader: SetEncoder, vectors: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
    """Outputs [B, S, D] of the items [B, S, R] of users [B, R]."""
    source = pack(torch.zeros(vectors.shape[:2], dtype=torch.long), torch.full((len(vectors),), vectors.shape[1]))
    return reader(source, vectors.flatten(0, 1), users).hidden.view(*vectors.shape[:2], -1)


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_order_matters_only_with_positions(kind):
    reader, vectors, users = encoder(kind).eval(), torch.randn(2, 5, WIDTH), torch.randn(2, WIDTH)
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        straight, permuted = read(reader, vectors, users), read(reader, vectors[:, order], users)
    same = torch.allclose(permuted, straight[:, order], atol=1e-5)
    assert same == (kind not in ("positions", "sinusoidal"))


def test_relation_aware_attention_depends_on_the_user():
    vectors, users = torch.randn(1, 5, WIDTH).expand(2, -1, -1), torch.randn(2, WIDTH)
    for kind in ATTENTIONS:
        with torch.no_grad():
            one, other = read(encoder(kind).eval(), vectors, users)
        assert torch.allclose(one, other, atol=1e-5) == (kind != "relation_aware")


def test_all_weights_of_the_user_mlps_have_gradients():
    reader = encoder("relation_aware")
    read(reader, torch.randn(4, 5, WIDTH), torch.randn(4, WIDTH)).square().mean().backward()
    mlps = {name: p for name, p in reader.named_parameters() if "_scale." in name}
    assert len(mlps) == 2 * 3 * 4  # layers, scales, weights
    for name, p in mlps.items():
        assert p.grad.abs().max() > 0, name


def test_sinusoidal_encodings_equal_the_formula():
    encodings = sinusoidal_encodings(7, 6)
    for position in range(7):
        for i in range(3):
            angle = position / 10_000 ** (2 * i / 6)
            expected = torch.tensor([math.sin(angle), math.cos(angle)])
            torch.testing.assert_close(encodings[position, 2 * i : 2 * i + 2], expected, atol=1e-5, rtol=0)
    assert sinusoidal_encodings(2, 3).shape == (2, 3)


def test_sinusoidal_positions_are_added_to_the_items_of_each_user():
    torch.manual_seed(0)
    encoder, plain = SetEncoder(SETTINGS, WIDTH, "sinusoidal"), SetEncoder(SETTINGS, WIDTH, "none")
    plain.load_state_dict(encoder.state_dict())
    source = pack(torch.arange(12).view(3, 4), LENGTHS)
    vectors, users = torch.randn(len(source.tokens), WIDTH), torch.randn(3, WIDTH)
    position = torch.cat([torch.arange(n) for n in LENGTHS.tolist()])
    added = sinusoidal_encodings(4, SETTINGS.d_model)[position]
    plain.project = torch.nn.Identity()
    expected = plain(source, encoder.project(vectors) + added, users).hidden
    torch.testing.assert_close(encoder(source, vectors, users).hidden, expected)
