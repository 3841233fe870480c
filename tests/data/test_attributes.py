"""Item attributes: import of categories as tokens, and RecBole's models that read them."""
import gzip
import json
from pathlib import Path

import pytest
from conftest import TINY
from recbole.config import Config
from recbole.data import create_dataset
from recbole.quick_start import run_recbole

from recbole_macrec import UserError
from recbole_macrec.commands.data import main
from recbole_macrec.data.atomic import read_items
from recbole_macrec.data.attributes import category_tokens

MODELS = {
    "FDSA": "selected_features",
    "GRU4RecF": "selected_features",
    "SASRecF": "selected_features",
    "S3Rec": "item_attribute",
}


@pytest.mark.parametrize("value, tokens", [
    ("Arts, Crafts & Sewing,  Wool", "Arts Crafts_&_Sewing Wool"),
    (["Arts", "Wool yarn", "Wool yarn"], "Arts Wool_yarn"),
    ("Home > Lamps|Red; ", "Home Lamps Red"),
    ("", ""),
    (None, ""),
])
def test_categories_become_tokens(value, tokens):
    assert category_tokens(value) == tokens


def released(folder: Path) -> Path:
    (folder / "Shop.inter.json").write_text(json.dumps({"u": [0, 1]}))
    (folder / "Shop.item.json").write_text(
        json.dumps({"0": {"title": "a", "categories": "Wool, Red yarn"}, "1": {"title": "b"}})
    )
    return folder


def table(folder: Path) -> Path:
    (folder / "interactions.csv").write_text("user,item\nu,0\nu,1\n")
    (folder / "items.csv").write_text('item,title,category\n0,a,"Wool, Red yarn"\n1,b,\n')
    return folder


def atomic(folder: Path) -> Path:
    (folder / "Shop.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\nu\t0\t0\nu\t1\t1\n")
    (folder / "Shop.item").write_text("item_id:token\ttitle:token\tclass:token_seq\n0\ta\tWool Red_yarn\n1\tb\t\n")
    return folder


def amazon(folder: Path) -> Path:
    (folder / "Shop.csv").write_text("0,u,5.0,1\n1,u,5.0,2\n")
    with gzip.open(folder / "meta_Shop.json.gz", "wt") as file:
        for item, categories in ("0", ["Wool", "Red yarn", "</span>"]), ("1", []):
            file.write(json.dumps({"asin": item, "title": "t", "category": categories}) + "\n")
    return folder


@pytest.mark.parametrize("source", [released, table, atomic, amazon])
def test_import_writes_the_categories(tmp_path, source):
    (tmp_path / "src").mkdir()
    words = ["--core=0", "--require_image=False"] if source is amazon else []
    assert main(["import", str(source(tmp_path / "src")), "--dataset=Shop", "--data_path=out", *words]) == 0
    assert "class:token_seq" in Path("out/Shop/Shop.item").read_text().splitlines()[0].split("\t")
    assert read_items(Path("out/Shop"), "Shop")["class"].tolist() == ["Wool Red_yarn", ""]


def loaded(data_path, model, **options):
    return create_dataset(
        Config(
            model,
            TINY,
            config_dict={
                "data_path": str(data_path),
                "train_neg_sample_args": None,
                "state": "ERROR",
                "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]},
                **options,
            },
        )
    )


@pytest.mark.parametrize("model", MODELS)
def test_models_with_attributes_read_categories(tiny_dataset, model):
    dataset = loaded(tiny_dataset, model)
    assert dataset.config[MODELS[model]] in (["categories"], "categories")
    assert set(dataset.field2id_token["categories"][1:]) == {"wool", "paper", "beads", "craft"}
    assert "title" not in dataset.field2type


def test_item_attribute_of_the_user_is_kept(tiny_dataset):
    assert loaded(tiny_dataset, "FDSA", selected_features=["title"]).config["selected_features"] == ["title"]
    assert "categories" not in loaded(tiny_dataset, "SASRec").field2type


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("lacks", ["column", "values", "file", "option"])
def test_models_with_attributes_fail_without_categories(tiny_dataset, model, lacks):
    path, options = tiny_dataset / TINY / f"{TINY}.item", {}
    if lacks == "column":
        path.write_text(path.read_text().replace("categories", "notes", 1))
    elif lacks == "values":
        path.write_text("\n".join(line.rpartition("\t")[0] + ("\t" if i else "\tcategories:token_seq")
                                  for i, line in enumerate(path.read_text().splitlines())) + "\n")
    elif lacks == "file":
        path.unlink()
    else:
        options = {MODELS[model]: ["brand"] if model != "S3Rec" else "brand"}
    column = "brand" if lacks == "option" else "class"
    with pytest.raises(UserError, match=f"{model} reads item attributes from column {column} .*tiny.item"):
        loaded(tiny_dataset, model, **options)


def test_an_imported_dataset_trains_fdsa(tiny_dataset):
    assert main(["import", str(tiny_dataset / TINY), "--dataset=again", "--data_path=out"]) == 0
    options = {
        "data_path": "out",
        "epochs": 1,
        "hidden_size": 8,
        "inner_size": 8,
        "n_heads": 1,
        "n_layers": 1,
        "state": "ERROR",
        "train_neg_sample_args": None,
        "show_progress": False,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"order": "TO", "split": {"LS": "valid_and_test"}, "group_by": "user", "mode": "full"},
    }
    assert run_recbole("FDSA", "again", config_dict=options)["test_result"]


def test_import_notes_that_image_columns_are_left_out(tmp_path, capsys):
    (tmp_path / "src").mkdir()
    path = atomic(tmp_path / "src") / "Shop.item"
    path.write_text(path.read_text().replace("title:token", "image:token", 1))
    assert main(["import", str(tmp_path / "src"), "--dataset=Shop", "--data_path=out"]) == 0
    assert "column image is left out" in capsys.readouterr().out and "image" not in read_items(Path("out/Shop"), "Shop")
