"""Contract tests of every general recommender of this package, found by its base class."""
import shutil

import numpy as np
import pytest
import torch
from planted import EACH, ITEMS, NAME, USERS, interactions, prepare, write_interactions, write_planted
from recbole.data.interaction import Interaction
from recbole.quick_start import load_data_and_model
from recbole.utils import get_trainer
from recbole.utils.case_study import full_sort_topk
from small_models import train_until

from recbole_macrec.baselines.pairwise import PairwiseRecommender
from recbole_macrec.config.property_files import property_file
from recbole_macrec.config.registry import models
from recbole_macrec.data.features import FeatureTable
from recbole_macrec.errors import UserError
from recbole_macrec.recommend import Recommender

NAMES = [name for name, model in models().items() if issubclass(model, PairwiseRecommender)]
WITH_FEATURES = [name for name in NAMES if models()[name].reads_features({"node_features": None})]
LEARNING = {"epochs": 15, "eval_step": 5}
LEAVE_ONE_OUT = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return write_planted(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def permuted(tmp_path_factory):
    return write_planted(tmp_path_factory.mktemp("permuted"), permuted=True)


@pytest.fixture(scope="module")
def results(planted, permuted, tmp_path_factory):
    """Returns Recall@10 of a trained model on one of both datasets; each is trained once."""
    known = {}

    def recall(name: str, is_permuted: bool = False) -> float:
        if (name, is_permuted) not in known:
            folder = str(tmp_path_factory.mktemp("saved"))
            _, _, trainer, (train, valid, test) = prepare(
                name, permuted if is_permuted else planted, checkpoint_dir=folder, **LEARNING
            )
            trainer.fit(train, valid)
            known[name, is_permuted] = trainer.evaluate(test, load_best_model=name in NAMES)["recall@10"]
        return known[name, is_permuted]

    return recall


def users_of(loader) -> Interaction:
    return loader.user_df


def state_of(model) -> dict:
    return {key: value.clone() for key, value in model.state_dict().items()}


def half(*rows):
    """Half the squared norms of the vectors of a batch, per sample."""
    return sum(x.square().sum() for x in rows) / (2 * len(rows[0]))


def mean(*xs):
    """Sum of the mean squares."""
    return sum(x.square().mean() for x in xs)


def ids(model, user, positive, negative):
    """Trained vectors of the users and items of a batch."""
    return torch.cat([model.ids[user], model.ids[model.n_users + positive], model.ids[model.n_users + negative]])


PENALTIES = {
    "GAT": lambda m, u, i, j: half(m.users[u], m.items[i], m.items[j]),
    "GraphSAGE": lambda m, u, i, j: half(m.users[u], m.items[i], m.items[j]),
    "MMGCN": lambda m, u, i, j: mean(ids(m, u, i, j), *(network.preferences for network in m.networks.values())),
    "GRCN": lambda m, u, i, j: mean(ids(m, u, i, j), *(routing.prototypes[u] for routing in m.routings.values())),
    "LATTICE": lambda m, u, i, j: half(m.representations()[0][u], m.representations()[1][i], m.representations()[1][j]),
    "LightGT": lambda m, *_: mean(*m.collaborative()[0].split([m.n_users, m.n_items])),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_the_penalty_is_that_of_the_docstring(name, planted):
    _, model, _, (train, _, _) = prepare(name, planted)
    batch, losses = next(iter(train)), []
    model.eval()
    for model.reg_weight in (0.0, 100.0):
        torch.manual_seed(0)
        losses.append(model.calculate_loss(batch))
    expected = 100 * PENALTIES[name](model, *(batch[field] for field in ("user_id", "item_id", "neg_item_id")))
    torch.testing.assert_close(losses[1] - losses[0], expected, atol=1e-4, rtol=1e-3)


def test_general_models_are_registered():
    assert set(NAMES) >= {"GraphSAGE", "GAT", "VBPR", "MMGCN", "GRCN", "LATTICE", "InvRL", "LightGT"}
    for name in NAMES:
        assert property_file("model", f"{name}.yaml").is_file() and property_file("hyper", f"{name}.hyper").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_recall_is_above_that_of_pop(name, results):
    assert results(name) > results("Pop") + 0.1


@pytest.mark.parametrize("name", NAMES)
def test_permuted_features_lower_the_recall(name, results):
    if name in WITH_FEATURES:
        assert results(name, is_permuted=True) < results(name) - 0.1
    else:
        assert results(name, is_permuted=True) == results(name)


@pytest.mark.parametrize("name", WITH_FEATURES)
def test_items_with_features_of_zero_have_finite_scores_and_small_gradients(name, tmp_path):
    write_planted(tmp_path)
    for modality in ("text", "image"):
        table = FeatureTable.load(tmp_path / NAME, modality)
        is_other = (np.arange(ITEMS) > (8 if modality == "text" else 4))[:, None]
        FeatureTable(table.item_tokens, table.matrix * is_other).save(tmp_path / NAME, modality)
    options = {"max_feature_width": 6} if name == "MMGCN" else {}
    _, model, trainer, (train, _, test) = prepare(name, tmp_path, epochs=1, feature_scaling="rows", **options)
    model.calculate_loss(next(iter(train))).backward()
    assert max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None) < 10
    trainer.fit(train)
    assert model.eval().full_sort_predict(users_of(test))[:, 1:].isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_scores_do_not_depend_on_the_batch(name, planted):
    _, model, trainer, (train, _, test) = prepare(name, planted)
    trainer.fit(train)
    model.eval()
    users = users_of(test)
    together = model.full_sort_predict(users)
    assert together.shape == (len(users), ITEMS + 1)
    assert (together[:, 0] == -torch.inf).all() and together[:, 1:].isfinite().all()
    for row in range(0, len(users), 13):
        torch.testing.assert_close(model.full_sort_predict(users[[row]])[0], together[row], atol=1e-5, rtol=1e-5)
    for item in (0, 1, ITEMS):
        batch = Interaction({"user_id": users["user_id"], "item_id": torch.full((len(users),), item)})
        torch.testing.assert_close(model.predict(batch), together[:, item], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_gives_same_results_and_loaded_equals_saved(name, planted):
    runs = []
    for _ in range(2):
        _, model, trainer, (train, valid, test) = prepare(name, planted)
        trainer.fit(train, valid)
        runs.append((trainer.train_loss_dict, trainer.evaluate(test)))
    assert runs[0] == runs[1]
    config, loaded, _, _, _, test = load_data_and_model(trainer.saved_model_file)
    assert get_trainer(config["MODEL_TYPE"], name)(config, loaded).evaluate(test, load_best_model=False) == runs[1][1]
    numbers = users_of(test)["user_id"][:7]
    _, top = full_sort_topk(numbers.numpy(), loaded, test, k=10)
    users = test.dataset.id2token("user_id", numbers.numpy()).tolist()
    with pytest.raises(UserError, match=f"{name} can't rank for any history.* use its method recommend"):
        Recommender(loaded)
    found = loaded.recommend(users, k=12)  # the evaluator also masks the validation items
    assert found["user"].tolist() == [user for user in users for _ in range(12)]
    assert found["rank"].tolist() == [*range(1, 13)] * 7 and (found["score"].groupby(found["user"]).diff().fillna(0) <= 0).all()
    for row, user in enumerate(users):
        expected = test.dataset.id2token("item_id", top[row].numpy()).tolist()
        listed = found["item"][found["user"] == user].tolist()
        assert [item for item in listed if item in expected] == expected[: len(set(listed) & set(expected))]
        assert len(set(listed) & set(expected)) >= 9


@pytest.mark.parametrize("name", NAMES)
def test_resumed_training_equals_uninterrupted_training(name, planted):
    _, whole, trainer, (train, valid, test) = prepare(name, planted)
    expected = trainer.fit(train, valid)
    final, result = state_of(whole), trainer.evaluate(test)
    for epochs in (0.3, 1.4):
        _, _, left, (train, valid, _) = prepare(name, planted)
        train_until(left, epochs, train, valid)
        _, model, resumed, (train, valid, test) = prepare(name, planted, resume=left.newest_model_file)
        assert resumed.fit(train, valid) == expected
        for key, value in final.items():
            torch.testing.assert_close(model.state_dict()[key], value, atol=0, rtol=0)
        assert resumed.evaluate(test) == result


@pytest.mark.parametrize("name", NAMES)
def test_training_does_not_depend_on_held_out_interactions(name, tmp_path):
    """Each user's last two items are replaced by others. All items and users occur before, so their numbers are the same."""
    path = write_planted(tmp_path / "data")
    pairs = interactions()
    seen: dict[int, int] = {}
    kept, held_out = [], []
    for user, item in pairs:
        seen[user] = seen.get(user, 0) + 1
        (kept if seen[user] <= EACH - 2 else held_out).append((user, item))
    present = {item for _, item in kept}
    extra = [(USERS, item) for item in range(ITEMS) if item not in present]  # a further user has the items that no other has
    learnt = []
    for shift in (0, 1):
        changed = [(user, (item + 3 * shift) % ITEMS) for user, item in held_out]
        write_interactions(path / NAME, [*kept, *extra, *changed])
        _, model, trainer, (train, _, test) = prepare(name, path, **LEAVE_ONE_OUT)
        trainer.fit(train)
        learnt.append((state_of(model), [x.clone() for x in model.eval().final_representations()]))
        targets = test._dataset.inter_feat["item_id"].tolist()
        learnt[-1] += (targets,)
    assert learnt[0][2] != learnt[1][2]
    for key, value in learnt[0][0].items():
        assert torch.equal(value, learnt[1][0][key]), key
    assert all(torch.equal(a, b) for a, b in zip(learnt[0][1], learnt[1][1]))


@pytest.mark.parametrize("name", NAMES)
def test_representations_are_cached_until_weights_change(name, planted, monkeypatch):
    _, model, trainer, (train, valid, _) = prepare(name, planted)
    trainer.train_steps(train, 2)
    calls = []
    original = type(model).representations
    monkeypatch.setattr(type(model), "representations", lambda self: calls.append(1) or original(self))
    trainer.evaluate(valid, load_best_model=False)
    model.full_sort_predict(users_of(valid))
    assert len(calls) == 1
    before = model.full_sort_predict(users_of(valid))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert not torch.allclose(model.full_sort_predict(users_of(valid))[:, 1:], before[:, 1:], atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_features_are_joined_by_item_token(name, planted):
    _, model, _, loaders = prepare(name, planted, feature_scaling="columns" if name in WITH_FEATURES else "rows")
    assert (list(model.features) == ["text", "image"] if name in WITH_FEATURES else not model.features)
    tokens = loaders[0]._dataset.field2id_token["item_id"][1:].tolist()
    for modality, matrix in model.features.items():
        expected = FeatureTable.load(planted / NAME, modality).select(tokens).astype(np.float64)
        expected = (expected - expected.mean(0)) / expected.std(0)
        np.testing.assert_allclose(matrix[1:].numpy(), expected, atol=1e-4)
        assert not matrix[0].any()
    assert not (planted / NAME / "semantic_ids").exists()


@pytest.mark.parametrize("name", WITH_FEATURES)
def test_trains_with_one_modality(name, planted):
    _, _, trainer, (train, _, test) = prepare(name, planted, modalities=["text"])
    trainer.train_steps(train, 3)
    _, both, other, (train, _, _) = prepare(name, planted)
    other.train_steps(train, 3)
    users = users_of(test)
    assert not torch.allclose(trainer.model.eval().full_sort_predict(users), both.eval().full_sort_predict(users), atol=1e-4)


def test_error_names_missing_features(planted, tmp_path):
    with pytest.raises(UserError, match="modality 'audio' of dataset planted has no features"):
        prepare("VBPR", planted, modalities=["audio"])
    path = shutil.copytree(planted, tmp_path / "copy")
    table = FeatureTable.load(path / NAME, "text")
    FeatureTable(table.item_tokens[1:], table.matrix[1:]).save(path / NAME, "text")
    with pytest.raises(UserError, match=r"1 item \('i0'\) of the dataset has no features"):
        prepare("VBPR", path)


@pytest.mark.parametrize("change, named", [("features", "features"), ("order", "users")])
def test_checkpoint_of_other_data_is_rejected(change, named, planted, permuted, tmp_path):
    path = shutil.copytree(planted, tmp_path / "copy")
    _, _, trainer, (train, _, _) = prepare("VBPR", path)
    trainer.fit(train)
    if change == "features":
        shutil.copytree(permuted / NAME / "features", path / NAME / "features", dirs_exist_ok=True)
    else:
        write_interactions(path / NAME, interactions()[::-1])
    with pytest.raises(UserError, match=f"VBPR was trained on other {named}"):
        load_data_and_model(trainer.saved_model_file)


def test_negatives_equal_those_of_recbole(planted):
    """One item per interaction that the user did not interact with in training."""
    config, model, _, (train, _, _) = prepare("VBPR", planted)
    assert config["train_neg_sample_args"]["distribution"] == "uniform"
    interacted = torch.from_numpy(model.interactions.toarray())
    for batch in train:
        assert not interacted[batch["user_id"], batch["neg_item_id"]].any()


@pytest.mark.parametrize("name, option, value, expected", [
    ("VBPR", "embedding_size", 0, "from 1 to"),
    ("GAT", "n_heads", 3, "divisor of embedding_size"),
    ("GraphSAGE", "node_features", "text", "ids or both"),
    ("MMGCN", "combination", "cat", "concat or add.*Did you mean 'concat'"),
    ("GRCN", "routing_rounds", -1, ">= 0"),
    ("LATTICE", "feature_graph_weight", 2, "from 0 to 1"),
    ("InvRL", "n_environments", 1, ">= 2"),
    ("LightGT", "n_graph_layers", 1, "at least n_layers"),
    ("LightGT", "feature_scaling", "row", "rows or columns.*Did you mean 'rows'"),
    ("VBPR", "precision", "bf16", "fp32"),
    ("VBPR", "train_neg_sample_args", None, "uniform"),
])
def test_invalid_options_are_user_errors(name, option, value, expected, planted):
    with pytest.raises(UserError, match=f"^{option} is {value!r}.*{expected}"):
        prepare(name, planted, **{option: value})


def test_recommend_with_and_without_seen_items_in_batches_of_any_size(planted):
    _, model, _, _ = prepare("VBPR", planted)
    users = model.user_tokens[1:8]
    best = model.full_sort_predict({"user_id": torch.arange(1, 8)}).topk(ITEMS).indices.tolist()
    seen = [set(model.interactions[number].indices.tolist()) for number in range(1, 8)]
    for exclude in (False, True):
        left = [[item for item in row if not (exclude and item in own)] for row, own in zip(best, seen)]
        expected = [(user, model.item_tokens[item]) for user, row in zip(users, left) for item in row]
        for batch_size in (3, 1024):
            found = model.recommend(users, ITEMS, exclude, batch_size)
            assert list(zip(found["user"], found["item"])) == expected and all(seen)


def test_recommend_rejects_unknown_users(planted):
    _, model, _, _ = prepare("VBPR", planted)
    with pytest.raises(UserError, match=r"1 user \('x'\)"):
        model.recommend(["u1", "x"])
    assert model.recommend([]).empty


@pytest.mark.parametrize("users, expected", [
    ("u1", "users is 'u1'; give a list"),
    (1, "users is 1; give a list"),
    (["u1", 1], "users contains 1 of type int; .* as str"),
    ([None], "users contains None of type NoneType"),
])
def test_recommend_rejects_users_that_are_no_list_of_tokens(users, expected, planted):
    _, model, _, _ = prepare("VBPR", planted)
    with pytest.raises(UserError, match=expected):
        model.recommend(users)
