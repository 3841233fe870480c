"""Trie, beam search, exact scores, fusion and the score matrix against simple references on small catalogues."""
import numpy as np
import pytest
import torch

from recbole_macrec.generation.decoding.candidates import candidate_scores
from recbole_macrec.generation.decoding.exact import exact_scores, ranking_of
from recbole_macrec.generation.decoding.fusion import BELOW_ALL_RANKED, fuse_official, score_matrix
from recbole_macrec.generation.decoding.search import Ranking, beam_search
from recbole_macrec.generation.decoding.teacher_forcing import sequence_log_probs
from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.generation.decoding.trie_decoder import TrieDecoder
from recbole_macrec.generation.id_table import IDTable
from recbole_macrec.generation.network.layers import TransformerSettings
from recbole_macrec.generation.network.packing import pack
from recbole_macrec.generation.network.transformer import Transformer
from recbole_macrec.generation.vocabulary import Vocabulary

SIZES = (5, 4, 6)


def catalogue(items: int, seed: int) -> np.ndarray:
    """Distinct IDs [items, 3]."""
    every = np.stack(np.meshgrid(*map(np.arange, SIZES), indexing="ij"), -1).reshape(-1, len(SIZES))
    return np.random.default_rng(seed).permutation(every)[:items]


def network_and_ids(items: int = 37, seed: int = 0):
    """A random network, four encoded histories, and the IDs of a catalogue in the modality "a" of two."""
    torch.manual_seed(seed)
    vocabulary = Vocabulary({"a": SIZES, "b": (7, 7)}, ["sequence:a"], prompt_length=2)
    settings = TransformerSettings(d_model=16, d_ff=32, num_heads=2, d_kv=8, encoder_layers=1, decoder_layers=2)
    network = Transformer(len(vocabulary), settings).eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3 * torch.randn_like(p))
    tokens = torch.randint(1, len(vocabulary), (4, 9))
    with torch.no_grad():
        memory = network.encode(pack(tokens, torch.tensor([9, 3, 5, 1])))
    return vocabulary, network, memory, catalogue(items, seed)


def brute_force(vocabulary, network, memory, codes: np.ndarray) -> torch.Tensor:
    """Log-probability of every ID, one ID and level at a time; [users, items]."""
    columns = []
    for row in codes.tolist():
        tokens, total = [vocabulary.start["a"]], 0
        for level, code in enumerate(row):
            hidden = network.decode(torch.tensor(tokens).repeat(4, 1, 1), memory)[:, 0, -1]
            offset = vocabulary.offsets["a"][level]
            logits = network.logits(hidden)[:, offset : offset + SIZES[level]]
            total = total + logits[:, code] - logits.exp().sum(-1).log()
            tokens.append(offset + code)
        columns.append(total / len(row))
    return torch.stack(columns, dim=1)


def test_trie_of_the_docstring():
    trie = Trie(np.array([[3, 1], [0, 1], [0, 2]]), np.array([10, 11, 12]))
    assert trie.code(0).tolist() == [0, 3] and trie.code(1).tolist() == [1, 2, 1]
    assert trie.first_0.tolist() == [0, 2, 3] and trie.items.tolist() == [11, 12, 10]
    children, exists = trie.children_of(0, torch.tensor([0, 1]))
    assert children.tolist() == [[0, 1], [2, 2]] and exists.tolist() == [[True, True], [True, False]]
    assert trie.widths == [2, 2, 1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_trie_reaches_every_item(seed):
    codes = catalogue(60, seed)
    trie = Trie(codes, np.arange(1, 61))
    for item, row in enumerate(codes, start=1):
        children, exists = torch.arange(trie.widths[0]), torch.ones(trie.widths[0], dtype=torch.bool)
        for level, code in enumerate(row):
            nodes = children[exists]
            node = nodes[trie.code(level)[nodes] == code]
            assert len(node) == 1
            children, exists = (x[0] for x in trie.children_of(level, node))
        assert trie.items[children[exists]].tolist() == [item]
        assert trie.path(2, node).tolist() == [row.tolist()]


@pytest.mark.parametrize("seed", [0, 1])
@torch.no_grad()
def test_widest_beam_equals_brute_force(seed):
    vocabulary, network, memory, codes = network_and_ids(37, seed)
    expected = brute_force(vocabulary, network, memory, codes)
    ranking = beam_search(TrieDecoder(network, vocabulary, "a", Trie(codes, np.arange(1, 38))), memory, beams=37)
    scores, order = expected.sort(dim=1, descending=True)
    assert torch.equal(ranking.items, order + 1)
    torch.testing.assert_close(ranking.scores, scores, atol=1e-5, rtol=0)


@torch.no_grad()
def test_narrow_beam_scores_are_exact_and_in_the_catalogue():
    vocabulary, network, memory, codes = network_and_ids(37)
    expected = brute_force(vocabulary, network, memory, codes)
    ranking = beam_search(TrieDecoder(network, vocabulary, "a", Trie(codes, np.arange(1, 38))), memory, beams=6)
    assert ranking.items.shape == (4, 6) and (ranking.items > 0).all()
    assert all(len(set(row)) == 6 for row in ranking.items.tolist())
    torch.testing.assert_close(ranking.scores, expected.gather(1, ranking.items - 1), atol=1e-5, rtol=0)


@torch.no_grad()
def test_more_beams_than_items():
    vocabulary, network, memory, codes = network_and_ids(5)
    ranking = beam_search(TrieDecoder(network, vocabulary, "a", Trie(codes, np.arange(1, 6))), memory, beams=20)
    found = ranking.scores.isfinite()
    assert found.sum(1).tolist() == [5] * 4
    assert [sorted(row[keep].tolist()) for row, keep in zip(ranking.items, found)] == [[1, 2, 3, 4, 5]] * 4
    assert (ranking.items[~found] == 0).all()


@torch.no_grad()
def test_items_with_equal_ids_are_ranked_in_item_order():
    vocabulary, network, memory, codes = network_and_ids(10)
    twice = np.vstack([codes, codes[:4]])  # items 11 to 14 share the IDs of items 1 to 4
    ranking = beam_search(TrieDecoder(network, vocabulary, "a", Trie(twice, np.arange(1, 15))), memory, beams=14)
    for row in ranking.first(14).items.tolist():
        assert sorted(row) == list(range(1, 15))
        for item in range(1, 5):
            assert row.index(item + 10) == row.index(item) + 1


@torch.no_grad()
def test_all_items_of_the_ids_found_are_ranked():
    """So that metrics by ID count ``beams`` IDs, even if items share them."""
    vocabulary, network, memory, codes = network_and_ids(10)
    three_of_each = np.vstack([codes, codes, codes])  # items 1, 11 and 21 share an ID
    ranking = beam_search(TrieDecoder(network, vocabulary, "a", Trie(three_of_each, np.arange(1, 31))), memory, beams=4)
    assert ranking.items.shape == (4, 12) and (ranking.items > 0).all()
    distinct = beam_search(TrieDecoder(network, vocabulary, "a", Trie(codes, np.arange(1, 11))), memory, beams=4)
    assert torch.equal((ranking.items[:, ::3] - 1) % 10 + 1, distinct.items)


@torch.no_grad()
@pytest.mark.parametrize("beams", [37, 50])
def test_items_with_equally_probable_ids_are_ranked_in_item_order(beams):
    vocabulary, network, memory, codes = network_and_ids()
    network.decoder_norm.weight.zero_()  # all IDs have the same probability
    ranking = beam_search(TrieDecoder(network, vocabulary, "a", Trie(codes, np.arange(1, 38))), memory, beams)
    assert ranking.items[:, :37].tolist() == [list(range(1, 38))] * 4
    assert not ranking.items[:, 37:].any()


@torch.no_grad()
def test_items_with_equal_ids_divide_its_probability():
    """Items 11 to 14 share the IDs of items 1 to 4. Every search scores log P(ID) + log P(item | ID), over L."""
    vocabulary, network, memory, codes = network_and_ids(10)
    twice, counts = np.vstack([codes, codes[:4]]), np.array([3, 0, 1, 1, *[7] * 6, 1, 5, 1, 0])
    shares = torch.ones(14)
    shares[[0, 1, 2, 3]] = torch.tensor([4 / 6, 1 / 7, 1 / 2, 2 / 3])
    shares[[10, 11, 12, 13]] = torch.tensor([2 / 6, 6 / 7, 1 / 2, 1 / 3])
    expected = brute_force(vocabulary, network, memory, twice) + shares.log() / 3
    trie = IDTable(twice, twice, counts=counts).trie
    decoder = TrieDecoder(network, vocabulary, "a", trie)
    scores = exact_scores(decoder, memory, n_items=15)
    torch.testing.assert_close(scores[:, 1:], expected, atol=1e-5, rtol=0)
    items = torch.arange(1, 15).expand(4, -1)
    torch.testing.assert_close(candidate_scores(decoder, memory, items), expected, atol=1e-5, rtol=0)
    ranking = beam_search(decoder, memory, beams=14).first(14)
    assert torch.equal(ranking.items, ranking_of(scores).items)
    torch.testing.assert_close(ranking.scores, expected.gather(1, ranking.items - 1), atol=1e-5, rtol=0)
    of_ids = brute_force(vocabulary, network, memory, codes)
    torch.testing.assert_close((3 * scores).exp().sum(1), (3 * of_ids).exp().sum(1), atol=1e-6, rtol=0)


@torch.no_grad()
def test_sequence_log_probs_equal_brute_force():
    vocabulary, network, memory, codes = network_and_ids()
    every = torch.from_numpy(codes).expand(4, -1, -1)
    scores = sequence_log_probs(network, vocabulary, "a", memory, every)
    torch.testing.assert_close(scores, brute_force(vocabulary, network, memory, codes), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 7, 4096])
def test_exact_scores_equal_brute_force(rows):
    """For any number of users and prefixes at once. Items 38 to 41 share the IDs of items 1 to 4, item 42 has no ID."""
    vocabulary, network, memory, codes = network_and_ids(37)
    trie = Trie(np.vstack([codes, codes[:4]]), np.arange(1, 42))
    scores = exact_scores(TrieDecoder(network, vocabulary, "a", trie), memory, n_items=43, traversal_rows=rows)
    expected = brute_force(vocabulary, network, memory, codes)
    torch.testing.assert_close(scores[:, 1:38], expected, atol=1e-5, rtol=0)
    assert torch.equal(scores[:, 38:42], scores[:, 1:5])
    assert scores[:, [0, 42]].isneginf().all()


@torch.no_grad()
def test_every_prefix_is_decoded_once(monkeypatch):
    vocabulary, network, memory, codes = network_and_ids(37)
    decoded = []
    step = TrieDecoder.step

    def counted(self, level, nodes, *rest):
        decoded.append(nodes.numel())
        return step(self, level, nodes, *rest)

    monkeypatch.setattr(TrieDecoder, "step", counted)
    exact_scores(TrieDecoder(network, vocabulary, "a", Trie(codes, np.arange(1, 38))), memory, n_items=38, traversal_rows=10)
    inner = 1 + sum(len(np.unique(codes[:, :length], axis=0)) for length in (1, 2))
    assert sum(decoded) == memory.users * inner


def test_ranking_of_a_matrix():
    ranking = ranking_of(torch.tensor([[0.0, -2.0, -1.0, -2.0, -torch.inf]]))
    assert ranking.items.tolist() == [[2, 1, 3, 0]]
    assert ranking.scores.tolist() == [[-1.0, -2.0, -2.0, -torch.inf]]


def test_official_fusion_by_hand():
    first = Ranking(torch.tensor([[3, 1, 2]]), torch.tensor([[-0.1, -0.5, -0.9]]))
    second = Ranking(torch.tensor([[2, 4, 0]]), torch.tensor([[-0.3, -0.4, -torch.inf]]))
    fused = fuse_official([first, second], n_items=5)
    assert fused.items.tolist() == [[2, 3, 4, 1, 0, 0]]  # 2 is in both: 1 + (-0.9 - 0.3) / 2 = 0.4
    torch.testing.assert_close(fused.scores[0, :4], torch.tensor([0.4, -0.1, -0.4, -0.5]))
    assert not fused.scores[0, 4:].isfinite().any()


def test_sorted_score_matrix_equals_the_ranking():
    ranking = Ranking(torch.tensor([[4, 2, 5, 0]]), torch.tensor([[-0.5, -0.5, -0.7, -torch.inf]]))
    scores = score_matrix(ranking, n_items=7)
    assert scores.isfinite().all() and scores.is_contiguous()
    assert scores[0].argsort(descending=True).tolist() == [4, 2, 5, 1, 3, 6, 0]
    assert len(scores.unique()) == 7  # no ties: nothing is left to luck
    assert scores[0, 1] <= BELOW_ALL_RANKED and scores[0, 5].item() == pytest.approx(-0.7, abs=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_beam_search_with_excluded_items(seed):
    """With enough beams the other items have their exact ranking; with few beams no excluded item is found."""
    vocabulary, network, memory, codes = network_and_ids(seed=seed)
    trie, items = Trie(codes, np.arange(1, 38)), 38
    rng = np.random.default_rng(seed)
    without = torch.stack([torch.from_numpy(rng.permutation(37)[:20] + 1) for _ in range(4)])
    without[2, 4:] = 0
    with torch.no_grad():
        wide = beam_search(TrieDecoder(network, vocabulary, "a", trie), memory, 37, without)
        narrow = beam_search(TrieDecoder(network, vocabulary, "a", trie), memory, 10, without)
        scores = exact_scores(TrieDecoder(network, vocabulary, "a", trie), memory, items).scatter(1, without, -torch.inf)
    exact = ranking_of(scores)
    assert torch.equal(wide.items, exact.items)
    torch.testing.assert_close(wide.scores, exact.scores, atol=1e-5, rtol=0)
    assert (narrow.items > 0).all()
    assert not (narrow.items.unsqueeze(2) == without.unsqueeze(1)).any()


@pytest.mark.parametrize("items", [37, 120])
def test_scores_of_candidates_equal_teacher_forcing(items):
    vocabulary, network, memory, codes = network_and_ids(items)
    decoder = TrieDecoder(network, vocabulary, "a", Trie(codes, np.arange(1, items + 1)))
    rng = np.random.default_rng(1)
    candidates = torch.from_numpy(np.stack([rng.permutation(items)[:9] + 1 for _ in range(4)]))
    candidates[1, 4:] = 0
    candidates[2] = 0
    scores = candidate_scores(decoder, memory, candidates)
    rows = torch.from_numpy(codes)[candidates.clamp(min=1) - 1].long()
    expected = sequence_log_probs(network, vocabulary, "a", memory, rows)
    assert torch.allclose(scores[candidates > 0], expected[candidates > 0], atol=1e-5)
    assert scores[candidates == 0].isneginf().all()
