"""Certified ranking against a full traversal of the trie on small catalogues."""
import numpy as np
import pytest
import torch
from test_search import brute_force, catalogue, network_and_ids

from recbole_macrec.generation.decoding.certified import certified_rankings
from recbole_macrec.generation.decoding.certified_search import CertifiedSearch
from recbole_macrec.generation.decoding.eligible import Eligible
from recbole_macrec.generation.decoding.exact import exact_rankings, exact_scores, ranking_of
from recbole_macrec.generation.decoding.fusion import fuse_scores
from recbole_macrec.generation.decoding.prior import log_shares_of_ids
from recbole_macrec.generation.decoding.search import Ranking, first_best
from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.generation.decoding.trie_decoder import TrieDecoder

ITEMS = 60
UNLIMITED = 10**6
NETWORKS = {"random": 1.0, "peaked": 6.0, "uniform": 0.0}  # factor of the logits


def decoders_of(network: str, seed: int = 0):
    """Decoders of two modalities with 60 items. In "a" 8 items share an ID with another item; "b" has 49 IDs, whose items
    divide the probability."""
    vocabulary, transformer, memory, _ = network_and_ids(seed=seed)
    transformer.decoder_norm.weight.data *= NETWORKS[network]
    codes = catalogue(ITEMS - 8, seed)
    rng = np.random.default_rng(seed)
    codes = {"a": rng.permutation(np.vstack([codes, codes[:8]])), "b": rng.integers(0, 7, (ITEMS, 2))}
    items, shares = np.arange(1, ITEMS + 1), log_shares_of_ids(codes["b"], rng.integers(0, 9, ITEMS))
    tries = {"a": Trie(codes["a"], items), "b": Trie(codes["b"], items, log_shares=shares)}
    decoders = {m: TrieDecoder(transformer, vocabulary, m, trie) for m, trie in tries.items()}
    return vocabulary, transformer, codes, decoders, dict.fromkeys(decoders, memory)


def assert_same(found: Ranking, expected: Ranking) -> None:
    assert torch.equal(found.items, expected.items)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)


def first(ranking: Ranking, k: int, raw_ids: torch.Tensor | None = None) -> Ranking:
    return first_best(ranking, torch.full((len(ranking.items),), k), raw_ids)[0]


@torch.no_grad()
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("k", [1, 5, 59, 80])
def test_first_k_items_equal_brute_force(network, k):
    """If all IDs have the same probability, the first k items are in item order: no item with an equal score is missing."""
    vocabulary, transformer, codes, decoders, memories = decoders_of(network)
    expected = brute_force(vocabulary, transformer, memories["a"], codes["a"])
    if network == "uniform":
        expected = expected.round(decimals=4)
    ranking, last = CertifiedSearch(decoders["a"], memories["a"], None, UNLIMITED).top(k)
    assert_same(ranking, first(ranking_of(torch.cat([expected[:, :1] - torch.inf, expected], dim=1)), k))
    assert torch.equal(last, ranking.scores[:, -1] if k <= ITEMS else torch.full((4,), -torch.inf))


@torch.no_grad()
def test_few_prefixes_of_a_confident_network_are_decoded_and_none_twice(monkeypatch):
    _, _, codes, decoders, memories = decoders_of("peaked")
    decoded = []
    step = TrieDecoder.step

    def counted(self, level, nodes, *rest):
        decoded.append(len(nodes))
        return step(self, level, nodes, *rest)

    monkeypatch.setattr(TrieDecoder, "step", counted)
    search = CertifiedSearch(decoders["a"], memories["a"], None, UNLIMITED, resumable=True)
    search.top(2)
    inner = 1 + sum(len(np.unique(codes["a"][:, :length], axis=0)) for length in (1, 2))
    few = sum(decoded)
    assert few == search.expanded.sum() and few < 0.6 * 4 * inner
    search.top(ITEMS)
    search.scores(torch.arange(1, ITEMS + 1).expand(4, -1))
    assert sum(decoded) == search.expanded.sum() == 4 * inner


@torch.no_grad()
@pytest.mark.parametrize("network", NETWORKS)
def test_search_can_be_continued_and_scores_any_item(network):
    _, _, _, decoders, memories = decoders_of(network)
    scores = exact_scores(decoders["a"], memories["a"], ITEMS + 1)
    search = CertifiedSearch(decoders["a"], memories["a"], None, UNLIMITED, resumable=True)
    items = torch.tensor([[3, 60, 0], [7, 0, 0], [1, 2, 3], [60, 59, 58]])
    expected = scores.gather(1, items).masked_fill(items == 0, -torch.inf)
    for k in (3, torch.tensor([3, 20, 40, 3])):
        ranking, _ = search.top(k)
        expected_ranking, _ = first_best(ranking_of(scores), torch.as_tensor(k).expand(4))
        assert_same(ranking, expected_ranking)
        torch.testing.assert_close(search.scores(items), expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("limit, by_id", [(1, False), (14, True), (UNLIMITED, False), (UNLIMITED, True)])
@pytest.mark.parametrize("rule", ["official", "mean", "lse"])
@pytest.mark.parametrize("network", NETWORKS)
def test_rankings_equal_those_of_a_full_traversal(network, rule, limit, by_id):
    """With one and two modalities, users who need a full traversal, excluded items, and one item per ID."""
    _, _, _, decoders, memories = decoders_of(network, seed=1)
    rng = np.random.default_rng(1)
    excluded = torch.from_numpy(np.stack([rng.permutation(ITEMS) + 1 for _ in range(4)]))
    for user, n in enumerate((0, 20, 55, 60)):
        excluded[user, n:] = 0
    raw_ids = {m: torch.from_numpy(np.append(-1, rng.integers(0, 30, ITEMS))) for m in decoders} if by_id else None
    tries = {m: decoder.trie for m, decoder in decoders.items()}
    for names in (["a"], ["a", "b"]):
        parts = [{m: x[m] for m in names} for x in (decoders, memories)]
        for without in (None, excluded):
            eligible = Eligible(tries, beams=12, excluded=without, top=7, raw_ids=raw_ids)
            expected = exact_rankings(*parts, eligible, ITEMS + 1, rule, traversal_rows=64)
            found = certified_rankings(*parts, eligible, ITEMS + 1, rule, limit, traversal_rows=64)
            assert set(found) == {*names, "fused"}
            for name, ranking in found.items():
                if not (name == "fused" and rule == "official" and len(names) > 1):
                    expected[name] = first(expected[name], 7, eligible.raw_ids_of(name))
                width = max(x.items.shape[1] for x in (ranking, expected[name]))
                assert_same(ranking.widened(width), expected[name].widened(width))


@torch.no_grad()
def test_only_users_over_the_limit_get_a_full_traversal(monkeypatch):
    _, _, _, decoders, memories = decoders_of("peaked")
    one = [{"a": x["a"]} for x in (decoders, memories)]
    excluded = torch.zeros(4, ITEMS, dtype=torch.long)
    excluded[1] = torch.arange(1, ITEMS + 1).masked_fill(torch.arange(ITEMS) == 8, 0)  # user 1 may get item 9 only
    eligible = Eligible({"a": decoders["a"].trie}, beams=3, excluded=excluded, top=3)
    search = CertifiedSearch(decoders["a"], memories["a"], excluded, UNLIMITED)
    search.top(3)
    assert search.expanded.min() == search.expanded[1] == 3 and (search.expanded[[0, 2, 3]] > 3).all()
    traversed = []
    monkeypatch.setattr("recbole_macrec.generation.decoding.exact.exact_scores",
                        lambda *args: traversed.append(args[-1]) or exact_scores(*args))
    found = certified_rankings(*one, eligible, ITEMS + 1, "mean", max_prefixes=3, traversal_rows=64)["fused"]
    assert traversed == [[0, 2, 3]]
    expected = exact_rankings(*one, eligible, ITEMS + 1, "mean", traversal_rows=64)["fused"]
    assert_same(found, first(expected, 3))


def test_first_best_by_hand():
    ranking = Ranking(torch.tensor([[4, 2, 5, 1, 3], [1, 2, 0, 0, 0]]),
                      torch.tensor([[-1.0, -2.0, -3.0, -4.0, -5.0], [-1.0, -2.0, -torch.inf, -torch.inf, -torch.inf]]))
    cut, last = first_best(ranking, torch.tensor([2, 3]))
    assert cut.items.tolist() == [[4, 2], [1, 2]] and last.tolist() == [-2.0, -torch.inf]
    raw_ids = torch.tensor([-1, 8, 7, 9, 7, 7])  # items 4, 2 and 5 count once
    cut, last = first_best(ranking, torch.tensor([2, 1]), raw_ids)
    assert cut.items.tolist() == [[4, 2, 5, 1], [1, 0, 0, 0]] and last.tolist() == [-4.0, -1.0]
    cut, last = first_best(ranking, torch.tensor([1, 1]), raw_ids)  # without items 2 and 5, which do not count
    assert cut.items.tolist() == [[4], [1]] and last.tolist() == [-1.0, -1.0]


def test_fused_scores_by_hand():
    scores = [torch.tensor([-1.0, -torch.inf]), torch.tensor([-2.0, -1.0])]  # of IDs of 2 and 4 codes
    assert fuse_scores("mean", scores, [2, 4]).tolist() == [-1.5, -torch.inf]
    expected = torch.tensor([(np.exp(-2) + np.exp(-8)) / 2, np.exp(-4) / 2]).log() / 3
    torch.testing.assert_close(fuse_scores("lse", scores, [2, 4]), expected.float())
    assert fuse_scores("lse", scores[:1], [2]) is scores[0]
