"""Step-by-step decoding of a trie's prefixes against teacher forcing of the whole prefixes by the plain decoder."""
import numpy as np
import pytest
import torch

from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.generation.decoding.trie_decoder import TrieDecoder
from recbole_macrec.generation.network.layers import TransformerSettings
from recbole_macrec.generation.network.packing import pack
from recbole_macrec.generation.network.transformer import Transformer
from recbole_macrec.generation.vocabulary import Vocabulary

SIZES = (5, 4, 6, 3)
PADDED = 10**6  # an overhead that puts all users into one padded group


def network_and_trie(layers: int, overhead: int, kind: torch.dtype, norm: str = "pre_rms", positions: str = "relative"):
    """A network with random weights (also of the norms), its memory of three users, and a trie of 60 IDs."""
    torch.manual_seed(0)
    vocabulary = Vocabulary({"b": (7, 7), "a": SIZES})
    settings = TransformerSettings(d_model=16, d_ff=32, num_heads=3, d_kv=8, encoder_layers=1, decoder_layers=layers, norm=norm,
                                   decoder_positions=positions)
    network = Transformer(len(vocabulary), settings).eval()
    for p in network.parameters():
        p.data += 0.3 * torch.randn_like(p)
    network = network.to(kind)
    tokens = torch.randint(1, len(vocabulary), (3, 40))
    memory = network.encode(pack(tokens, torch.tensor([40, 20, 3]), overhead))
    codes = np.unique(np.random.default_rng(0).integers(SIZES, size=(60, 4)), axis=0)
    return vocabulary, network, memory, Trie(codes, np.arange(1, 1 + len(codes)))


def forced(vocabulary, network, memory, codes: torch.Tensor) -> torch.Tensor:
    """log P of the codes that follow prefixes [B, G, T], by teacher forcing; [B, G, K]."""
    level = codes.shape[-1]
    tokens = codes + torch.tensor(vocabulary.offsets["a"][:level], dtype=torch.long)
    start = torch.full((*codes.shape[:2], 1), vocabulary.start["a"])
    hidden = network.decode(torch.cat([start, tokens], dim=-1), memory)[:, :, -1]
    offset, size = vocabulary.offsets["a"][level], vocabulary.sizes["a"][level]
    return network.logits(hidden, offset, size).float().log_softmax(-1)


@pytest.mark.parametrize("visits", [0, 1000], ids=["computed", "tabulated"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("overhead", [0, PADDED])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize(("norm", "positions"), [("pre_rms", "relative"), ("post_layer", "sinusoidal")])
@torch.no_grad()
def test_steps_equal_teacher_forcing(norm, positions, kind, overhead, layers, visits):
    """Every step continues a random choice of the prefixes before, which differs from user to user."""
    vocabulary, network, memory, trie = network_and_trie(layers, overhead, kind, norm, positions)
    decoder = TrieDecoder(network, vocabulary, "a", trie, visits)
    source, past = decoder.read(memory), decoder.empty_past()
    nodes, codes = torch.zeros(3, 1, dtype=torch.long), torch.zeros(3, 1, 0, dtype=torch.long)
    for level, groups in enumerate((4, 9, 2, 0)):
        log_probs, present = decoder.step(level, nodes, source, past)
        assert log_probs.shape == (*nodes.shape, SIZES[level])
        torch.testing.assert_close(log_probs, forced(vocabulary, network, memory, codes), atol=1e-5, rtol=0)
        if not groups:
            break
        parent = torch.randint(nodes.shape[1], (3, groups))
        past = past.extended(present, parent, nodes.shape[1])
        if level:
            children, exists = trie.children_of(level - 1, nodes.gather(1, parent))  # [B, G, C]
            pick = (torch.rand(exists.shape) * exists).argmax(-1, keepdim=True)
            nodes = children.gather(2, pick).squeeze(2)
        else:
            nodes = torch.randint(trie.size(0), (3, groups))
        codes = trie.path(level, nodes.flatten()).view(3, groups, level + 1)
    assert bool(decoder.first_layer_table) == bool(visits)


@torch.no_grad()
@pytest.mark.parametrize(("norm", "positions"), [("pre_rms", "relative"), ("post_layer", "sinusoidal")])
def test_bf16_steps_are_close_to_fp32(norm, positions):
    vocabulary, network, memory, trie = network_and_trie(2, 0, torch.float32, norm, positions)
    plain, root = TrieDecoder(network, vocabulary, "a", trie), torch.zeros(3, 1, dtype=torch.long)
    expected, _ = plain.step(0, root, plain.read(memory), plain.empty_past())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoder = TrieDecoder(network, vocabulary, "a", trie)
        source = decoder.read(memory)
        log_probs, present = decoder.step(0, root, source, decoder.empty_past())
        nodes = torch.zeros(3, 2, dtype=torch.long)
        second, _ = decoder.step(1, nodes, source, decoder.empty_past().extended(present, nodes, 1))
    assert present[0][0].dtype == torch.bfloat16 and log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs, expected, atol=0.1, rtol=0)
    codes = trie.path(0, nodes.flatten()).view(3, 2, 1)
    torch.testing.assert_close(second, forced(vocabulary, network, memory, codes), atol=0.2, rtol=0)
