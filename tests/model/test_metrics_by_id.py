"""Metrics by ID, in which any item with the semantic ID of the target is a hit, against a simple count."""
import numpy as np
import pytest
import torch
from small_models import batch_of, data_path, prepare  # noqa: F401  data_path is a fixture

from recbole_macrec.generation.decoding.search import Ranking
from recbole_macrec.trainer.ranking_metrics import id_rank


def test_rank_by_id_by_hand():
    """Items 2, 4 and 5 share an ID, and item 3 is not ranked."""
    ranking = Ranking(torch.tensor([[4, 2, 5, 1, 3]]), torch.tensor([[-1.0, -2.0, -3.0, -4.0, -torch.inf]]))
    raw_id = torch.tensor([-1, 8, 7, 9, 7, 7])
    assert [id_rank(ranking, torch.tensor([item]), raw_id).item() for item in range(1, 6)] == [2, 1, 0, 1, 1]


@pytest.mark.parametrize("collision", ["reassign", "keep"])
def test_metrics_by_id_equal_a_simple_count(collision, data_path):
    options = {"decode": "exact", "fusion": "mean", "collision": collision}
    config, model, trainer, (train, _, test) = prepare("MACRec", data_path, **options)
    trainer.train_steps(train)
    trainer.evaluate(test, load_best_model=False)
    users, differs = batch_of(test), False
    for name, ranking in model.rank(users).items():
        modality = model.modalities[0] if name == "fused" else name
        id_of_item = [None, *map(tuple, model.semantic_ids.raw_codes[modality].tolist())]
        ranks = []
        for items, target in zip(ranking.items.tolist(), users["item_id"].tolist()):
            ids = list(dict.fromkeys(id_of_item[item] for item in items if item))
            ranks.append(ids.index(id_of_item[target]) + 1)
            differs |= ranks[-1] != items.index(target) + 1
        for k in config["topk"]:
            detail = trainer.test_detail[name]["id"]
            assert detail[f"hit@{k}"] == pytest.approx(np.mean([rank <= k for rank in ranks]), abs=1e-4)
            gains = [(rank <= k) / np.log2(rank + 1) for rank in ranks]
            assert detail[f"ndcg@{k}"] == pytest.approx(np.mean(gains), abs=1e-4)
    assert differs
