"""``history: both``: every item of a history is written in all modalities."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import batch_of, data_path, prepare  # noqa: F401  data_path is a fixture

from recbole_macrec import Recommender, UserError
from recbole_macrec.generation.network.windows import Histories, Target, Windows
from recbole_macrec.model.interleaved import block_windows, check_levels, interleaved_tokens, random_orders

BOTH = {"history": "both", "network": "decoder_only", "training": "per_user", "output": "trie", "d_kv": 16}


def test_blocks_of_the_docstring():
    text, image = torch.tensor([[[1, 2], [3, 4]]]), torch.tensor([[[5, 6], [7, 8]]])
    order = torch.tensor([[[0, 1], [1, 0]]])
    assert interleaved_tokens([text, image], order).tolist() == [[[1, 2], [5, 6], [7, 8], [3, 4]]]
    windows = Windows(torch.tensor([[11, 12, 13]]), torch.tensor([3]), torch.tensor([1]))
    blocks = block_windows(windows, 2)
    assert blocks.items.tolist() == [[11, 11, 12, 12, 13, 13]] and blocks.target_items().tolist() == [12, 12, 13, 13]


def test_every_item_has_a_random_order_of_modalities():
    torch.manual_seed(0)
    orders = random_orders(torch.zeros(50, 8, dtype=torch.long), 3)
    assert (orders.sort(-1).values == torch.arange(3)).all()
    assert 0.25 < (orders[..., 0] == 1).float().mean() < 0.42


def sequence_loss(model, items: list[int], orders: list[list[int]], first: int) -> float:
    """The loss of one window, with a separate forward pass for every code."""
    tokens, weighted = [model.vocabulary.start[model.modalities[0]]], 0.0
    for place, (item, order) in enumerate(zip(items, orders)):
        for block, number in enumerate(order):
            m = model.modalities[number]
            table, sizes, offsets = model.tables[m], model.vocabulary.sizes[m], model.vocabulary.offsets[m]
            codes = table.codes[item].tolist()
            for level, code in enumerate(codes):
                if place >= first:
                    memory = model.network.read(torch.tensor([tokens]), torch.tensor([len(tokens)]))
                    hidden = model.network.decode(torch.zeros(1, 1, 1, dtype=torch.long), memory)[0, 0, 0]
                    logits = model.network.logits(hidden, offsets[level], sizes[level])[None]
                    possible = {row[level] for row in table.codes[1:].tolist() if row[:level] == codes[:level]}
                    keep = torch.tensor(sorted(possible))
                    log_prob = F.log_softmax(logits[0, keep], -1)[keep.tolist().index(code)]
                    weighted -= (1.0 if block == 0 else model.passes.second_block_weight) * float(log_prob) / len(codes)
                tokens.append(offsets[level] + code)
    return weighted


def test_loss_equals_prediction_code_by_code(data_path):
    _, model, _, _ = prepare("MQL4GRec", data_path, **BOTH, second_block_weight=0.3)
    model.eval()
    items, orders = [[3, 9, 4, 0], [7, 2, 5, 1]], [[[0, 1], [1, 0], [1, 0], [0, 1]], [[1, 0], [0, 1], [1, 0], [0, 1]]]
    windows = Windows(torch.tensor(items), torch.tensor([3, 4]), torch.tensor([1, 2]))
    with torch.no_grad():
        loss = float(model.passes.interleaved_loss(windows, torch.tensor(orders), model.modalities))
        expected = sequence_loss(model, items[0][:3], orders[0], 1) + sequence_loss(model, items[1], orders[1], 2)
    assert loss == pytest.approx(expected, rel=1e-4)


def test_the_loss_is_a_weighted_mean_over_the_blocks_of_all_targets(data_path, monkeypatch):
    """Blocks with a loss of 1 each, times their weights, have the mean 1."""
    _, model, _, (train, _, _) = prepare("MQL4GRec", data_path, **BOTH, second_block_weight=0.3, item_task_ratio=0)
    monkeypatch.setattr(model.passes, "interleaved_loss", lambda windows, *_: windows.n_targets() * (1 + 0.3))
    assert sum(part() for part in model.loss_parts(batch_of(train))) == pytest.approx(1)


def test_later_items_do_not_change_the_states_of_earlier_targets(data_path):
    _, model, _, _ = prepare("MQL4GRec", data_path, **BOTH)
    model.eval()
    order = random_orders(torch.zeros(1, 4, dtype=torch.long), 2)

    def states(last):
        windows = Windows(torch.tensor([[3, 9, 4, last]]), torch.tensor([4]), torch.tensor([1]))
        tokens = interleaved_tokens([model.inputs.tokens(m, windows.items) for m in model.modalities], order)
        front = model.inputs.leading_tokens("sequence", model.modalities[0], model.modalities[:1], torch.device("cpu"))
        return model.network.window_states(front, tokens, block_windows(windows, 2), [Target(tokens, 0, own=True)])[0][:4]

    with torch.no_grad():
        assert torch.allclose(states(5), states(8), atol=1e-6)


@pytest.mark.parametrize("name", ["MQL4GRec", "MACRec"])
def test_model_with_history_both_learns_ranks_and_loads(name, data_path, tmp_path):
    _, model, trainer, (train, _, _) = prepare(
        name, data_path, **BOTH, decode="exact", fusion="lse", epochs=6, item_task_ratio=0
    )
    loader = trainer.training_loader(train)
    losses = [trainer.train_steps(loader) for _ in range(6)]
    assert losses[-1] < 0.95 * losses[0]
    model.eval()
    histories = {"u": ["i4", "i5", "i6"], "v": ["i9"]}
    recommender = Recommender(model)
    exact = recommender.recommend(histories, k=10)
    certified = Recommender(model.with_ranking(decode="certified", top=10)).recommend(histories, k=10)
    assert exact["item"].tolist() == certified["item"].tolist()
    np.testing.assert_allclose(exact["score"], certified["score"], atol=1e-5)
    recommender.save_pretrained(tmp_path / "folder")
    assert Recommender.from_pretrained(tmp_path / "folder").recommend(histories, k=10).equals(exact)


def test_all_modalities_share_one_memory(data_path):
    _, model, _, _ = prepare("MQL4GRec", data_path, **BOTH)
    memories = model.encode_histories(Histories(torch.tensor([[3, 4]]), torch.tensor([2])))
    assert memories["text"] is memories["image"]


@pytest.mark.parametrize("options, message", [
    ({"network": "encoder_decoder"}, "history is both and network is encoder_decoder"),
    ({"history": "all"}, "history is 'all'"),
])  # fmt: skip
def test_invalid_settings_are_user_errors(options, message, data_path):
    with pytest.raises(UserError, match=message):
        prepare("MQL4GRec", data_path, **{**BOTH, **options})


def test_history_both_needs_modalities_with_equally_many_codes():
    check_levels({"text": (8, 8), "image": (4, 4)})
    for sizes in ({"text": (8, 8)}, {"text": (8, 8), "image": (8, 8, 2)}):
        with pytest.raises(UserError, match="the same number of codes, but the modalities have"):
            check_levels(sizes)
