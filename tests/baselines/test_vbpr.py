"""VBPR: its score by hand, matrix factorisation as a special case, and items with few interactions."""
import pytest
import torch
import torch.nn.functional as F
from planted import prepare, write_planted

WHOLE_CATALOGUE = {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]}}  # also for RecBole's BPR


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return write_planted(tmp_path_factory.mktemp("planted"))


@pytest.mark.parametrize("biases", [True, False])
def test_score_equals_the_formula(biases, planted):
    _, model, _, _ = prepare("VBPR", planted, biases=biases)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
        x = model.x
        user, item = 7, 20
        expected = model.users[user] @ model.items[item] + model.tastes[user] @ (x[item] @ model.project)
        if biases:
            expected = expected + model.item_bias[item] + x[item] @ model.feature_bias
    torch.testing.assert_close(model.full_sort_predict({"user_id": torch.tensor([user])})[0, item], expected)


def test_without_features_and_biases_it_is_bpr(planted):
    """The loss of a batch is that of RecBole's BPR with the same factors."""
    _, model, _, (train, _, _) = prepare("VBPR", planted, reg_weight=0.0)
    _, bpr, _, _ = prepare("BPR", planted, **WHOLE_CATALOGUE)
    with torch.no_grad():
        model.project.zero_()
        model.feature_bias.zero_()
        bpr.user_embedding.weight.copy_(model.users)
        bpr.item_embedding.weight.copy_(model.items)
        batch = next(iter(train))
        torch.testing.assert_close(model.calculate_loss(batch), bpr.calculate_loss(batch), atol=1e-5, rtol=1e-5)


def test_loss_of_a_batch_equals_that_of_full_tables(planted):
    _, model, _, (train, _, _) = prepare("VBPR", planted, reg_weight=0.1)
    batch = next(iter(train))
    user, i, j = batch["user_id"], batch["item_id"], batch["neg_item_id"]
    users, items = model.representations()
    margin = (users[user] * (items[i] - items[j])).sum(1)
    rows = [model.users[user], model.tastes[user], model.items[i], model.items[j], model.item_bias[i], model.item_bias[j]]
    penalty = sum(x.square().sum() for x in rows) / (2 * len(user))
    penalty = penalty + (model.project.square().sum() + model.feature_bias.square().sum()) / 2
    torch.testing.assert_close(model.calculate_loss(batch), F.softplus(-margin).mean() + 0.1 * penalty)


def test_ranks_rare_items_better_than_bpr(planted):
    """Recall of targets with at most two training interactions, whose group only the features show."""
    recall = {}
    for name in ("VBPR", "BPR"):
        _, model, trainer, (train, valid, test) = prepare(name, planted, epochs=30, eval_step=5, **WHOLE_CATALOGUE)
        trainer.fit(train, valid)
        trainer.evaluate(test)
        counts = torch.from_numpy(train._dataset.inter_matrix("csr").sum(0)).flatten()
        users, items = test._dataset.inter_feat["user_id"], test._dataset.inter_feat["item_id"]
        rare = counts[items] <= 2
        scores = model.full_sort_predict({"user_id": users[rare]} if name == "VBPR" else test._dataset.inter_feat[rare])
        top = scores.view(int(rare.sum()), -1)[:, 1:].topk(20).indices + 1
        recall[name] = (top == items[rare].unsqueeze(1)).any(1).double().mean().item()
        assert rare.sum() > 20
    assert recall["VBPR"] > recall["BPR"] + 0.2
