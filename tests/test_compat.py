"""RecBole's own models train, save, load and rank with the installed libraries."""
import re
import sys
import types
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import histories_of
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.quick_start import load_data_and_model, objective_function, quick_start, run_recbole
from recbole.utils import get_model, get_trainer, init_seed

from recbole_macrec import UserError, compat
from recbole_macrec.compat.libraries import without_chain_warnings

FAST = {
    "epochs": 1,
    "train_batch_size": 64,
    "show_progress": False,
    "state": "ERROR",
    "MAX_ITEM_LIST_LENGTH": 5,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "price", "categories"]},
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "metrics": ["Hit", "NDCG"],
    "topk": [1, 5, 10],
    "valid_metric": "NDCG@10",
    "selected_features": ["categories"],
    "item_attribute": "categories",
    "save_dataset": True,
}


def fast(data_path, **settings) -> dict:
    return {**FAST, "data_path": str(data_path), **settings}


def checkpoint(tmp_path, model: str) -> str:
    (path,) = [p for p in (tmp_path / "saved").glob(f"{model}-*.pth") if "tiny" not in p.name]
    return str(path)


@pytest.mark.parametrize(
    "model", ["Pop", "SASRec", "BERT4Rec", "GRU4Rec", "LightGCN", "NGCF", "FDSA", "ItemKNN", "EASE", "DMF"]
)
def test_baseline_trains_and_its_checkpoint_gives_the_same_ranking(model, tiny_dataset, tmp_path):
    result = run_recbole(model, "tiny", config_dict=fast(tiny_dataset))["test_result"]
    assert 0 < result["hit@10"] <= 1
    assert all(type(value) is float for value in result.values())
    config, model, _, _, _, test_data = load_data_and_model(checkpoint(tmp_path, model))
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])
    assert trainer(config, model).evaluate(test_data, load_best_model=False) == result


def test_s3rec_pretrains_then_finetunes(tiny_dataset):
    settings = fast(tiny_dataset, pretrain_epochs=1, save_step=1)
    run_recbole("S3Rec", "tiny", config_dict={**settings, "train_stage": "pretrain"})
    finetune = {**settings, "train_stage": "finetune", "pre_model_path": "./saved/S3Rec-tiny-1.pth"}
    assert run_recbole("S3Rec", "tiny", config_dict=finetune)["test_result"]["hit@10"] > 0


@pytest.mark.parametrize("model", ["BPR", "SASRecPerUser"])
def test_valid_metric_that_is_not_measured_is_an_error_before_training(model, tiny_dataset, tmp_path):
    settings = fast(tiny_dataset, topk=[1, 5], load_col={"inter": ["user_id", "item_id", "timestamp"]})
    with pytest.raises(UserError, match="valid_metric is 'NDCG@10', which is not computed; .* NDCG@5"):
        run_recbole(model, "tiny", config_dict=settings)
    assert not [path for path in (tmp_path / "saved").glob("*.pth") if path.stat().st_size and "tiny" not in path.name]


def test_objective_function_without_ray(tiny_dataset):
    result = objective_function(config_dict=fast(tiny_dataset, model="Pop", dataset="tiny"))
    assert result["test_result"]["hit@10"] > 0


@pytest.mark.parametrize("takes_a_dict", [True, False])
def test_report_works_with_old_and_new_ray(takes_a_dict, monkeypatch):
    seen = {}
    ray, tune = types.ModuleType("ray"), types.ModuleType("ray.tune")
    ray.is_initialized, ray.tune = lambda: True, tune
    if takes_a_dict:
        tune.report = lambda metrics, checkpoint=None: seen.update(metrics)
    else:
        tune.report = lambda **metrics: seen.update(metrics)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.tune", tune)
    quick_start.tune.report(**{"hit@10": 0.5})
    assert seen == {"hit@10": 0.5}


def test_missing_features_are_filled(tiny_dataset):
    dataset = create_dataset(Config("SASRec", "tiny", config_dict=fast(tiny_dataset)))
    items = {token: row for row, token in enumerate(dataset.field2id_token["item_id"])}
    prices = dataset.item_feat["price"]
    assert not prices.isna().any()
    known = [float(i) + 0.5 for i in range(30) if i != 3]
    assert prices[items["i3"]] == pytest.approx(np.mean(known))
    assert len(dataset.item_feat["categories"][items["i5"]]) == 0
    assert len(dataset.item_feat["categories"][items["i4"]]) == 2


def test_columns_are_writable_for_torch(tiny_dataset, recwarn):
    config = Config("SASRec", "tiny", config_dict=fast(tiny_dataset))
    data_preparation(config, create_dataset(config))
    assert not [warning for warning in recwarn if "not writable" in str(warning.message)]


def test_repairs_do_not_change_pandas_and_torch(tiny_dataset, tmp_path):
    run_recbole("SASRec", "tiny", config_dict=fast(tiny_dataset))
    assert torch.load(checkpoint(tmp_path, "SASRec"), weights_only=True)["config"]["model"] == "SASRec"
    torch.save({"config": Config("SASRec", "tiny", config_dict=fast(tiny_dataset))}, tmp_path / "pickled.pth")
    with pytest.raises(Exception, match="[Ww]eights.only"):
        torch.load(tmp_path / "pickled.pth")
    compat.apply()
    if int(pd.__version__.split(".")[0]) >= 3:
        assert pd.Series([[1, 2], [3]]).agg(len) == 2


@pytest.mark.parametrize("text", ["input.pth", "all.json", "1/0", "saved/S3Rec-tiny-1.pth"])
def test_values_that_are_not_python_literals_are_strings(text, tiny_dataset):
    config = Config("SASRec", "tiny", config_dict=fast(tiny_dataset, pre_model_path=text, epochs="3"))
    assert config["pre_model_path"] == text
    assert config["epochs"] == 3


@pytest.fixture
def close_in_time(tmp_path):
    """Interactions at intervals of one second, which are equal as float32, stored newest first; i1 is the most frequent
    item."""
    folder = tmp_path / "data" / "close"
    folder.mkdir(parents=True)
    rows = [
        (user, item, 880_000_000 + 100 * user + step)
        for user in range(4)
        for step, item in enumerate([1, 2, 1, 3 + user, 8, 9])
    ]
    lines = [f"u{user}\ti{item}\t{time}\n" for user, item, time in rows[::-1]]
    (folder / "close.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "".join(lines))
    return folder.parent


def parts(model: str, data_path, **settings) -> list:
    """The training, validation and test data of the dataset ``close``."""
    settings = fast(data_path, **settings) | {
        "load_col": None,
        "selected_features": None,
        "train_neg_sample_args": None,
        "topk": [1],
        "valid_metric": "NDCG@1",
    }
    return create_dataset(Config(model, "close", config_dict=settings)).build()


@pytest.mark.parametrize("model", ["Pop", "LightGCN", "SASRec"])
def test_interactions_are_sorted_by_exact_timestamps(model, close_in_time):
    train, valid, test = parts(model, close_in_time)
    for part, item in (valid, "i8"), (test, "i9"):
        assert set(part.id2token("item_id", part.inter_feat["item_id"])) == {item}
    if model == "SASRec":
        for user, history in zip(test.inter_feat["user_id"], test.inter_feat["item_id_list"]):
            number = int(test.id2token("user_id", user)[1:])
            assert test.id2token("item_id", history).tolist() == ["i1", "i2", "i1", f"i{3 + number}", "i8"]


@pytest.mark.parametrize("keep", ["first", "last"])
def test_duplicates_are_removed_in_the_order_of_the_file(keep, tmp_path):
    """Items bought on the same day keep the order of the file, with and without duplicates."""
    (tmp_path / "data/close").mkdir(parents=True)
    items = {user: [f"i{(7 * user + 3 * step) % 50}" for step in range(40)] for user in range(20)}
    lines = [f"u{user}\t{item}\t880000000\n" for user in items for item in [*items[user], items[user][0]]]
    (tmp_path / "data/close/close.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "".join(lines))
    _, _, test = parts("SASRec", tmp_path / "data", rm_dup_inter=keep, MAX_ITEM_LIST_LENGTH=40)
    for user, history, item in zip(*(test.inter_feat[name] for name in ("user_id", "item_id_list", "item_id"))):
        found = [*test.id2token("item_id", history[history > 0]), str(test.id2token("item_id", int(item)))]
        expected = items[int(test.id2token("user_id", int(user))[1:])]
        assert found == (expected if keep == "first" else [*expected[1:], expected[0]])


class Unaugmented(SequentialDataset):
    """A sequential dataset without data augmentation, as for general models."""

    build = Dataset.build

    def data_augmentation(self):
        pass


def test_random_order_and_benchmark_files_are_unchanged(close_in_time):
    """RecBole's random order is the order of the file, shuffled by the seed; benchmark files are not sorted."""
    header, *rows = (close_in_time / "close" / "close.inter").read_text().splitlines(keepends=True)
    for name, part in zip(("a", "b", "c"), (rows[:12], rows[12:18], rows[18:])):
        (close_in_time / "close" / f"close.{name}.inter").write_text("".join([header, *part]))
    as_stored = parts("BPR", close_in_time, benchmark_filename=["a", "b", "c"])
    times = torch.cat([part.inter_feat["timestamp"] for part in as_stored])
    assert times.tolist() == [np.float32(row.split("\t")[2]) for row in rows]
    random = {"split": {"RS": [0.5, 0.25, 0.25]}, "order": "RO", "group_by": None, "mode": "full"}
    torch.manual_seed(1)
    shuffled = times[torch.randperm(len(times))]
    torch.manual_seed(1)
    theirs = parts("BPR", close_in_time, eval_args=random)
    torch.manual_seed(1)
    ours = Unaugmented(theirs[0].config).build()
    for split in theirs, ours:
        assert torch.equal(torch.cat([part.inter_feat["timestamp"] for part in split]), shuffled)


@pytest.mark.parametrize("batch, seed", [(1, 1), (7, 2), (4096, 3)])
def test_pop_ranks_by_training_counts_for_every_batch_size_and_seed(batch, seed, tiny_dataset, tmp_path):
    settings = fast(tiny_dataset, train_batch_size=batch, seed=seed)
    result = run_recbole("Pop", "tiny", config_dict=settings)["test_result"]
    _, model, dataset, train_data, _, _ = load_data_and_model(checkpoint(tmp_path, "Pop"))
    histories = histories_of(tiny_dataset / "tiny" / "tiny.inter")  # in the order of time
    counts = dict.fromkeys(dataset.field2id_token["item_id"], 0)
    for item in (item for history in histories.values() for item in history[:-2]):
        counts[item] += 1
    assert dict(zip(dataset.field2id_token["item_id"], model.item_cnt[:, 0].tolist())) == counts
    assert model.max_cnt.item() == max(counts.values())
    del counts["[PAD]"]
    certain_hits = possible_hits = 0
    for *known, target in histories.values():
        others = [count for item, count in counts.items() if item not in (*known, target)]
        possible_hits += sum(count > counts[target] for count in others) < 10
        certain_hits += sum(count >= counts[target] for count in others) < 10
    assert certain_hits <= round(result["hit@10"] * len(histories)) <= possible_hits


@pytest.mark.parametrize("name", ["NGCF", "GRU4RecKG"])
def test_no_dropout_while_ranking(name, tiny_dataset):
    rates = {"message_dropout": 0.5, "dropout_prob": 0.5}
    config = Config(name, "tiny", config_dict=fast(tiny_dataset, additional_feat_suffix=None, embedding_size=8, **rates))
    data = (Dataset if name == "NGCF" else SequentialDataset)(config).build()[0]
    data.get_preload_weight = lambda field: np.ones((data.item_num, 8), dtype=np.float32)
    model = get_model(name)(config, data)
    batch = () if name == "NGCF" else (torch.ones(1, 5, dtype=torch.long), torch.tensor([5]))
    first, again, training = model.eval()(*batch), model(*batch), model.train()(*batch)
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], training[0])


def test_training_does_not_depend_on_the_number_of_threads(tiny_dataset):
    """Wide embeddings make the gradients of NGCF large enough for several threads."""
    losses = []
    settings = fast(tiny_dataset, epochs=3, train_batch_size=2048, embedding_size=512, hidden_size_list=[512])
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        config = Config("NGCF", "tiny", config_dict=settings)
        init_seed(config["seed"], config["reproducibility"])
        train, _, _ = data_preparation(config, create_dataset(config))
        trainer = get_trainer(config["MODEL_TYPE"], "NGCF")(config, get_model("NGCF")(config, train.dataset))
        trainer.fit(train)
        losses.append(trainer.train_loss_dict)
    assert losses[0] == losses[1] == losses[2]
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("message", [
    # pandas 2
    "A value is trying to be set on a copy of a DataFrame or Series through chained assignment using an inplace method.",
    "A value is being set on a copy of a DataFrame or Series through chained assignment using an inplace method.",  # pandas 3
])
def test_chained_assignments_are_silent(message):
    with warnings.catch_warnings(record=True) as caught, without_chain_warnings():
        warnings.warn(message, FutureWarning, stacklevel=1)
    assert not caught


def test_the_load_is_measured_without_waiting(tiny_dataset, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waits for {seconds} seconds"))
    table = quick_start.get_environment(Config("Pop", "tiny", config_dict=fast(tiny_dataset)))
    assert re.search(r"CPU +\| +\d+\.\d+ %", table.draw())
