"""Invalid values and damaged files of users: one-line errors, before any file of the dataset is read."""
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from recbole.config import Config
from recbole.data import create_dataset, data_preparation

from recbole_macrec import UserError
from recbole_macrec.benchmark.__main__ import main as benchmark
from recbole_macrec.benchmark.compare.matrix import parse_seeds
from recbole_macrec.benchmark.compare.ranks import Ranks
from recbole_macrec.benchmark.compare.run_command import main as run
from recbole_macrec.benchmark.compare.run_model import Request, run_config
from recbole_macrec.benchmark.compare.runs import Run
from recbole_macrec.commands.data import main as data
from recbole_macrec.config.options import read_config_file
from recbole_macrec.recommend.__main__ import main as recommend
from recbole_macrec.semantic_ids import read_published
from recbole_macrec.semantic_ids.rows import Scale, standardized

NAN = float("nan")


def one_line(capsys) -> str:
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error.removeprefix("error: ")


@pytest.mark.parametrize("name, value, expected", [
    ("item_task_ratio", "x", "a number >= 0"),
    ("item_task_ratio", -1, "a number >= 0"),
    ("prompt_length", -1, "a whole number from 0 to 1024"),
    ("prompt_length", 2.5, "a whole number from 0 to 1024"),
    ("lambda_implicit", "x", "a number >= 0"),
    ("lambda_implicit", -1, "a number >= 0"),
    ("warmup_ratio", "x", "a number from 0 to 1"),
    ("warmup_ratio", NAN, "a number from 0 to 1"),
    ("warmup_ratio", 2, "a number from 0 to 1"),
    ("warmup_ratio", -1, "a number from 0 to 1"),
    ("clip_grad_norm", 1.0, "a dictionary or None"),
    ("clip_grad_norm", "foo", "a dictionary or None"),
    ("implicit_temperature", 0, "a number >= 0.0001"),
    ("topk", "abc", "a whole number >= 1 or a list of whole numbers >= 1"),
    ("seed", 2**32 + 1, "from 0 to 4294967295"),
    ("weight_decay", -1, "a number >= 0"),
    ("weight_decay", NAN, "a number >= 0"),
    ("eval_args", "foo", "a dictionary with keys among split, group_by, order, mode"),
    ("load_col", 2, "a dictionary such as {inter: [user_id, item_id]}, or None"),
    ("load_col", {"inter": 2}, "a dictionary such as {inter: [user_id, item_id]}, or None"),
    ("loss_decimal_place", -1, "a whole number from 0 to 15"),
    ("val_interval", "foo", "a dictionary such as {rating: '[3,inf)', user_id: [u1, u2]}, or None"),
    ("val_interval", {"rating": "3,inf"}, "a dictionary such as"),
    ("val_interval", {"rating": "[a,inf)"}, "a dictionary such as"),
    ("user_inter_num_interval", 5, "intervals such as '[3,inf)' or '[1,2];[4,5]' or None"),
    ("item_inter_num_interval", "[5;9]", "intervals such as '[3,inf)' or '[1,2];[4,5]' or None"),
    ("rm_dup_inter", "frst", "first, last or None"),
    ("benchmark_filename", "train,valid,test", "a list such as ['train', 'valid', 'test'], or None"),
    ("learner", "foo", "adam, adamw, sgd, adagrad, rmsprop or sparse_adam"),
    ("codebook_levels", 100, "a whole number from 1 to 26"),
    ("epochs", None, "a whole number >= 0"),
    ("encoders", "tfidf", "a dictionary such as {text: tfidf, image: pixels}, or None"),
    ("text_fields", "title", "a list of columns, such as ['title', 'brand'] or None"),
    ("gpu_id", "foo", "numbers of GPUs, such as 0 or 0,1, or nothing for the CPU"),
])
def test_invalid_values_of_options(name, value, expected):
    with pytest.raises(UserError) as error:
        Config("MACRec", "no such dataset", config_dict={name: value})
    message = str(error.value)
    assert message.startswith(f"{name} is {value!r}; expected ") and expected in message and "\n" not in message


@pytest.mark.parametrize("model", ["SASRec", "BPR", "Pop", "SASRecPerUser"])
@pytest.mark.parametrize(
    "name, value", [("weight_decay", NAN), ("topk", 0), ("seed", 2**32), ("val_interval", "foo"), ("valid_users", -1)]
)
def test_invalid_values_for_every_model(model, name, value):
    with pytest.raises(UserError, match=f"^{name} is {value!r}; expected"):
        Config(model, "no such dataset", config_dict={name: value})


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"device": "foo"}, "device is 'foo', but RecBole chooses it by gpu_id"),
        ({"gpu_id": 99}, "gpu_id is '99', but this machine does not have all of these GPUs"),
        ({"gpu_id": [98, 99]}, "gpu_id is '98,99', but this machine does not have all of these GPUs"),
        ({"eval_args": {"order": "XX"}}, "eval_args.order is 'XX'; expected RO or TO"),
        ({"eval_args": {"mode": "uni"}}, "eval_args.mode is 'uni'; expected full"),
        ({"modalities": "[" * 600}, "modalities is '[[[[.*which can't be read"),
        ({"epochs": 10**5000}, "epochs is a number of about 5000 digits; expected a whole number >= 0, at most 2147483647"),
        (
            {"network": "encoder_decoder", "training": "per_user", "encoder_attention": "bidirectional"},
            "would see the items to predict",
        ),
        ({"network": "decoder_only", "d_kv": 7}, "d_kv is 7 and network is decoder_only, .*expected an even d_kv"),
        ({"metrics": ["GAUC"], "valid_metric": "GAUC"}, "needs a ranking of all items"),
    ],
)
def test_invalid_combinations_and_abbreviated_long_values(settings, expected):
    with pytest.raises(UserError, match=expected.replace("[[[[", r"\[\[\[\[")) as error:
        Config("MACRec", "no such dataset", config_dict=settings)
    assert len(str(error.value)) < 500


def test_log_wandb_without_wandb(monkeypatch):
    monkeypatch.setattr("recbole_macrec.config.schema.recbole.find_spec", lambda name: None)
    with pytest.raises(UserError, match="log_wandb is True, but the package wandb is not installed"):
        Config("Pop", "no such dataset", config_dict={"log_wandb": True})


@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_topk_above_the_catalogue(model, tiny_dataset):
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    settings = {"data_path": str(tiny_dataset), "topk": [31], "num_beams": 31, "quantizer": "rq_kmeans", "codebook_size": 8,
                "load_col": columns, "modalities": ["text"], "text_fields": ["title"], "valid_metric": "NDCG@31",
                "show_progress": False, "state": "ERROR", "train_neg_sample_args": None}  # fmt: skip
    config = Config(model, "tiny", config_dict=settings)
    with pytest.raises(UserError, match=r"topk is \[31\]; expected at most 29, the number of items of tiny"):
        data_preparation(config, create_dataset(config))


@pytest.mark.parametrize("columns, missing", [
    ({"item": ["item_id"]}, "user_id, item_id, timestamp"),
    ({"inter": ["item_id", "timestamp"]}, "user_id"),
    ({"inter": ["user_id", "item_id"]}, "timestamp"),
])
def test_load_col_without_needed_columns(columns, missing, tiny_dataset):
    settings = {"data_path": str(tiny_dataset), "load_col": columns, "state": "ERROR", "train_neg_sample_args": None}
    config = Config("GRU4Rec", "tiny", config_dict=settings)
    with pytest.raises(UserError, match=f"but this run also needs {missing}; set load_col to"):
        create_dataset(config)


def test_a_dataset_with_one_modality_is_refused_before_its_ids_are_learnt(tiny_dataset):
    settings = {"data_path": str(tiny_dataset), "text_fields": ["title"], "image_field": None, "show_progress": False,
                "state": "ERROR"}  # fmt: skip
    config = Config("MACRec", "tiny", config_dict=settings)
    with pytest.raises(UserError, match=r"MACRec fuses two or more modalities, but modalities is \['text'\]"):
        data_preparation(config, create_dataset(config))
    assert not list((tiny_dataset / "tiny").glob("**/*.npy"))


@pytest.mark.parametrize("kept, n_users, n_interactions", [
    ({"timestamp": "[100,200);[300,inf)"}, 38, 286),
    ({"user_id": ["u1", "u3"]}, 2, 7 + 9),
])
def test_interactions_are_filtered_by_value(kept, n_users, n_interactions, tiny_dataset):
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    dataset = create_dataset(Config("Pop", "tiny", config_dict={"data_path": str(tiny_dataset), "load_col": columns,
                                                               "val_interval": kept}))
    assert (dataset.user_num - 1, dataset.inter_num) == (n_users, n_interactions)


@pytest.mark.parametrize("kept, expected", [
    ({"user_id": "[3,inf)"}, "for the column user_id, which has tokens; expected a list of the tokens to keep"),
    ({"timestamp": ["100"]}, "for the column timestamp, which has numbers; expected intervals such as"),
    ({"title": ["craft"]}, "names the column title, which has sequences; RecBole filters only by columns with one value"),
])
def test_filters_of_the_wrong_kind(kept, expected, tiny_dataset):
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]}
    config = Config("Pop", "tiny", config_dict={"data_path": str(tiny_dataset), "load_col": columns, "val_interval": kept})
    with pytest.raises(UserError, match=expected):
        create_dataset(config)


def test_a_column_that_is_needed_but_not_loaded(tiny_dataset):
    config = Config("SASRec", "tiny", config_dict={"data_path": str(tiny_dataset), "unload_col": {"inter": ["timestamp"]},
                                                   "load_col": None})
    with pytest.raises(UserError, match=r"unload_col leaves out the columns \['timestamp'\] of interactions"):
        create_dataset(config)


def test_separator_missing_in_the_file(tiny_dataset, capsys):
    assert run(["--model=Pop", "--dataset=tiny", f"--data_path={tiny_dataset}", "--field_separator=,"]) == 1
    assert "field_separator" in one_line(capsys)


@pytest.mark.parametrize("word, expected", [
    ("--hidden_size=63", "RecBole: The hidden size (63) is not a multiple of the number of attention heads (2)"),
    ("--hidden_dropout_prob=2", "RecBole: dropout probability has to be between 0 and 1, but got 2"),
    ("--loss_type=BRP", "loss_type is 'BRP'; expected CE, BPR, BCE, MSE, NLL or None. Did you mean 'BPR'?"),
    ("--hidden_act=gule", "hidden_act is 'gule'; expected gelu, relu, swish, tanh, sigmoid or None."),
    ("--n_heads=two", "n_heads is 'two'; expected a number, such as 2."),
    ("--n_heads=0", "n_heads is 0; expected a whole number >= 1."),
    ("--n_layers=0", "n_layers is 0; expected a whole number >= 1."),
    ("--layer_norm_eps=small", "layer_norm_eps is 'small'; expected a number, such as 1e-12."),
])
def test_options_of_recboles_models(word, expected, tiny_dataset, capsys):
    assert run(["--model=SASRec", "--dataset=tiny", f"--data_path={tiny_dataset}", "--state=ERROR", word]) == 1
    assert one_line(capsys).strip() == expected


def test_a_model_of_recbole_whose_library_is_missing(tiny_dataset, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "xgboost", None)
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    for name in [name for name in sys.modules if name.startswith("recbole.model.exlib_recommender")]:
        monkeypatch.delitem(sys.modules, name)
    assert run(["--model=XGBoost", "--dataset=tiny", f"--data_path={tiny_dataset}", "--state=ERROR"]) == 1
    assert "is not installed; the model needs it: pip install " in one_line(capsys)


def test_a_library_that_a_model_of_recbole_imports_late(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "dgl", None)
    assert run(["--model=KGAT", "--dataset=ml-100k", "--state=ERROR"]) == 1
    assert one_line(capsys) == "dgl is not installed; the model needs it: pip install dgl\n"


@pytest.mark.parametrize("model, source, columns", [
    ("CKE", "kg", ["head_id", "relation_id", "tail_id"]), ("DeepFM", "user", ["user_id", "age", "gender", "occupation"]),
    ("DIN", "item", ["item_id", "release_year"]), ("FDSA", "item", ["item_id", "class"]),
])
def test_models_of_recbole_read_the_columns_they_need(model, source, columns):
    config = run_config(model, Request("ml-100k"))
    assert config["load_col"][source] == columns and config["topk"] == [1, 5, 10]


def test_lists_and_dictionaries_in_the_form_of_yaml(tiny_dataset):
    """As the documentation and the messages write them."""
    given = {"modalities": "[text]", "clip_grad_norm": "{max_norm: 1.0}", "load_col": "{inter: [user_id, item_id, timestamp]}",
             "eval_args": "{split: {RS: [0.8, 0.1, 0.1]}, order: TO, group_by: user, mode: full}", "topk": (1, 5, 10)}
    config = run_config("TIGER", Request("tiny", settings={"data_path": str(tiny_dataset), **given}))
    assert config["modalities"] == ["text"] and config["clip_grad_norm"] == {"max_norm": 1.0}
    assert config["load_col"] == {"inter": ["user_id", "item_id", "timestamp"]}
    assert config["eval_args"]["split"] == {"RS": [0.8, 0.1, 0.1]} and config["topk"] == [1, 5, 10]
    sampled = {"data_path": str(tiny_dataset), "train_neg_sample_args": "{distribution: popularity}"}
    for model in "BPR", "VBPR":
        assert run_config(model, Request("tiny", settings=sampled))["train_neg_sample_args"]["distribution"] == "popularity"


def test_quoted_numbers_of_recbole_models(tiny_dataset, tmp_path):
    (tmp_path / "quoted.yaml").write_text("num_layers: '2'\nlearning_rate: '1e-3'\n")
    config = Config("GRU4Rec", "tiny", [str(tmp_path / "quoted.yaml")], {"data_path": str(tiny_dataset)})
    assert config["learning_rate"] == 0.001
    assert config["num_layers"] == 2 and type(config["num_layers"]) is int


@pytest.mark.parametrize("visible", [None, "3", ""])
def test_the_choice_of_visible_gpus_is_kept(visible, monkeypatch):
    """RecBole's Config would set the variable to 0."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    config = Config("Pop", "arts-toy", config_dict={})
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
    assert config["gpu_id"] == ("0" if visible is None else visible)
    Config("Pop", "arts-toy", config_dict={"gpu_id": ""})
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert Config("Pop", "arts-toy", config_dict={})["gpu_id"] == config["gpu_id"]  # not that of the Config before
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


def test_values_are_checked_before_the_command_writes_files(tiny_dataset, capsys):
    before = {path: path.stat().st_mtime_ns for path in tiny_dataset.rglob("*")}
    for command in (["--model=MACRec"], ["--model=MACRec,Pop", "--output=out"]):
        assert run([*command, "--dataset=tiny", f"--data_path={tiny_dataset}", "--lambda_implicit=-1"]) == 1
        assert one_line(capsys) == "lambda_implicit is -1; expected a number >= 0.\n"
    assert {path: path.stat().st_mtime_ns for path in tiny_dataset.rglob("*")} == before
    assert not Path("out", "runs").exists() and not Path("saved").exists()


def test_values_are_checked_before_searches_and_studies_write_files(tiny_dataset, monkeypatch, capsys):
    monkeypatch.setattr("recbole_macrec.benchmark.compare.tune.read_space", lambda model: {"weight_decay": ("choice", [-1])})
    words = [f"--data_path={tiny_dataset}", "--output=out"]
    assert benchmark(["compare", "--models=Pop", "--datasets=tiny", "--tune=2", *words]) == 1
    assert "weight_decay is -1; expected a number >= 0" in one_line(capsys)
    Path("study.yaml").write_text("kind: variants\nmodel: TIGER\nvariants: {a: {d_model: 0}}\n")
    assert benchmark(["study", "study.yaml", "--datasets=tiny", *words]) == 1
    assert "d_model is 0; expected a whole number from 1 to 65536" in one_line(capsys)
    assert not Path("out", "runs").exists() and not Path("out", "tune").exists()


@pytest.mark.parametrize("content, expected", [
    (b"1: 2\n", "has the key 1; expected the name of an option"),
    (b"null: 2\n", "has the key None; expected the name of an option"),
    (b"a: " + b"[" * 600, "brackets are nested too deeply"),
    (b"epochs: " + b"1" * 5000, "is not valid YAML: Exceeds the limit"),
    (b"\x93NUMPY\x01\x00\xff\xfe", "is not valid YAML"),
    (b"- 1\n", "contains a list; expected lines such as"),
])
@pytest.mark.parametrize("what", ["Config file", "Study"])
def test_damaged_yaml_files(what, content, expected, capsys):
    Path("my.yaml").write_bytes(content)
    words = {"Config file": ["compare", "--models=Pop", "--config_files=my.yaml"], "Study": ["study", "my.yaml"]}[what]
    assert benchmark([*words, "--output=out"]) == 1
    assert expected in one_line(capsys)
    with pytest.raises(UserError):
        read_config_file("my.yaml")
    with pytest.raises(UserError):
        Config("Pop", "tiny", config_file_list=["my.yaml"])


# -- semantic IDs and data --------------------------------------------------------------------------------------------

SIX_ROWS = "user,item\n" + "".join(f"u{i},i{j}\n" for i in range(2) for j in range(3))


@pytest.mark.parametrize("ids, expected", [
    ('["<a_999999999>"]', "has the code 999999999; expected at most 65535"),
    ('["<a_%s>"]' % ("9" * 5000), "expected <level_code> with a whole number"),
    ("[" * 20000, "maximum recursion depth|nested"),
    ('["<b_1>"]', "its level is unknown here"),
    ('["x"]', "expected <level_code>"),
])
def test_import_and_run_reject_the_same_id_files(ids, expected, tmp_path, capsys):
    path = tmp_path / "ids.json"
    path.write_text("{" + ", ".join(f'"i{j}": {ids}' for j in range(3)) + "}")
    with pytest.raises(UserError, match=expected) as error:
        read_published(path, ["i0", "i1", "i2"])
    assert len(str(error.value)) < 500
    (tmp_path / "inter.csv").write_text(SIX_ROWS)
    words = [
        "import",
        str(tmp_path / "inter.csv"),
        "--dataset=shop",
        f"--data_path={tmp_path / 'out'}",
        "--semantic_ids",
        f"text={path}",
    ]
    assert data(words) == 1
    assert len(one_line(capsys)) < 500


def test_pipes_are_rejected(tmp_path, capsys):
    os.mkfifo(tmp_path / "interactions.csv")
    for source in (tmp_path, tmp_path / "interactions.csv"):
        assert data(["import", str(source), "--dataset=shop", f"--data_path={tmp_path / 'out'}"]) == 1
        assert "interactions.csv is not a regular file" in one_line(capsys)


def test_long_descriptions_are_imported(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "interactions.csv").write_text(SIX_ROWS)
    text = "soft wool " * 20000
    (folder / "items.csv").write_text("item,description\n" + "".join(f"i{j},{text}{j}\n" for j in range(3)))
    assert data(["import", str(folder), "--dataset=shop", f"--data_path={tmp_path / 'out'}"]) == 0
    assert len((tmp_path / "out" / "shop" / "shop.item").read_text()) > 3 * len(text.strip())


def test_standardized_features_do_not_depend_on_their_scale():
    x = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    x[:, 3] = 1  # constant
    expected = Scale.fit(x, True).apply(x)
    assert expected[:, :3].std(0).allclose(expected.new_ones(3), atol=0.05)
    for scale in (1e-30, 1e-6, 1e12):
        scaled = x * np.float32(scale)
        assert Scale.fit(scaled, True).apply(scaled)[:, :3].allclose(expected[:, :3], atol=1e-4)
    with pytest.raises(UserError, match="largest feature is .*standardize is False"):
        Scale.fit(x * np.float32(1e-30), False)
    constant = np.full((7000, 2), 0.1, np.float32)  # its mean in float32 is not 0.1
    assert not standardized(constant).any()


# -- comparisons and reports ------------------------------------------------------------------------------------------


@pytest.fixture
def comparison(tmp_path) -> Run:
    """A comparison with one finished run."""
    run_folder = tmp_path / "out" / "runs" / "tiny" / "Pop" / "seed-1"
    run_folder.mkdir(parents=True)
    spec = {"format": 1, "labels": ["Pop"], "datasets": ["tiny"], "seeds": [1], "pairs": []}
    (tmp_path / "out" / "compare.json").write_text(json.dumps(spec))
    spec = {"label": "Pop", "model": "Pop", "dataset": "tiny", "seed": 1, "settings": {}}
    (run_folder / "run_spec.json").write_text(json.dumps(spec))
    (run_folder / "result.json").write_text(json.dumps({"model": "Pop", "test_result": {"hit@10": 0.1}}))
    return Run(run_folder)


def test_damaged_arrays(comparison):
    path = comparison.folder / "ranks.npz"
    whole = {
        name: np.zeros(1, np.int64)
        for name in ("users", "items", "targets", "ranks", "top", "counts", "rows", "history", "history_ends")
    }
    np.savez(path, **whole)
    content = path.read_bytes()
    Ranks.load(path)
    for damage in (lambda: path.write_bytes(content[: len(content) // 2]), lambda: path.write_bytes(b""),
                   lambda: np.savez(path, **whole | {"users": np.array([{}], dtype=object)}),
                   lambda: np.savez(path, **whole | {"unknown": np.zeros(1)}),
                   lambda: np.savez(path, users=np.zeros(1))):  # fmt: skip
        damage()
        with pytest.raises(UserError, match="ranks.npz .*delete .* and run the comparison again"):
            Ranks.load(path)


@pytest.mark.parametrize("name, content, expected", [
    ("compare.json", "[1]", "compare.json contains a list; expected a dict"),
    ("compare.json", "{}", "compare.json lacks format, labels"),
    ("compare.json", "[" * 20000, "compare.json can't be read"),
    ("result.json", "", "result.json can't be read"),
    ("result.json", "{}", "result.json lacks test_result"),
    ("run_spec.json", '{"unknown": 1}', "run_spec.json is not the record of a run"),
])
def test_damaged_records(name, content, expected, comparison, tmp_path, capsys):
    folder = tmp_path / "out" if name == "compare.json" else comparison.folder
    (folder / name).write_text(content)
    assert benchmark(["report", str(tmp_path / "out")]) == 1
    assert expected in one_line(capsys)


def test_too_many_seeds_are_rejected():
    for text in ("99999999", "0", "1,-2", "1,4294967296"):
        with pytest.raises(UserError, match=f"--seeds='{text}'"):
            parse_seeds(text)


@pytest.mark.parametrize("argv", [["scale", "--items", "0"], ["scale", "--repeats=0"]])
def test_invalid_sizes_of_a_benchmark(argv, capsys):
    assert benchmark(argv) == 1
    assert "is 0; expected a whole number >= 1" in one_line(capsys)


def test_line_break_in_a_history(capsys):
    assert recommend(["--model_file=x.pth", "--history=i1\ni2"]) == 1
    assert "--history has a line break" in one_line(capsys)
