"""One pass per user: every target once, the same states as for single targets, and no information from later items."""
import numpy as np
import pytest
import torch

from recbole_macrec.generation.decoding.causal_decoder import CausalTrieDecoder
from recbole_macrec.generation.decoding.exact import exact_scores
from recbole_macrec.generation.decoding.search import beam_search
from recbole_macrec.generation.decoding.teacher_forcing import sequence_log_probs
from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.generation.decoding.trie_decoder import TrieDecoder
from recbole_macrec.generation.network.decoder_only import DecoderOnly
from recbole_macrec.generation.network.layers import TransformerSettings
from recbole_macrec.generation.network.transformer import Transformer
from recbole_macrec.generation.network.windows import Target, Windows, window_layout, without_random_items
from recbole_macrec.generation.vocabulary import Vocabulary
from recbole_macrec.trainer.windows import cuts, windows_of

SIZES = TransformerSettings(d_model=24, d_ff=32, num_heads=2, d_kv=8, encoder_layers=2, decoder_layers=2, dropout=0.0)
VOCABULARY = Vocabulary({"a": [5, 6, 7], "b": [4, 4]})
FRONT = torch.tensor([VOCABULARY.start["a"]])
NETWORKS = {
    "decoder_only": lambda: DecoderOnly(len(VOCABULARY), SIZES),
    "encoder_decoder": lambda: Transformer(len(VOCABULARY), SIZES, causal=True),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    instance = NETWORKS[request.param]()
    for parameter in instance.parameters():  # sharp enough for differences to show
        torch.nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else None
    return instance


def tokens_of(modality: str, *shape: int) -> torch.Tensor:
    sizes, offsets = VOCABULARY.sizes[modality], VOCABULARY.offsets[modality]
    return torch.stack([o + torch.randint(k, shape) for k, o in zip(sizes, offsets)], dim=-1)


def batch() -> tuple[Windows, torch.Tensor, list[Target]]:
    """Windows of 3, 5 and 5 items, of which the last overlaps with an earlier one, and their IDs in both modalities."""
    torch.manual_seed(1)
    windows = Windows(torch.ones(3, 5, dtype=torch.long), torch.tensor([3, 5, 5]), torch.tensor([1, 1, 3]))
    source = tokens_of("a", 3, 5)
    return (
        windows,
        source,
        [Target(source, VOCABULARY.start["a"], True), Target(tokens_of("b", 3, 5), VOCABULARY.start["b"], False)],
    )


@pytest.mark.parametrize("overhead", [0, 1000])
@pytest.mark.parametrize("predicted", ["both", "own", "other"])
def test_states_of_a_window_equal_those_of_single_targets(network, predicted, overhead):
    """Also for targets in another modality than the history: all equal teacher forcing from the history."""
    windows, source, targets = batch()
    targets = {"both": targets, "own": targets[:1], "other": targets[1:]}[predicted]
    states = network.window_states(FRONT, source, windows, targets, overhead)
    for i, (user, place) in enumerate(zip(*windows.targets())):
        history = torch.cat([FRONT, source[user, :place].flatten()]).unsqueeze(0)
        memory = network.read(history, torch.tensor([history.shape[1]]), 0, 1, 3)
        for target, hidden in zip(targets, states):
            sequence = torch.cat([torch.tensor([target.start]), target.tokens[user, place, :-1]])
            torch.testing.assert_close(hidden[i], network.decode(sequence[None, None], memory)[0, 0], atol=1e-5, rtol=1e-5)


def test_rounded_rows_do_not_change_the_states(network):
    windows, source, targets = batch()
    of_items = [targets[1]._replace(tokens=targets[1].tokens[:, 0])]

    def states():
        own, mean = network.item_states(FRONT, source[:, 0], of_items)
        return [*network.window_states(FRONT, source, windows, targets), *own, mean]

    with torch.autocast("cpu", torch.bfloat16):
        rounded = states()
        with torch.no_grad():  # in which rows are not rounded
            exact = states()
    for found, expected in zip(rounded, exact, strict=True):
        torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)


def test_states_do_not_depend_on_later_items(network):
    windows, source, targets = batch()
    before = network.window_states(FRONT, source, windows, targets)
    changed = source.clone()
    changed[:, 2] = tokens_of("a", 3)
    targets[0] = targets[0]._replace(tokens=changed)
    after = network.window_states(FRONT, changed, windows, targets)
    place = windows.targets()[1]
    for old, new in zip(before, after):
        change = (old - new).abs().amax((1, 2))
        assert (change[place < 2] < 1e-6).all() and (change[place > 2] > 1e-4).all()
    first_code = (before[0] - after[0])[place == 2][:, 0]  # the item itself is predicted before it is read
    assert first_code.abs().max() < 1e-6


def test_item_states_follow_the_prompt(network):
    windows, source, targets = batch()
    items = source[:, 0]
    states, mean = network.item_states(FRONT, items, [targets[1]._replace(tokens=targets[1].tokens[:, 0])])
    memory = network.read(torch.cat([FRONT.expand(3, -1), items], dim=1), torch.tensor([4, 4, 4]), 0, 1, 3)
    sequence = torch.cat([torch.full((3, 1), targets[1].start), targets[1].tokens[:, 0, :-1]], dim=1)
    torch.testing.assert_close(states[0], network.decode(sequence.unsqueeze(1), memory)[:, 0], atol=1e-5, rtol=1e-5)
    assert mean.shape == (3, SIZES.d_model) and mean.std(0).min() > 0


def test_a_bidirectional_encoder_allows_one_target_per_window():
    windows, source, targets = batch()
    with pytest.raises(ValueError, match="bidirectional"):
        Transformer(len(VOCABULARY), SIZES).window_states(FRONT, source, windows, targets)


def test_layout_of_the_example():
    plan = window_layout(1, 3, 2, 1, ((2, True), (2, False)))
    # front, source (3 x 2), other modality (3 x 2): start, a1 a2, fork(b1), b1 b2, fork(c1), c1
    assert plan.column.tolist() == [0, 1, 2, 9, 3, 4, 11, 5]
    assert plan.position.tolist() == [0, 1, 2, 3, 3, 4, 5, 5]
    assert plan.length.tolist() == [0, 1, 5, 8]
    assert plan.states[0].tolist() == [[0, 0], [2, 4], [5, 7]] and plan.states[1].tolist() == [[0, 0], [2, 3], [5, 6]]
    sees = plan.mask[0] == 0
    assert sees[3].tolist() == [True, True, True, True, False, False, False, False]  # the first fork: history and itself
    assert sees[5].tolist() == [True, True, True, False, True, True, False, False]  # no later code sees a fork


# -- search ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["trie", "level"])
def test_search_equals_scoring_every_item(network, output):
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(0, [5, 6, 7], (60, 3)), axis=0)[:40]
    trie = Trie(codes, np.arange(1, len(codes) + 1))
    trained = trie if output == "trie" else None
    causal = isinstance(network, DecoderOnly)
    decoder = (CausalTrieDecoder if causal else TrieDecoder)(network, VOCABULARY, "a", trie, softmax_trie=trained)
    torch.manual_seed(2)
    history = torch.cat([FRONT.expand(4, -1), tokens_of("a", 4, 5).flatten(1)], dim=1)
    with torch.no_grad():
        memory = network.read(history, torch.tensor([16, 13, 10, 4]), 1000, 1, 3)
        every = torch.from_numpy(codes).expand(4, -1, -1)
        expected = sequence_log_probs(network, VOCABULARY, "a", memory, every, softmax_trie=trained)
        scores = exact_scores(decoder, memory, len(codes) + 1, traversal_rows=7)[:, 1:]
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
        ranking = beam_search(decoder, memory, beams=len(codes))
    torch.testing.assert_close(ranking.scores, expected.sort(1, descending=True).values, atol=1e-5, rtol=1e-5)
    total = (expected * 3).exp().sum(1)
    assert torch.allclose(total, torch.ones(4), atol=1e-5) if output == "trie" else (total < 1).all()


def test_restricted_search_keeps_the_probabilities(network):
    """The softmax is over the children in the trie of trained items, for any subset of items that is searched."""
    codes = np.unique(np.random.default_rng(0).integers(0, [5, 6, 7], (60, 3)), axis=0)[:40]
    trained, some = Trie(codes, np.arange(1, 41)), np.arange(0, 40, 3)
    kind = CausalTrieDecoder if isinstance(network, DecoderOnly) else TrieDecoder
    history = torch.cat([FRONT.expand(2, -1), tokens_of("a", 2, 3).flatten(1)], dim=1)
    with torch.no_grad():
        memory = network.read(history, torch.tensor([10, 10]), 0, 1, 3)
        of_all = exact_scores(kind(network, VOCABULARY, "a", trained, softmax_trie=trained), memory, 41)
        of_some = exact_scores(kind(network, VOCABULARY, "a", Trie(codes[some], some + 1), softmax_trie=trained), memory, 41)
    torch.testing.assert_close(of_some[:, some + 1], of_all[:, some + 1], atol=1e-5, rtol=1e-5)


# -- windows -----------------------------------------------------------------------------------------------------------


def test_windows_overlap_by_half_and_contain_each_target_once():
    assert cuts(7, 1, 4) == [(0, 5, 1), (2, 7, 3)]
    for items in range(2, 60):
        for known in (1, min(3, items - 1)):
            windows = cuts(items, known, 6)
            targets = [start + i for start, stop, first in windows for i in range(first, stop - start)]
            assert targets == list(range(known, items))
            assert all(stop - start <= 7 for start, stop, _ in windows) and all(first > 3 for _, _, first in windows[1:])


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5, 6, 7], [0, 6, 1, 2, 7, 3, 4, 5]], ids=["by user", "by time"])
def test_samples_of_a_user_are_merged_into_windows(order):
    """Samples of RecBole of two users with at most 4 items of history. The first one of user 2 would continue the last one of
    user 5, and the second one does not continue the first."""
    histories = np.array([[1, 0, 0, 0], [1, 2, 0, 0], [1, 2, 3, 0], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6],
                          [4, 5, 6, 7], [9, 8, 0, 0]])  # fmt: skip
    lengths, targets = np.array([1, 2, 3, 4, 4, 4, 4, 2]), np.array([2, 3, 4, 5, 6, 7, 8, 5])
    users = np.array([5, 5, 5, 5, 5, 5, 2, 2])
    samples = (column[order] for column in (users, histories, lengths, targets))
    windows = [(w.user, w.items.tolist(), w.first) for w in windows_of(*samples)]
    assert windows == [(5, [1, 2, 3, 4, 5], 1), (5, [3, 4, 5, 6, 7], 3), (2, [4, 5, 6, 7, 8], 4), (2, [9, 8, 5], 2)]


def test_items_left_out_at_random():
    """Of 7 items of which the last 3 are targets, one item in three is left out; order and kind of the others stay."""
    torch.manual_seed(0)
    users = 2000
    items, length = torch.arange(1, 8).repeat(users, 1), torch.full((users,), 7)
    thinned = without_random_items(Windows(items, length, torch.full((users,), 4)), 1 / 3)
    for row, size, first in zip(thinned.items.tolist(), thinned.length.tolist(), thinned.first.tolist()):
        kept, padding = row[:size], row[size:]
        assert kept == sorted(set(kept)) and kept[-1] == 7 and size >= 2 and not any(padding)
        assert first == max(1, sum(item < 5 for item in kept))
    assert thinned.items.shape[1] == int(thinned.length.max())
    shares = torch.stack([(thinned.items == item).float().sum() / users for item in range(1, 7)])
    torch.testing.assert_close(shares, torch.full((6,), 2 / 3), atol=0.05, rtol=0)


def test_two_items_remain_whatever_the_probability():
    windows = Windows(torch.tensor([[3, 4, 5], [6, 7, 0]]).repeat(50, 1), torch.tensor([3, 2] * 50), torch.tensor([1, 1] * 50))
    thinned = without_random_items(windows, 0.99)
    assert thinned.length.min() == 2 and (thinned.length == 2).sum() > 90 and (thinned.first == 1).all()
    assert thinned.items[1::2, :2].tolist() == [[6, 7]] * 50
    assert {tuple(row) for row in thinned.items[::2, :2].tolist()} >= {(4, 5)}


@torch.no_grad()
def test_mean_state_of_an_item(network):
    """The mean of the encoder's states of its codes; of a decoder-only network, of the states after each code."""
    _, source, targets = batch()
    items, rows = source[:, 0], []
    _, mean = network.item_states(FRONT, items, [targets[1]._replace(tokens=targets[1].tokens[:, 0])])

    def read(item):
        tokens = torch.cat([FRONT, item]).unsqueeze(0)
        return network.read(tokens, torch.tensor([tokens.shape[1]]), 0, 1, 3)

    for item in items:
        if isinstance(network, DecoderOnly):
            ends = [read(item[:n]) for n in range(1, len(item) + 1)]
            states = torch.stack([network.decode(torch.zeros(1, 1, 1, dtype=torch.long), end)[0, 0, 0] for end in ends])
        else:
            states = read(item).hidden[1:]
        rows.append(states.mean(0))
    torch.testing.assert_close(mean, torch.stack(rows), atol=1e-5, rtol=1e-5)
