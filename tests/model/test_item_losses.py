"""The losses on single items, item tasks and implicit alignment, against their formulas."""
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY
from helpers import write_features
from small_models import data_path, prepare  # noqa: F401  data_path is a fixture

from recbole_macrec.generation.decoding.teacher_forcing import sequence_log_probs
from recbole_macrec.model.tasks import SourceTasks


@pytest.mark.parametrize("modalities", [["text", "image"], ["text", "image", "audio"]])
def test_implicit_alignment_equals_the_formula(modalities, data_path):
    """InfoNCE between the states of an item in each two modalities, in both directions, with all items as negatives."""
    write_features(data_path / TINY, "audio")
    options = {"dropout_prob": 0.0, "item_task_ratio": 0, "lambda_implicit": 0.3, "implicit_temperature": 0.2}
    _, model, _, _ = prepare("MACRec", data_path, modalities=modalities, **options)
    items, expected = torch.arange(1, 9), 0.0
    states = [model.passes.item_loss([SourceTasks(m, [])], items)[1][0] for m in model.modalities]
    for anchors, others in permutations(states, 2):
        for i, anchor in enumerate(anchors):
            cosines = torch.stack([F.cosine_similarity(anchor, other, dim=0) for other in others])
            expected -= float((cosines / 0.2).log_softmax(0)[i]) / len(items)
    assert float(model.item_loss(items, samples=50)) == pytest.approx(0.3 * expected, rel=1e-4)


@pytest.mark.parametrize("name, options", [("MQL4GRec", {}), ("MACRec", {"lambda_implicit": 0})])
def test_loss_and_number_of_the_item_tasks(name, options, data_path):
    _, model, _, _ = prepare(name, data_path, dropout_prob=0.0, item_task_ratio=0.1, **options)
    items, expected = torch.arange(1, 9), 0.0
    for source, target in (("text", "image"), ("image", "text")):
        front = model.inputs.leading_tokens("item", source, [target], items.device)
        own = model.inputs.tokens(source, items)
        rows = torch.cat([front.expand(len(items), -1), own], dim=1)
        memory = model.network.read(rows, torch.full((len(items),), rows.shape[1]), 0, len(front), own.shape[1])
        codes = model.tables[target].codes[items].unsqueeze(1)
        expected -= float(sequence_log_probs(model.network, model.vocabulary, target, memory, codes).sum())
    assert float(model.item_loss(items, samples=50)) == pytest.approx(expected / 50, rel=1e-4)
    drawn = model._alignment_items(torch.arange(1, 31).repeat(4))
    assert len(drawn) == len(set(drawn.tolist())) == 12  # 0.1 * 120 targets
