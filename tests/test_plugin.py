"""RecBole finds our models, property files and checkpoints."""
import configparser
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from process_pool import free_port
from recbole.config import Config
from recbole.data import create_dataset, data_preparation, dataset as datasets
from recbole.quick_start import load_data_and_model, objective_function, run, run_recbole
from recbole.trainer import Trainer
from recbole.utils import InputType, dataset_arguments, get_model, get_trainer, init_seed
from recbole.utils.case_study import full_sort_scores, full_sort_topk
from small_models import prepare_run

from recbole_macrec import TIGER, UserError, register_model
from recbole_macrec.config import registry
from recbole_macrec.config.plain import config_from_plain, plain_config
from recbole_macrec.config.property_files import property_file, read_yaml
from recbole_macrec.config.registry import model_names, models as registered_models
from recbole_macrec.config.schema.protocol import EVAL_BATCH_SCORES
from recbole_macrec.model import MODELS

REPOSITORY = Path(__file__).parents[1]
SMALL = {
    "epochs": 1,
    "train_batch_size": 64,
    "show_progress": False,
    "state": "ERROR",
    "modalities": ["text"],
    "encoders": {"text": "tfidf"},
    "text_fields": ["title"],
    "quantizer": "rq_kmeans",
    "codebook_levels": 2,
    "codebook_size": 6,
    "d_model": 16,
    "d_ff": 16,
    "d_kv": 8,
    "num_heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "num_beams": 10,
    "precision": "fp32",
}


@pytest.fixture
def small(tiny_dataset) -> dict:
    """Settings of a small model on the dataset ``tiny``."""
    return {**SMALL, "data_path": str(tiny_dataset)}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_recbole_finds_model_trainer_and_dataset(model):
    name = model.__name__
    assert get_model(name) is model
    assert issubclass(get_trainer(model.type, name), Trainer)
    assert issubclass(getattr(datasets, f"{name}Dataset"), datasets.SequentialDataset)


def test_quick_start_functions_work_with_tiger(small, tmp_path):
    result = run_recbole("TIGER", "tiny", config_dict=dict(small))["test_result"]
    (path,) = [p for p in (tmp_path / "saved").glob("TIGER-*.pth") if ".last" not in p.name]
    config, model, dataset, _, _, test_data = load_data_and_model(str(path))
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    assert trainer.evaluate(test_data, load_best_model=False) == result

    users = dataset.token2id("user_id", ["u1", "u2"])
    scores, items = full_sort_topk(users, model, test_data, k=5, device=config["device"])
    assert items.shape == (2, 5)
    assert torch.equal(full_sort_scores(users, model, test_data, device=config["device"]).topk(5).indices, items)

    tuned = objective_function(config_dict={**small, "model": "TIGER", "dataset": "tiny"})
    assert set(tuned["test_result"]) == set(result)


def test_two_processes_give_the_same_ranking_as_one(small):
    per_user = {"network": "decoder_only", "training": "per_user"}
    settings = {**small, **per_user, "learning_rate": 0.0, "eval_batch_size": 3}
    one = run("TIGER", "tiny", config_dict=dict(settings))["test_result"]
    two = run("TIGER", "tiny", config_dict=dict(settings), nproc=2, port=str(free_port()))["test_result"]
    assert two == pytest.approx(one, abs=1e-4)


@pytest.mark.parametrize("mode", ["full", "uni10"])
def test_valid_users_are_the_same_for_all_models_and_tests_use_all_users(mode, small):
    drawn = []
    for model, seed in (("TIGER", 1), ("SASRec", 2), ("BPR", 3)):
        split = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": mode}
        options = {
            "valid_users": 7,
            "seed": seed,
            "eval_args": split,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        }
        negatives = {} if model == "BPR" else {"train_neg_sample_args": None}
        config = Config(model, "tiny", config_dict={**small, **options, **negatives})
        _, valid, test = data_preparation(config, create_dataset(config))
        users = valid.dataset.inter_feat["user_id"].tolist()
        assert len(set(users)) == len(users) == valid.sample_size == 7
        assert test.sample_size == 40
        drawn.append(set(users))
    assert drawn[0] == drawn[1] == drawn[2] != set(range(1, 8))


def test_valid_users_are_the_same_where_a_sequential_model_has_no_row_of_some_users(small):
    """RecBole gives a user with 3 interactions a validation row for general models only."""
    with open(Path(small["data_path"]) / "tiny/tiny.inter", "a", encoding="utf-8") as file:
        file.writelines(f"short\ti{step + 1}\t{step}\n" for step in range(3))
    drawn = {}
    for model in ("SequentialEASE", "Pop"):
        own = {"data_path": small["data_path"], "valid_users": 7, "state": "ERROR"}
        config = Config(model, "tiny", config_dict=own)
        _, valid, _ = data_preparation(config, create_dataset(config))
        users = valid.dataset.inter_feat["user_id"]
        drawn[model] = set(valid.dataset.id2token("user_id", users.numpy()).tolist())
        assert len(drawn[model]) == 7
    assert drawn["Pop"] - {"short"} <= drawn["SequentialEASE"]


@pytest.mark.parametrize("model,mode,given,expected", [
    ("BPR", "full", None, EVAL_BATCH_SCORES),
    ("BPR", "full", 1000, 1000),
    ("BPR", "uni10", None, 4096),
    ("NeuMF", "full", None, 4096),  # it has no full_sort_predict
    ("SASRec", "full", None, 4096),  # users, in sequential models
])
def test_recboles_general_models_rank_many_users_at_once(model, mode, given, expected, small):
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    options = {**small, "valid_users": None, "eval_args": {"mode": mode}, "load_col": columns}
    if model == "SASRec":
        options["train_neg_sample_args"] = None
    if given:
        options["eval_batch_size"] = given
    assert Config(model, "tiny", config_dict=options)["eval_batch_size"] == expected


@pytest.mark.parametrize("path", sorted(property_file("dataset").glob("*.yaml")), ids=lambda path: path.stem)
def test_our_dataset_files_replace_those_of_recbole(path):
    """RecBole has a file for ml-100k, too."""
    config = Config("SASRec", path.stem)
    assert {name: config[name] for name in read_yaml(path)} == read_yaml(path)


def test_presets_of_a_dataset_replace_the_file_of_the_dataset():
    preset = read_yaml(property_file("preset", "MMGRec-ml-100k.yaml"))
    config = Config("MMGRec", "ml-100k")
    assert {name: config[name] for name in preset} == preset


class Halved(TIGER):
    """TIGER with another loss and an option of its own."""

    class options(TIGER.options):
        loss_weight: float = 0.5

    def calculate_loss(self, interaction):
        return self.config["loss_weight"] * super().calculate_loss(interaction)


def test_a_derived_model_needs_no_files(small, tmp_path, monkeypatch):
    """Its class is enough, also for checkpoints."""
    monkeypatch.setattr(registry, "_models", registered_models())
    assert Config(Halved, "tiny", config_dict=small)["loss_weight"] == 0.5
    settings = {**small, "checkpoint_dir": str(tmp_path), "loss_weight": 0.25}
    result = run_recbole(Halved, "tiny", config_dict=settings)
    assert get_model("Halved") is Halved and get_trainer(Halved.type, "Halved") is Halved.trainer_class
    config, model, _, _, _, test = load_data_and_model(next(tmp_path.glob("Halved*.pth")))
    assert type(model) is Halved and config["loss_weight"] == 0.25 and config["max_modalities"] == 1
    trainer = get_trainer(config["MODEL_TYPE"], "Halved")(config, model)
    assert trainer.evaluate(test, load_best_model=False) == result["test_result"]
    again = type("Halved", (TIGER,), {"__module__": "__main__"})  # as in a notebook
    register_model(again)
    assert get_model("Halved") is again


def test_a_derived_model_is_trained_on_its_own_loss(small, monkeypatch):
    monkeypatch.setattr(registry, "_models", registered_models())
    register_model(Halved)
    losses = []
    for weight in (1.0, 0.25):
        _, _, trainer, (train, *_) = prepare_run("Halved", "tiny", {**small, "loss_weight": weight})
        losses.append(trainer.train_steps(train, 1))
    assert losses[1] == pytest.approx(losses[0] / 4)


@pytest.mark.parametrize("name, hint", [("SASREC", "Did you mean 'SASRec'"), ("CL4SRec", "Known models: ")])
def test_unknown_models_are_one_sentence(name, hint):
    """RecBole ends with an AttributeError, or misses lightgbm, which other models need."""
    for named in ({"model": name}, {"config_dict": {"model": name}}):
        with pytest.raises(UserError, match=f"Unknown model '{name}'.*{hint}"):
            Config(dataset="tiny", **named)


@pytest.mark.parametrize("name", ["SASRec", "TIGER"])
def test_names_of_other_models_are_refused(name):
    with pytest.raises(UserError, match=f"There is a model {name} already; rename"):
        register_model(type(name, (TIGER,), {}))


@pytest.mark.parametrize("model", ["TIGER", "SASRecPerUser", "SASRec"])
def test_seen_items_are_left_out_on_request(model, small):
    """The scores of all other items do not change."""
    scores = []
    for exclude in (False, True):
        negatives = {"train_neg_sample_args": None, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
        options = {"exclude_seen": exclude, "decode": "exact", **(negatives if model == "SASRec" else {})}
        config = Config(model, "tiny", config_dict={**small, **options})
        init_seed(1, True)
        train, _, test = data_preparation(config, create_dataset(config))
        trainer = get_trainer(config["MODEL_TYPE"], model)(config, get_model(model)(config, train.dataset).eval())
        trainer.tot_item_num = test.dataset.item_num
        batch = next(iter(test))
        scores.append(trainer._full_sort_batch_eval(batch)[1])
    history, target = batch[0]["item_id_list"], batch[0]["item_id"]
    seen = torch.zeros_like(scores[0], dtype=torch.bool).scatter_(1, history, True)
    seen[:, 0] = True
    seen[torch.arange(len(seen)), target] = False
    assert scores[1][:, 1:][seen[:, 1:]].max() < scores[1][~seen].min() and seen.sum() > 2 * len(seen)
    others = ~seen[0]
    assert torch.equal(scores[0][0][others].argsort(), scores[1][0][others].argsort())
    users = batch[0]["user_id"].numpy()
    torch.testing.assert_close(full_sort_scores(users, trainer.model, test), scores[1])
    assert torch.equal(full_sort_topk(users, trainer.model, test, 5)[1], scores[1].topk(5).indices)


@pytest.mark.parametrize("model", ["SASRecPerUser", "BPR"])
def test_users_without_test_data_have_no_scores(model, small):
    """RecBole returns fewer rows of scores than users, or fails."""
    with open(Path(small["data_path"]) / "tiny/tiny.inter", "a", encoding="utf-8") as file:
        file.write("short\ti1\t1\n")
    options = {"data_path": small["data_path"], "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    eval_args = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
    _, network, _, (_, _, test) = prepare_run(model, "tiny", {**options, "eval_args": eval_args})
    users = test.dataset.token2id("user_id", ["short", "u1"])
    with pytest.raises(UserError, match="The user short has no row"):
        full_sort_topk(users, network, test, k=5)
    assert len(full_sort_topk(users[1:], network, test, k=5)[1]) == 1


def test_two_benchmark_files_are_refused(tiny_dataset):
    folder = tiny_dataset / "tiny"
    for part in ("train", "test"):
        shutil.copy(folder / "tiny.inter", folder / f"tiny.{part}.inter")
    options = {"data_path": str(tiny_dataset), "benchmark_filename": ["train", "test"], "state": "ERROR"}
    config = Config("BPR", "tiny", config_dict=options)
    with pytest.raises(UserError, match=r"benchmark_filename is \['train', 'test'\]; expected three files"):
        data_preparation(config, create_dataset(config))


@pytest.mark.parametrize("options, message", [
    ({"exclude_seen": True, "eval_args": {"mode": "uni20"}}, "exclude_seen is True, .*mode uni20"),
    ({"exclude_seen": True, "eval_args": {"mode": {"valid": "uni5", "test": "full"}}}, "exclude_seen is True, .*mode uni5"),
    ({"repeatable": False}, "repeatable is False, .*SASRec is sequential; .*exclude_seen to True"),
    ({"load_col": {"inter": ["user_id", "item_id"]}}, "load_col loads .*; set load_col to .*'timestamp'"),
    ({"eval_args": {"split": {"RS": [8, 1, 1]}, "order": "RO"}}, "order of eval_args is RO, but SASRec is sequential; .* TO"),
])  # fmt: skip
def test_options_of_sequential_models_that_have_no_effect_or_fail_later(options, message, tiny_dataset):
    settings = {"data_path": str(tiny_dataset), "train_neg_sample_args": None, "state": "ERROR", **options}
    with pytest.raises(UserError, match=message):
        config = Config("SASRec", "tiny", config_dict={"eval_args": {"order": "TO"}, **settings})
        create_dataset(config)


def test_a_user_of_all_items_is_a_user_error(tiny_dataset):
    rows = "".join(f"u{user}\ti{item}\t{item}\n" for user in range(2) for item in range(4 - user))
    (tiny_dataset / "tiny" / "tiny.inter").write_text(f"user_id:token\titem_id:token\ttimestamp:float\n{rows}")
    options = {"data_path": str(tiny_dataset), "topk": [2], "valid_metric": "MRR@2", "state": "ERROR"}
    config = Config("BPR", "tiny", config_dict=options)
    with pytest.raises(UserError, match="A user of tiny interacted with all 4 items.*user_inter_num_interval"):
        data_preparation(config, create_dataset(config))


def test_order_of_property_files(small, tiny_dataset):
    ours = Config("TIGER", "tiny", config_dict={"data_path": str(tiny_dataset)})
    assert ours["topk"] == [1, 5, 10]
    assert ours["MAX_ITEM_LIST_LENGTH"] == 20
    assert ours["train_neg_sample_args"]["distribution"] == "none"
    baseline = Config("SASRec", "arts-toy")
    assert baseline["modalities"] == ["text", "image"]
    assert baseline["topk"] == [10]
    assert baseline["train_neg_sample_args"]["distribution"] == "none"
    assert Config("BPR", "arts-toy")["train_neg_sample_args"]["distribution"] == "uniform"


@pytest.mark.parametrize(
    "model", [*(name for name, model in registered_models().items() if model.input_type != InputType.PAIRWISE), "SASRec"]
)
def test_cross_entropy_models_use_no_sampled_negatives(model):
    """For example with a YAML file shared with BPR: sampled negatives would be trained as positive items."""
    for sampled in ({"distribution": "uniform"}, {"distribution": "popularity", "sample_num": 2}):
        with pytest.raises(UserError, match=f"train_neg_sample_args is .*{model}.*None"):
            Config(model, "arts-toy", config_dict={"train_neg_sample_args": sampled})
    for none in (None, {"distribution": "none"}):
        assert (
            Config(model, "arts-toy", config_dict={"train_neg_sample_args": none})["train_neg_sample_args"]["distribution"]
            == "none"
        )


def test_config_does_not_change_recboles_lists():
    before = list(dataset_arguments)
    Config("KGAT", "ml-100k")
    Config("MACRec", "arts-toy")
    assert dataset_arguments == before
    assert {"modalities", "lambda_con", "text_fields"} <= set(before)


def test_property_files_are_yaml_of_known_models():
    models = {path.stem for path in property_file("model").glob("*.yaml")}
    assert models == set(model_names())
    for path in property_file().glob("**/*.yaml"):
        assert read_yaml(path), path


def test_config_round_trip_through_plain_values(small):
    config = Config("MACRec", "tiny", config_dict=small)
    plain = plain_config(config)
    again = config_from_plain(json.loads(json.dumps(plain)))
    assert again.final_config_dict == config.final_config_dict
    assert again.model_class is config.model_class


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_truncated_checkpoint_is_a_user_error(keep, tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"format": "recbole_macrec", "state_dict": {"weight": torch.zeros(1000)}}, path)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(UserError, match="model.pth.*truncated"):
        load_data_and_model(str(path))


def test_missing_checkpoint_is_a_user_error():
    with pytest.raises(UserError, match="nowhere.pth does not exist"):
        load_data_and_model("nowhere.pth")


def test_every_package_is_in_the_wheel():
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    found = {".".join(p.parent.relative_to(REPOSITORY).parts) for p in REPOSITORY.glob("recbole_macrec/**/__init__.py")}
    assert listed == found | {"recbole_macrec.properties"}
    assert yaml.safe_load(property_file("overall.yaml").read_text(encoding="utf-8"))["repeatable"]
