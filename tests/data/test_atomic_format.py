"""Atomic files with other column names and separators: every command reads the configured format."""
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import TINY
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from web_server import image_bytes

from recbole_macrec import UserError
from recbole_macrec.benchmark.report.items import thumbnails
from recbole_macrec.commands.data import main
from recbole_macrec.data.atomic import read_items
from recbole_macrec.recommend.input import item_titles
from recbole_macrec.trainer.windows import WindowLoader

NAMES = {"user_id": "session_id", "item_id": "product_id", "timestamp": "creation_time"}
FIELDS = {"USER_ID_FIELD": "session_id", "ITEM_ID_FIELD": "product_id", "TIME_FIELD": "creation_time"}
SEPARATORS = {"field_separator": ",", "seq_separator": "|"}
FORMATS = {"usual": {}, "user": {"USER_ID_FIELD": "session_id"}, "fields": FIELDS, "separators": SEPARATORS,
           "all": FIELDS | SEPARATORS}
IDS = {"modalities": ["text"], "text_fields": ["title"], "encoders": {"text": "tfidf"}, "quantizer": "rq_kmeans",
       "codebook_levels": 2, "codebook_size": 8, "state": "ERROR"}


def rewrite(folder: Path, form: dict) -> None:
    """Write the atomic files in ``folder``, which have RecBole's default format, again in the format ``form``."""
    options = {"user_id": "USER_ID_FIELD", "item_id": "ITEM_ID_FIELD", "timestamp": "TIME_FIELD"}
    for path in folder.glob("*.i*"):
        rows = [line.split("\t") for line in path.read_text().splitlines()]
        for i, column in enumerate(rows[0]):
            name, kind = column.split(":")
            rows[0][i] = f"{form.get(options.get(name), name)}:{kind}"
            if kind == "token_seq":
                rows[1:] = [[*row[:i], row[i].replace(" ", form.get("seq_separator", " ")), *row[i + 1 :]] for row in rows[1:]]
        path.write_text("".join(form.get("field_separator", "\t").join(row) + "\n" for row in rows))


def config_of(data_path: Path, model: str = "TIGER", **options) -> Config:
    return Config(model, TINY, config_dict={"data_path": str(data_path), **IDS, **options})


def built(data_path: Path, model: str = "TIGER", **options):
    dataset = create_dataset(config_of(data_path, model, **options))
    logging.getLogger().setLevel(logging.ERROR)
    dataset.build()
    return dataset


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_semantic_ids_titles_and_images_do_not_depend_on_the_format(tiny_dataset, tmp_path, form):
    expected = built(tiny_dataset).semantic_ids
    copy = tmp_path / "copy"
    (copy / TINY).mkdir(parents=True)
    for kind in ("inter", "item"):
        (copy / TINY / f"{TINY}.{kind}").write_bytes((tiny_dataset / TINY / f"{TINY}.{kind}").read_bytes())
    rewrite(copy / TINY, form)
    dataset = built(copy, **form)
    assert dataset.item_num == 31 and dataset.user_num == 41
    assert dataset.semantic_ids.item_tokens == expected.item_tokens
    assert np.array_equal(dataset.semantic_ids.codes["text"], expected.codes["text"])
    assert item_titles(dataset.config, ["i3", "i7"]) == {"i3": "craft item 3", "i7": "craft item 7"}
    settings = dict(dataset.config.final_config_dict) | {"image_field": "title"}
    (copy / TINY / "craft item 3").write_bytes(image_bytes("PNG"))
    assert list(thumbnails(settings, ["i3", "i4"], 10**6)) == ["i3"]


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"ITEM_ID_FIELD": "product_id"},
            "tiny.inter has no column product_id, which ITEM_ID_FIELD names; its first line is .user_id:token",
        ),
        ({"TIME_FIELD": "when"}, "tiny.inter has no column when, which TIME_FIELD names"),
        ({"field_separator": ","}, "field_separator is ',': set ITEM_ID_FIELD and field_separator to match the file"),
    ],
)
@pytest.mark.parametrize("model", ["TIGER", "Pop"])
def test_a_format_that_does_not_match_the_file_is_a_one_line_error(tiny_dataset, model, options, message):
    order = {"eval_args": {"order": "TO", "split": {"LS": "valid_and_test"}, "group_by": "user", "mode": "full"}}
    with pytest.raises(UserError, match=message):
        built(tiny_dataset, model, **order, **options)


@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_error_of_a_missing_item_column_names_the_option(tiny_dataset, model):
    path = tiny_dataset / TINY / f"{TINY}.item"
    path.write_text(path.read_text().replace("item_id:token", "product_id:token", 1))
    with pytest.raises(UserError, match="tiny.item has no column item_id, which ITEM_ID_FIELD names"):
        built(tiny_dataset, model, load_col=None)


def test_training_windows_do_not_depend_on_the_format(tiny_dataset):
    def loader(**options):
        config = config_of(tiny_dataset, **options)
        return WindowLoader(data_preparation(config, create_dataset(config))[0])

    usual = loader()
    rewrite(tiny_dataset / TINY, FORMATS["all"])
    renamed = loader(**FORMATS["all"])
    assert [window.items.tolist() for window in renamed.windows] == [window.items.tolist() for window in usual.windows]
    assert renamed.collate_fn([0, 1])["product_id_list"].tolist() == usual.collate_fn([0, 1])["item_id_list"].tolist()


@pytest.mark.parametrize("kind", ["inter", "item"])
@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_a_byte_order_mark_is_a_one_line_error(tiny_dataset, model, kind):
    path = tiny_dataset / TINY / f"{TINY}.{kind}"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with pytest.raises(UserError, match=f"tiny.{kind} begins with a byte order mark; save it as UTF-8 without one"):
        built(tiny_dataset, model, load_col=None)
    assert built(tiny_dataset, model, load_col=None, encoding="utf-8-sig").item_num == 31


def set_value(path: Path, row: int, column: str, value: str) -> None:
    """Replace a value of an atomic file; row 0 has the names of the columns."""
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    rows[row][rows[0].index(column)] = value
    path.write_text("".join("\t".join(row) + "\n" for row in rows))


@pytest.mark.parametrize("model", ["TIGER", "SASRec", "Pop"])
def test_a_missing_time_is_a_one_line_error(tiny_dataset, model):
    """RecBole fills in the mean time, which would change the order of the user's items."""
    path = tiny_dataset / TINY / f"{TINY}.inter"
    set_value(path, 3, "timestamp:float", "")
    user, item = path.read_text().splitlines()[3].split("\t")[:2]
    message = f"tiny.inter has no timestamp in row 3 below its first line, for user '{user}' and item '{item}'"
    by_time = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
    with pytest.raises(UserError, match=message):
        built(tiny_dataset, model, load_col=None, eval_args=by_time)


def test_times_that_are_tokens_are_a_one_line_error(tiny_dataset):
    path = tiny_dataset / TINY / f"{TINY}.inter"
    set_value(path, 0, "timestamp:float", "timestamp:token")
    with pytest.raises(UserError, match="has no column timestamp:float in its first line .*; write times as numbers"):
        built(tiny_dataset, "SASRec")


def test_interactions_with_unknown_items_are_counted(tiny_dataset, caplog):
    path = tiny_dataset / TINY / f"{TINY}.item"
    rows = path.read_text().splitlines()
    path.write_text("\n".join(row for row in rows if not row.startswith("i7\t")) + "\n")
    inter = (tiny_dataset / TINY / f"{TINY}.inter").read_text().splitlines()[1:]
    lost = sum(row.split("\t")[1] == "i7" for row in inter)
    assert lost > 0
    with caplog.at_level(logging.WARNING):
        built(tiny_dataset, "SASRec", load_col=None, state="WARNING")
    message = f"{lost} of {len(inter)} interactions are left out, because tiny.item or tiny.user has no row of their item"
    assert message in caplog.text


@pytest.mark.parametrize(
    "form, words",
    [
        ({"USER_ID_FIELD": "session_id", "ITEM_ID_FIELD": "product_id"}, []),
        (SEPARATORS, []),
        (FORMATS["all"], ["--TIME_FIELD=creation_time"]),
        (
            {"USER_ID_FIELD": "who", "ITEM_ID_FIELD": "what", "field_separator": ";"},
            ["--USER_ID_FIELD=who", "--ITEM_ID_FIELD=what"],
        ),
    ],
    ids=["names", "separators", "all", "options"],
)
def test_import_reads_other_formats(tiny_dataset, form, words, capsys):
    assert main(["import", str(tiny_dataset / TINY), "--dataset=usual", "--data_path=out"]) == 0
    rewrite(tiny_dataset / TINY, form)
    assert main(["import", str(tiny_dataset / TINY), "--dataset=again", "--data_path=out", *words]) == 0
    said = capsys.readouterr().out
    for kind in ("inter", "item"):
        assert Path(f"out/again/again.{kind}").read_text() == Path(f"out/usual/usual.{kind}").read_text()
    assert ("product_id is read as the item; --ITEM_ID_FIELD sets another column" in said) == ("product_id" in form.values())
    assert ("separated by '|'; --seq_separator" in said) == ("seq_separator" in form)


def test_spaces_within_categories_are_kept(tiny_dataset):
    """With a separator of its own, a token of a sequence can contain spaces."""
    path = tiny_dataset / TINY / f"{TINY}.item"
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    rows[0].append("genres:token_seq")
    for row in rows[1:]:
        row.append("Science Fiction|Drama" if row[0] == "i3" else "Drama")
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    assert main(["import", str(path.parent), "--dataset=a", "--data_path=out", "--seq_separator=|"]) == 0
    frame = read_items(Path("out/a"), "a").set_index("item_id")
    assert frame["genres"]["i3"] == "Science_Fiction Drama"


def test_import_reads_benchmark_files_in_other_formats(tmp_path, capsys):
    (tmp_path / "bench").mkdir()
    for part, row in ("train", "u;a;b"), ("valid", "u;a|b;c"), ("test", "u;a|b|c;d"):
        (tmp_path / f"bench/S.{part}.inter").write_text(f"who:token;what_list:token_seq;what:token;stars:float\n{row};5\n")
    words = ["--USER_ID_FIELD=who", "--ITEM_ID_FIELD=what", "--seq_separator=|"]
    assert main(["import", str(tmp_path / "bench"), "--dataset=S", "--data_path=out", *words]) == 0
    assert "note: S.train.inter: columns that are not imported: stars\n" in capsys.readouterr().out
    assert [line.split("\t")[1] for line in Path("out/S/S.inter").read_text().splitlines()[1:]] == list("abcd")


@pytest.mark.parametrize("word", ["--field_separator=::", "--field_separator=", "--ITEM_ID_FIELD="])
def test_invalid_options_of_import_are_a_one_line_error(tiny_dataset, word, capsys):
    assert main(["import", str(tiny_dataset / TINY), "--dataset=a", "--data_path=out", word]) == 1
    assert f"{word.split('=')[0]} is '{word.split('=')[1]}'; expected" in capsys.readouterr().err


def test_import_error_of_unknown_columns_names_the_option(tiny_dataset, capsys):
    rewrite(tiny_dataset / TINY, {"ITEM_ID_FIELD": "what"})
    assert main(["import", str(tiny_dataset / TINY), "--dataset=a", "--data_path=out"]) == 1
    assert "or the name of the column in --ITEM_ID_FIELD" in capsys.readouterr().err
    assert main(["import", str(tiny_dataset / TINY), "--dataset=a", "--data_path=out", "--ITEM_ID_FIELD=which"]) == 1
    assert "has no column 'which', which --ITEM_ID_FIELD names" in capsys.readouterr().err


@pytest.mark.parametrize("listed", [False, True], ids=["interactions", "folder"])
def test_import_reads_csv_tables_with_other_columns(tmp_path, listed, capsys):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/interactions.csv").write_text("who;what;when\na;x;2\na;y;1\n")
    if listed:
        (tmp_path / "shop/items.csv").write_text("what;title\nx;Thing, red\ny;Other\n")
    words = ["--USER_ID_FIELD=who", "--ITEM_ID_FIELD=what", "--TIME_FIELD=when", "--field_separator=;"]
    assert main(["import", str(tmp_path / "shop"), "--dataset=a", "--data_path=out", *words]) == 0
    assert "runs need no --USER_ID_FIELD, --ITEM_ID_FIELD, --TIME_FIELD, --field_separator\n" in capsys.readouterr().out
    assert Path("out/a/a.inter").read_text().splitlines()[1:] == ["a\ty\t1", "a\tx\t2"]
    assert not listed or read_items(Path("out/a"), "a")["title"].tolist() == ["Thing, red", "Other"]


def test_import_reads_text_columns_of_item_files_in_any_case(tmp_path):
    (tmp_path / "shop.inter").write_text("user_id:token\titem_id:token\na\tx\n")
    (tmp_path / "shop.item").write_text("item_id:token\tTitle:token_seq\nx\tThing\n")
    assert main(["import", str(tmp_path / "shop.inter"), "--dataset=a", "--data_path=out"]) == 0
    assert read_items(Path("out/a"), "a")["title"].tolist() == ["Thing"]


def test_import_refuses_separators_of_several_characters(tmp_path, capsys):
    (tmp_path / "shop.inter").write_text("user_id:token, item_id:token\na, x\n")
    assert main(["import", str(tmp_path / "shop.inter"), "--dataset=a", "--data_path=out"]) == 1
    assert "shop.inter has ', ' between the columns of its first line" in capsys.readouterr().err


def test_import_names_columns_of_item_files_that_it_leaves_out(tmp_path, capsys):
    (tmp_path / "shop.inter").write_text("user_id:token\titem_id:token\na\tx\n")
    (tmp_path / "shop.item").write_text("item_id\ttitle\tnote:token_seq\nx\tThing\tOld\n")
    words = ["import", str(tmp_path / "shop.inter"), "--dataset=a", "--data_path=out"]
    assert main(words) == 0
    assert "shop.item: columns without a type are not imported: title; write title:token_seq" in capsys.readouterr().out
    assert read_items(Path("out/a"), "a").columns.tolist() == ["item_id", "note"]
    (tmp_path / "shop.item").write_text("item_id:token\ttitle:token_seq\ttitle:token_seq\nx\tThing\tOld\n")
    assert main([*words, "--overwrite"]) == 1
    assert "shop.item has 1 column ('title') more than once" in capsys.readouterr().err


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_import_detects_the_separator_of_csv_tables(tmp_path, separator):
    tables = {"interactions": [["user", "item"], ["a", "x"], ["a", "y"]],
              "items": [['"item"', '"title"'], ["x", '"Thing, red; blue"'], ["y", "Other"]]}
    (tmp_path / "shop").mkdir()
    for name, rows in tables.items():
        (tmp_path / f"shop/{name}.csv").write_text("".join(separator.join(row) + "\n" for row in rows))
    assert main(["import", str(tmp_path / "shop"), "--dataset=a", "--data_path=out"]) == 0
    assert Path("out/a/a.inter").read_text().splitlines()[1:] == ["a\tx\t0", "a\ty\t1"]
    assert read_items(Path("out/a"), "a")["title"].tolist() == ["Thing, red; blue", "Other"]


def test_prepare_and_drop_write_the_configured_format(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/interactions.csv").write_text("user,item\n" + "".join(f"u{i % 9},i{i % 7}\n" for i in range(63)))
    rows = "".join(f"i{i},Thing {i},{i}.png\n" for i in range(6))
    (tmp_path / "folder/items.csv").write_text(f"item,title,image\n{rows}i6,Thing without an image,\n")
    for i in range(6):
        (tmp_path / f"folder/{i}.png").write_bytes(image_bytes("PNG", seed=i))
    form = FORMATS["all"]
    options = {"source": {"path": str(tmp_path / "folder")}, "data_path": "out", **form,
               "load_col": {"inter": list(NAMES.values()), "item": ["product_id"]}, "modalities": ["text", "image"],
               "encoders": {"text": "tfidf", "image": "pixels"}}
    dataset = create_dataset(Config("MACRec", TINY, config_dict={**IDS, **options}))
    assert dataset.item_num == 7 and dataset.user_num == 10
    items = pd.read_csv(f"out/{TINY}/{TINY}.item", dtype=str)
    assert items["product_id:token"].tolist() == [f"i{i}" for i in range(6)]
    assert set(pd.read_csv(f"out/{TINY}/{TINY}.inter")["product_id:token"]) == {f"i{i}" for i in range(6)}


def test_encode_reads_other_formats(tiny_dataset):
    rewrite(tiny_dataset / TINY, FORMATS["all"])
    words = ["encode", TINY, f"--data_path={tiny_dataset}", "--modality=text", "--encoder=tfidf", "--text_fields=title"]
    assert main(words) == 1
    assert main([*words, "--ITEM_ID_FIELD=product_id", "--field_separator=,", "--seq_separator=|"]) == 0
