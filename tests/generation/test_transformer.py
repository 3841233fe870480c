"""The transformer against transformers' T5 with the same weights, and its variant of Vaswani et al. against the formula."""
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import T5ForConditionalGeneration

from recbole_macrec.benchmark.speed.reference import t5_config, t5_names
from recbole_macrec.generation.network.compiled import compile_layers
from recbole_macrec.generation.network.layers import FeedForward, TransformerSettings, sinusoidal_encodings
from recbole_macrec.generation.network.memory import Memory
from recbole_macrec.generation.network.packing import pack
from recbole_macrec.generation.network.transformer import Transformer

VOCABULARY = 50
SETTINGS = TransformerSettings(d_model=16, d_ff=32, num_heads=3, d_kv=8, encoder_layers=2, decoder_layers=3)


T5_NAMES = t5_names(SETTINGS)


def t5_pair(seed: int) -> tuple[Transformer, T5ForConditionalGeneration]:
    """A random T5 of transformers and our network with the same weights."""
    torch.manual_seed(seed)
    t5 = T5ForConditionalGeneration(t5_config(VOCABULARY, SETTINGS, decoder_start_token_id=0)).eval()
    with torch.no_grad():
        for p in t5.parameters():  # larger than initial weights, so that a mistake shows
            p.add_(0.3 * torch.randn_like(p))
    ours = Transformer(VOCABULARY, SETTINGS).eval()
    theirs = t5.state_dict()
    ours.load_state_dict({name: theirs[t5_name] for name, t5_name in T5_NAMES.items()})  # strict: every weight is there
    return ours, t5


def source(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of three sources, up to 70, which reach the logarithmic buckets of positions; and the length of each source."""
    tokens = torch.randint(1, VOCABULARY, (3, 70), generator=torch.Generator().manual_seed(seed))
    return tokens, torch.tensor([70, 40, 3])


def attention_mask(lengths: torch.Tensor) -> torch.Tensor:
    return (torch.arange(int(lengths.max())) < lengths.unsqueeze(1)).long()


PADDED = 10**6  # an overhead that puts all users into one padded group
KINDS = [(0, torch.float32), (PADDED, torch.float32), (0, torch.float64), (PADDED, torch.float64)]  # fp64: plain formulas


@pytest.mark.parametrize(("overhead", "kind"), KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_logits_equal_t5(seed, overhead, kind):
    ours, t5 = (network.to(kind) for network in t5_pair(seed))
    tokens, lengths = source(seed)
    target = torch.randint(1, VOCABULARY, (3, 5))
    with torch.no_grad():
        theirs = t5(input_ids=tokens, attention_mask=attention_mask(lengths), decoder_input_ids=target).logits
        memory = ours.encode(pack(tokens, lengths, overhead))
        mine = ours.logits(ours.decode(target.unsqueeze(1), memory))[:, 0]
    assert theirs.std() > 0.1
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("overhead", "kind"), KINDS)
def test_gradients_equal_t5(overhead, kind):
    ours, t5 = (network.to(kind) for network in t5_pair(3))
    tokens, lengths = source(3)
    target = torch.randint(1, VOCABULARY, (3, 4))
    logits = t5(input_ids=tokens, attention_mask=attention_mask(lengths), decoder_input_ids=target).logits
    logits.square().mean().backward()
    memory = ours.encode(pack(tokens, lengths, overhead))
    ours.logits(ours.decode(target.unsqueeze(1), memory)).square().mean().backward()
    theirs = dict(t5.named_parameters())
    for name, parameter in ours.named_parameters():
        expected = theirs[T5_NAMES[name]].grad
        assert expected.abs().max() > 0
        torch.testing.assert_close(parameter.grad, expected, atol=1e-4, rtol=1e-3)


def layer_norm(x: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def attention(layer, queries: torch.Tensor, keys: torch.Tensor, causal: bool) -> torch.Tensor:
    """Multi-head attention of queries [T, D] to keys [S, D], one head at a time; [T, D]."""
    heads = []
    for h in range(SETTINGS.num_heads):
        part = slice(h * SETTINGS.d_kv, (h + 1) * SETTINGS.d_kv)
        q, k, v = (y @ w.weight[part].T for y, w in ((queries, layer.query), (keys, layer.key), (keys, layer.value)))
        scores = q @ k.T
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
        heads.append(scores.softmax(-1) @ v)
    return torch.cat(heads, -1) @ layer.out.weight.T


@torch.no_grad()
def test_post_layer_norm_and_sinusoidal_positions_equal_the_formula():
    """The decoder of Vaswani et al., section 3: x + PE, and LayerNorm(x + f(x)) for each of three layers f of a block."""
    torch.manual_seed(0)
    settings = replace(SETTINGS, encoder_layers=0, norm="post_layer", decoder_positions="sinusoidal")
    network = Transformer(VOCABULARY, settings).eval()
    for p in network.parameters():
        p.add_(0.3 * torch.randn_like(p))
    memory, tokens = Memory(torch.randn(6, 16), [(1, 6)], None), torch.tensor([3, 7, 7, 2])
    x = network.table.weight[tokens] + sinusoidal_encodings(4, 16)
    for layer in network.decoder:
        x = layer_norm(x + attention(layer.self_attention, x, x, causal=True), layer.self_attention.norm)
        x = layer_norm(x + attention(layer.cross_attention, x, memory.hidden, causal=False), layer.cross_attention.norm)
        feed = layer.feed_forward
        x = layer_norm(x + (x @ feed.up.weight.T).relu() @ feed.down.weight.T, feed.norm)
    torch.testing.assert_close(network.decode(tokens[None, None], memory)[0, 0], x, atol=1e-5, rtol=1e-5)
    assert not any("bias.weight" in name or "decoder_norm" in name for name, _ in network.named_parameters())


def test_groups_do_not_attend_to_each_other():
    ours, _ = t5_pair(0)
    tokens, lengths = source(0)
    target = torch.randint(1, VOCABULARY, (3, 4, 5))  # four groups of each user
    with torch.no_grad():
        memory = ours.encode(pack(tokens, lengths))
        together = ours.decode(target, memory)
        for g in range(4):
            torch.testing.assert_close(together[:, g], ours.decode(target[:, g : g + 1], memory)[:, 0], atol=1e-5, rtol=0)


def test_states_do_not_depend_on_other_users_or_padding():
    ours, _ = t5_pair(0)
    tokens, lengths = source(0)
    target = torch.randint(1, VOCABULARY, (3, 1, 5))
    with torch.no_grad():
        packed = ours.decode(target, ours.encode(pack(tokens, lengths)))
        padded = ours.decode(target, ours.encode(pack(tokens, lengths, PADDED)))
        alone = ours.decode(target[2:], ours.encode(pack(tokens[2:, :3], lengths[2:])))
    torch.testing.assert_close(padded, packed, atol=1e-5, rtol=0)
    torch.testing.assert_close(packed[2:], alone, atol=1e-5, rtol=0)


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler")
def test_compiled_layers_give_the_same_gradients():
    ours, _ = t5_pair(0)
    tokens, lengths = source(0)
    target = tokens[:, None, :3]

    def gradients():
        ours.zero_grad()
        ours.logits(ours.decode(target, ours.encode(pack(tokens, lengths)))).square().sum().backward()
        return {name: p.grad.clone() for name, p in ours.named_parameters()}

    expected = gradients()
    names = list(ours.state_dict())
    assert compile_layers(ours)
    torch.testing.assert_close(gradients(), expected, rtol=1e-3, atol=1e-3)
    assert list(ours.state_dict()) == names


def test_a_network_without_layers_to_compile_is_a_warning(caplog):
    assert not compile_layers(torch.nn.Linear(2, 2))
    assert "no layers that are compiled" in caplog.text


def test_failed_compilation_is_a_warning(monkeypatch, caplog):
    def fails(self, **kwargs):
        raise RuntimeError("no compiler found")

    monkeypatch.setattr(FeedForward, "compile", fails)
    ours, _ = t5_pair(0)
    assert not compile_layers(ours)
    assert "no compiler found" in caplog.text
    tokens, lengths = source(0)
    ours.encode(pack(tokens, lengths))
