"""SequentialEASE: its weights, its scores, and what it reads of the data."""
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY
from recbole.quick_start import load_data_and_model
from small_models import ITEMS, batch_of, data_path, prepare  # noqa: F401  data_path is a fixture

from recbole_macrec import Recommender, UserError
from recbole_macrec.baselines import sequential_ease
from recbole_macrec.config.schema.protocol import PROTOCOL

NAME = "SequentialEASE"


def trained(path, name=NAME, **options):
    """Model, trainer and data loaders after training."""
    _, model, trainer, loaders = prepare(name, path, **options)
    trainer.fit(*loaders[:2])
    return model.eval(), trainer, loaders


def read_interactions(path) -> pd.DataFrame:
    """The rows of the .inter file in the order of their timestamps."""
    rows = pd.read_csv(path / TINY / f"{TINY}.inter", sep="\t", dtype=str)
    return rows.iloc[rows[rows.columns[2]].astype(float).argsort(kind="stable")]


def write_interactions(rows: pd.DataFrame, path) -> None:
    rows.to_csv(path / TINY / f"{TINY}.inter", sep="\t", index=False)


def training_matrix(loaders) -> np.ndarray:
    return (loaders[0].dataset.training_interactions().toarray() > 0).astype(float)


def test_each_column_of_the_weights_is_a_ridge_regression_without_the_item_itself(data_path):
    model, _, loaders = trained(data_path, reg_weight=3.0)
    seen = training_matrix(loaders)
    assert seen.shape[1] == ITEMS + 1
    for item in range(1, ITEMS + 1):
        others = np.arange(ITEMS + 1) != item
        source = seen[:, others]
        expected = np.linalg.solve(source.T @ source + 3 * np.eye(ITEMS), source.T @ seen[:, item])
        np.testing.assert_allclose(model.weights[others, item].numpy(), expected, atol=1e-6)
        assert model.weights[item, item] == 0


def test_score_is_the_sum_of_the_decayed_weights_of_the_history(data_path):
    model, _, (_, _, test) = trained(data_path, decay=0.5)
    batch = batch_of(test)
    scores = model.full_sort_predict(batch)
    for row, (items, length) in enumerate(zip(batch["item_id_list"], batch["item_length"].tolist())):
        expected = sum(0.5 ** (length - 1 - place) * model.weights[items[place]] for place in range(length))
        torch.testing.assert_close(scores[row, 1:], expected[1:])
        torch.testing.assert_close(model.full_sort_predict(batch[[row]])[0], scores[row])
    assert scores[:, 0].isneginf().all()
    batch["item_id"] = torch.arange(len(batch)) % ITEMS + 1
    assert torch.equal(model.predict(batch), scores[torch.arange(len(batch)), batch["item_id"]])


def test_without_decay_the_scores_on_validation_histories_are_those_of_ease(data_path):
    """On the test histories they differ, since RecBole's EASE does not read the validation item."""
    rows = read_interactions(data_path)
    write_interactions(rows.drop_duplicates(rows.columns[:2]), data_path)
    model, _, (_, valid, test) = trained(data_path, decay=1.0, reg_weight=5.0)
    ease, _, (train, _, _) = trained(data_path, "EASE", reg_weight=5.0, **PROTOCOL)
    users = train.dataset.field2token_id["user_id"]
    items = [model.item_tokens.index(token) for token in train.dataset.field2id_token["item_id"][1:]]
    equal = []
    for loader in (valid, test):
        batch = batch_of(loader)
        tokens = loader.dataset.field2id_token["user_id"][batch["user_id"]]
        numbers = torch.tensor([users[token] for token in tokens])
        expected = torch.as_tensor(ease.full_sort_predict({"user_id": numbers})).view(len(batch), -1)
        equal.append(torch.allclose(model.full_sort_predict(batch)[:, items], expected[:, 1:].float(), atol=1e-5))
    assert equal == [True, False]


def test_held_out_interactions_do_not_change_the_weights(data_path):
    def by_token(model):
        return pd.DataFrame(model.weights.numpy(), model.item_tokens, model.item_tokens).sort_index().sort_index(axis=1)

    before = by_token(trained(data_path)[0])
    rows = read_interactions(data_path)
    held_out = rows.groupby(rows.columns[0]).cumcount(ascending=False) < 2
    shuffled = rows[rows.columns[1]].sample(frac=1, random_state=0).to_numpy()
    changed = rows[rows.columns[1]].where(~held_out, shuffled)
    assert (changed != rows[rows.columns[1]]).sum() > 10
    write_interactions(rows.assign(**{rows.columns[1]: changed}), data_path)
    pd.testing.assert_frame_equal(by_token(trained(data_path)[0]), before)


def test_better_than_popularity_in_one_epoch_whatever_epochs_says(data_path):
    metrics = {}
    for name, options in ((NAME, {"epochs": 7, "eval_step": 5, "reg_weight": 1.0}), ("Pop", {})):
        _, trainer, (_, _, test) = trained(data_path, name, **options)
        metrics[name] = trainer.evaluate(test, load_best_model=name != "Pop")["ndcg@10"]
        assert trainer.epochs == 1
    assert metrics[NAME] > metrics["Pop"] + 0.1


def test_saved_model_recommends_as_before(data_path, tmp_path):
    model, trainer, (_, _, test) = trained(data_path)
    batch = batch_of(test)
    loaded = load_data_and_model(trainer.saved_model_file)[1].eval()
    assert torch.equal(loaded.full_sort_predict(batch), model.full_sort_predict(batch))
    recommender = Recommender(model)
    recommender.save_pretrained(tmp_path / "folder")
    rows = [["i3", "i9"], ["i4"]]
    frame = recommender.recommend(rows, k=5, exclude_seen=True)
    assert Recommender.load(tmp_path / "folder").recommend(rows, k=5, exclude_seen=True).equals(frame)
    assert not {"i3", "i9"} & set(frame["item"][:5])


def test_recommendations_are_in_the_order_of_the_scores(data_path, monkeypatch):
    """Small scores differ by less than their log-probabilities can show."""
    model, _, (_, _, test) = trained(data_path)
    scores = 1e-9 * torch.randperm(ITEMS + 1, generator=torch.Generator().manual_seed(0)).repeat(3, 1)
    scores[:, 0] = -torch.inf
    monkeypatch.setattr(model, "full_sort_predict", lambda interaction: scores)
    ranking = model.best_items(batch_of(test), ITEMS, None, torch.tensor([[4, 0], [5, 6], [0, 0]]))
    for row, excluded in zip(ranking.items.tolist(), ({4}, {5, 6}, set())):
        order = [item for item in scores[0].argsort(descending=True).tolist() if item and item not in excluded]
        assert row == order + [0] * len(excluded)


@pytest.mark.parametrize(("option", "value"), [("reg_weight", 0), ("decay", 0), ("decay", 1.5)])
def test_invalid_options_are_refused(option, value, data_path):
    with pytest.raises(UserError, match=f"{option} is {value}"):
        prepare(NAME, data_path, **{option: value})


def test_too_little_memory_is_a_user_error(data_path, monkeypatch):
    monkeypatch.setattr(sequential_ease, "free_memory", lambda device: 10 * (ITEMS + 1) ** 2)
    with pytest.raises(UserError, match="The computations of SequentialEASE for 30 items need 0.0 GB"):
        trained(data_path)
    monkeypatch.setattr(sequential_ease, "free_memory", lambda device: 0)
    with pytest.raises(UserError, match="The weights of SequentialEASE for 30 items"):
        prepare(NAME, data_path)
