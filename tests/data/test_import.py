"""The import command: its output, and a one-line error without loss of data for every bad input."""
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PUBLISHED, SHARED_DATA, needs_shared_data

from recbole_macrec import UserError
from recbole_macrec.commands.data import main
from recbole_macrec.config.options import check_dataset
from recbole_macrec.data.features import FeatureTable

ITEMS = ["B00C", "B00A", "B00B"]  # item numbers 0, 1, 2
HISTORIES = {"u1": [2, 0], "u2": [0], "u3": [2, 0, 2]}  # item 1 has no interactions
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def released(tmp_path):
    folder = tmp_path / "Shop"
    folder.mkdir()
    (folder / "Shop.inter.json").write_text(json.dumps(HISTORIES))
    (folder / "Shop.item2id").write_text("".join(f"{token}\t{i}\n" for i, token in enumerate(ITEMS)))
    np.save(folder / "text.npy", np.arange(6.0).reshape(3, 2))
    (folder / "ids.json").write_text(json.dumps({str(i): [f"<a_{i}>", "<b_0>"] for i in (1, 0, 2)}))
    return folder


@pytest.fixture
def table(tmp_path):
    folder = tmp_path / "csv"
    folder.mkdir()
    (folder / "interactions.csv").write_text("user,item,timestamp\na,3,20\nb,1,5\na,0,10.5\n")
    np.save(folder / "visual.npy", np.eye(5))
    return folder


def run(*words) -> int:
    return main(["import", *map(str, words)])


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_released_folder(released, tmp_path, capsys):
    assert run(released, "--dataset=Shop", f"--data_path={tmp_path / 'out'}", "--feature", f"text={released}/text.npy",
               f"--semantic_ids=text={released}/ids.json") == 0
    out = tmp_path / "out" / "Shop"
    assert lines(out / "Shop.inter") == ["user_id:token\titem_id:token\ttimestamp:float", "u1\tB00B\t0", "u1\tB00C\t1",
                                         "u2\tB00C\t0", "u3\tB00B\t0", "u3\tB00C\t1", "u3\tB00B\t2"]
    assert lines(out / "Shop.item") == ["item_id:token", *ITEMS]
    assert FeatureTable.load(out, "text").select(["B00B", "B00C"]).tolist() == [[4, 5], [0, 1]]
    assert json.loads((out / "semantic_ids/text.json").read_text())["B00A"] == ["<a_1>", "<b_0>"]
    assert "3 users, 3 items, 6 interactions" in capsys.readouterr().out


@pytest.mark.parametrize("files", [["a.json", "b.json"], ["both.npy"], ["one.npy", "b.json"]])
def test_tokenizations(files, released, tmp_path):
    """Several files of a modality, or one array [K, items, levels]."""
    codes = np.array([[[5, 1], [6, 1], [7, 1]], [[9, 0], [8, 0], [8, 1]]], dtype=np.uint8)
    for name, rows in zip(("a.json", "b.json"), codes):
        (released / name).write_text(json.dumps({str(i): [f"<a_{a}>", f"<b_{b}>"] for i, (a, b) in enumerate(rows.tolist())}))
    np.save(released / "both.npy", codes)
    np.save(released / "one.npy", codes[0])
    words = [f"--semantic_ids=text={released / file}" for file in files]
    assert run(released, "--dataset=Shop", f"--data_path={tmp_path / 'out'}", *words) == 0
    folder = tmp_path / "out" / "Shop" / "semantic_ids"
    assert sorted(path.name for path in folder.iterdir()) == ["text.json", "text@2.json"]
    assert json.loads((folder / "text.json").read_text())["B00A"] == ["<a_6>", "<b_1>"]
    second = {"B00C": ["<a_9>", "<b_0>"], "B00A": ["<a_8>", "<b_0>"], "B00B": ["<a_8>", "<b_1>"]}
    assert json.loads((folder / "text@2.json").read_text()) == second


@pytest.mark.parametrize("write, message", [
    (lambda path: path.write_bytes(b""), "not a readable .npy file"),
    (lambda path: np.savez(path.open("wb"), np.ones((3, 2), int)), "contains an .npz archive"),
    (lambda path: np.save(path, np.ones((3, 2))), "expected whole numbers from 0"),
])  # fmt: skip
def test_unsuitable_arrays_of_codes(write, message, released, tmp_path, capsys):
    write(released / "codes.npy")
    words = [f"--semantic_ids=text={released / 'codes.npy'}", f"--data_path={tmp_path / 'out'}"]
    assert run(released, "--dataset=Shop", *words) == 1
    assert message in capsys.readouterr().err


def test_metadata_is_imported_as_text_columns(released, tmp_path):
    metadata = {"0": {"title": "A\t\"B\"\n c", "description": ["x", "y"]}, "1": {"title": "NA"}, "2": {}}
    (released / "Shop.item.json").write_text(json.dumps(metadata))
    assert run(released, "--dataset=Shop", f"--data_path={tmp_path}/out") == 0
    from recbole_macrec.data.atomic import read_items

    frame = read_items(tmp_path / "out/Shop", "Shop")
    assert frame["title"].tolist() == ['A "B" c', "NA", ""] and frame["description"].tolist() == ["x y", "", ""]


def test_features_join_by_id(released, tmp_path):
    shuffled = [2, 0, 1]
    np.save(released / "text.npy", np.arange(6.0).reshape(3, 2)[shuffled])
    (released / "text.items.txt").write_text("".join(f"{ITEMS[i]}\n" for i in shuffled))
    assert run(released, "--dataset=Shop", f"--data_path={tmp_path}/out", "--feature", f"text={released}/text.npy") == 0
    assert FeatureTable.load(tmp_path / "out/Shop", "text").select(ITEMS).tolist() == [[0, 1], [2, 3], [4, 5]]


def test_catalogue_of_a_csv_import_is_every_feature_row(table, tmp_path):
    assert run(table, "--dataset=tiny", f"--data_path={tmp_path}/out", "--feature", f"visual={table}/visual.npy") == 0
    out = tmp_path / "out/tiny"
    assert lines(out / "tiny.item")[1:] == ["0", "1", "2", "3", "4"]
    assert lines(out / "tiny.inter")[1:] == ["a\t0\t10.5", "a\t3\t20", "b\t1\t5"]


def test_csv_without_timestamp_keeps_row_order_with_a_note(tmp_path, capsys):
    (tmp_path / "log.csv").write_text("item,user\nz,b\ny,a\nx,b\n")
    assert run(tmp_path / "log.csv", "--dataset=log", f"--data_path={tmp_path}/out") == 0
    assert lines(tmp_path / "out/log/log.inter")[1:] == ["b\tz\t0", "b\tx\t2", "a\ty\t1"]
    assert "order of its rows is used as time" in capsys.readouterr().out


def test_note_about_columns_of_interactions_that_are_not_imported(tmp_path, capsys):
    (tmp_path / "log.csv").write_text("user,item,rating,timestamp,channel\na,x,5,1,web\n")
    assert run(tmp_path / "log.csv", "--dataset=log", f"--data_path={tmp_path}/out") == 0
    assert lines(tmp_path / "out/log/log.inter") == ["user_id:token\titem_id:token\ttimestamp:float", "a\tx\t1"]
    assert "note: log.csv: columns that are not imported: rating, channel\n" in capsys.readouterr().out


@pytest.mark.parametrize("first, padded", [(0, True), (1, False)])
def test_feature_rows_without_interactions_are_noted(table, capsys, first, padded):
    np.save(table / "visual.npy", np.vstack([np.full((1, 2), first), np.ones((4, 2))]))
    assert run(table / "interactions.csv", "--dataset=x", "--data_path=out", f"--feature=visual={table}/visual.npy") == 0
    out = capsys.readouterr().out
    assert "note: visual.npy has 5 rows, and 3 items have interactions" in out and "2 items ('2', '4')" in out
    assert ("row 0 is all zeros" in out) is padded


def test_importing_twice_needs_overwrite(released, table, tmp_path, capsys):
    where = f"--data_path={tmp_path}/out"
    assert run(released, "--dataset=Shop", where) == 0
    before = (tmp_path / "out/Shop/Shop.inter").read_bytes()
    assert run(table, "--dataset=Shop", where) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert run(table, "--dataset=Shop", where, "--overwrite", f"--feature=visual={released}/text.npy") == 1
    assert (tmp_path / "out/Shop/Shop.inter").read_bytes() == before
    assert run(table, "--dataset=Shop", where, "--overwrite") == 0
    assert (tmp_path / "out/Shop/Shop.inter").read_bytes() != before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".Shop.lock", "Shop"]


def test_overwrite_rejects_other_folders_and_the_source(released, tmp_path, capsys):
    (tmp_path / "out/Shop").mkdir(parents=True)
    (tmp_path / "out/Shop/thesis.txt").write_text("mine")
    assert run(released, "--dataset=Shop", f"--data_path={tmp_path}/out", "--overwrite") == 1
    assert (tmp_path / "out/Shop/thesis.txt").exists() and "not an imported dataset" in capsys.readouterr().err
    (released / "Shop.inter").write_text("")
    assert run(released, "--dataset=Shop", f"--data_path={tmp_path}", "--overwrite") == 1
    assert "would delete" in capsys.readouterr().err and (released / "text.npy").exists()


@pytest.mark.parametrize("moment", ["writing", "swapping"])
def test_killed_import_keeps_the_old_data(released, table, tmp_path, moment):
    out = tmp_path / "out"
    assert run(released, "--dataset=Shop", f"--data_path={out}") == 0
    before = (out / "Shop/Shop.inter").read_bytes()
    hook = {"writing": "import recbole_macrec.data.atomic as m; name = 'write'",
            "swapping": "import os as m; name = 'rename'; calls = 1"}[moment]
    script = f"""
import os, signal, sys
from recbole_macrec import UserError
from recbole_macrec.commands.data import main
from recbole_macrec.config.options import check_dataset
calls = 0
{hook}
real = getattr(m, name)
def die(*args):
    global calls
    if calls == 0: os.kill(os.getpid(), signal.SIGKILL)
    calls -= 1
    return real(*args)
setattr(m, name, die)
main(sys.argv[1:])
"""
    words = ["import", str(table), "--dataset=Shop", f"--data_path={out}", "--overwrite"]
    done = subprocess.run([sys.executable, "-c", script, *words], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    kept = out / ("Shop" if moment == "writing" else ".Shop.old") / "Shop.inter"
    assert kept.read_bytes() == before
    assert run(table, "--dataset=Shop", f"--data_path={out}") == 1  # puts the old folder back, refuses to replace it
    assert (out / "Shop/Shop.inter").read_bytes() == before
    assert run(table, "--dataset=Shop", f"--data_path={out}", "--overwrite") == 0  # removes what was half written
    assert sorted(path.name for path in out.iterdir()) == [".Shop.lock", "Shop"]


def nan_features(folder):
    matrix = np.ones((3, 2))
    matrix[1, 0] = np.nan
    np.save(folder / "text.npy", matrix)


def truncated_features(folder):
    (folder / "text.npy").write_bytes((folder / "text.npy").read_bytes()[:-9])


def item_names(*tokens):
    return lambda folder: (folder / "text.items.txt").write_text("".join(f"{token}\n" for token in tokens))


def written(name, content):
    return lambda folder: (folder / name).write_text(content)


def array(*shape, dtype=float):
    return lambda folder: np.save(folder / "text.npy", np.ones(shape, dtype=dtype))


def removed(name):
    return lambda folder: (folder / name).unlink()


def nothing(folder):
    pass


NPY = "--semantic_ids=text={folder}/ids.npy"
FEATURE, IDS = "--feature=text={folder}/text.npy", "--semantic_ids=text={folder}/ids.json"
BAD_RELEASED = {
    "missing feature file": (removed("text.npy"), [FEATURE], ["text.npy", "does not exist"]),
    "missing ID file": (removed("ids.json"), [IDS], ["ids.json", "does not exist"]),
    "fewer rows": (array(2, 2), [FEATURE], ["text.npy", "2 rows", "fewer", "3 items"]),
    "more rows": (array(4, 2), [FEATURE], ["text.npy", "4 rows", "more", "3 items"]),
    "one-dimensional": (array(3), [FEATURE], ["text.npy", "shape [3]", "[items, dimensions]"]),
    "no columns": (array(3, 0), [FEATURE], ["text.npy", "shape [3, 0]"]),
    "text in features": (array(3, 2, dtype=str), [FEATURE], ["text.npy", "array of numbers"]),
    "NaN": (nan_features, [FEATURE], ["text.npy", "NaN", "'B00A'"]),
    "inf in float32": (
        lambda f: np.save(f / "text.npy", np.full((3, 2), 1e300)),
        [FEATURE],
        ["text.npy", "infinite", "'B00C'"],
    ),
    "truncated features": (truncated_features, [FEATURE], ["text.npy", "not a readable .npy"]),
    "item without features": (item_names("B00C", "B00A", "B00X"), [FEATURE], ["text.items.txt", "lacks", "'B00B'"]),
    "features of an unknown item": (
        lambda f: (array(4, 2)(f), item_names(*ITEMS, "B00X")(f)),
        [FEATURE],
        ["text.items.txt", "'B00X'", "Shop.inter.json lacks"],
    ),
    "duplicate item in features": (
        item_names("B00C", "B00A", "B00A"),
        [FEATURE],
        ["text.items.txt", "'B00A'", "more than once"],
    ),
    "item names and rows differ": (item_names("B00C"), [FEATURE], ["text.npy", "3 rows", "1 items"]),
    "duplicate item": (written("Shop.item2id", "A\t0\nA\t1\n"), [], ["Shop.item2id", "'A'", "more than once"]),
    "duplicate number": (written("Shop.item2id", "A\t0\nB\t0\n"), [], ["Shop.item2id", "'0'", "more than once"]),
    "gap in numbers": (written("Shop.item2id", "A\t0\nB\t2\n"), [], ["Shop.item2id", "without gaps"]),
    "item2id without tab": (written("Shop.item2id", "A 0\n"), [], ["Shop.item2id line 1", "ASIN<tab>number"]),
    "id that reads as missing": (written("Shop.item2id", "NA\t0\nB\t1\nC\t2\n"), [], ["Shop.item2id", "'NA'", "rename"]),
    "unknown item number": (written("Shop.inter.json", '{"u": [0, 7]}'), [], ["Shop.inter.json", "'7'", "Shop.item2id lacks"]),
    "malformed JSON": (written("Shop.inter.json", '{"u": [0, 1'), [], ["Shop.inter.json", "not readable JSON"]),
    "JSON list": (written("Shop.inter.json", "[1, 2]"), [], ["Shop.inter.json", "JSON object"]),
    "duplicate user": (written("Shop.inter.json", '{"u": [0], "u": [1]}'), [], ["Shop.inter.json", "'u'", "more than once"]),
    "history that is no list": (written("Shop.inter.json", '{"u": 3}'), [], ["Shop.inter.json", "'u'", "list of item numbers"]),
    "no interactions": (written("Shop.inter.json", "{}"), [], ["Shop.inter.json", "no interactions"]),
    "rows of IDs": (lambda f: np.save(f / "ids.npy", np.zeros((2, 2), int)), [NPY], ["ids.npy has 2 rows", "3 items"]),
    "fractional IDs": (lambda f: np.save(f / "ids.npy", np.zeros((3, 2))), [NPY], ["ids.npy", "float64", "whole numbers"]),
    "negative IDs": (lambda f: np.save(f / "ids.npy", np.full((3, 2), -1)), [NPY], ["ids.npy", "whole numbers from 0"]),
    "truncated IDs": (written("ids.npy", "no array"), [NPY], ["ids.npy", "not a readable .npy file"]),
    "item without ID": (written("ids.json", '{"0": ["<a_1>"], "1": ["<a_2>"]}'), [IDS], ["ids.json", "lacks", "'B00B'"]),
    "ID of an unknown item": (
        written("ids.json", '{"0": ["<a_1>"], "1": ["<a_2>"], "2": ["<a_3>"], "9": ["<a_4>"]}'),
        [IDS],
        ["ids.json", "'9'"],
    ),
    "ID key twice": (written("ids.json", '{"0": ["<a_1>"], "0": ["<a_2>"]}'), [IDS], ["ids.json", "'0'", "more than once"]),
    "ID that is no list": (
        written("ids.json", '{"0": "<a_1>", "1": ["<a_2>"], "2": ["<a_3>"]}'),
        [IDS],
        ["ids.json", "'0'", "list of 1 to 26 codes"],
    ),
    "modality twice": (nothing, [FEATURE, FEATURE], ["--feature", "'text' twice"]),
    "no modality": (nothing, ["--feature={folder}/text.npy"], ["--feature", "MODALITY=FILE.npy"]),
    "modality with a slash": (nothing, ["--feature=../text={folder}/text.npy"], ["'../text'", "letters"]),
    "mistyped option": (nothing, ["--feture=text={folder}/text.npy"], ["'--feture'", "'--feature'"]),
    "option twice": (nothing, ["--core=3", "--core=4"], ["--core is given twice, as 3 and 4; give it once."]),
    "dataset name with a slash": (nothing, ["--dataset=a/b"], ["--dataset=a/b"]),
    "dataset of RecBole": (nothing, ["--dataset=ml-100k"], ["--dataset=ml-100k", "RecBole's package", "another name"]),
    "synthetic dataset": (nothing, ["--dataset=arts-toy"], ["--dataset=arts-toy", "synthetic", "another name"]),
    "not a CSV": (nothing, ["{folder}/ids.json"], ["unrecognized"]),
}
BAD_CSV = {
    "missing column": ("user,itme\na,1\n", [], ["log.csv", "'item'", "'itme'"]),
    "other separator": ("user,item\na,1\n", ["--field_separator=;"], ["log.csv", "'user'", "set it with --field_separator"]),
    "short row": ("user,item\na,1\nb\n", [], ["log.csv line 3", "1 values"]),
    "timestamp with an underscore": ("user,item,timestamp\na,1,1_000\n", [], ["log.csv line 2", "'1_000'"]),
    "bad timestamp": ("user,item,timestamp\na,1,soon\n", [], ["log.csv line 2", "'soon'"]),
    "empty id": ("user,item\na,\n", [], ["log.csv", "item id", "''"]),
    "empty file": ("", [], ["log.csv", "'user'"]),
    "no rows": ("user,item\n", [], ["log.csv", "no interactions"]),
    "broken quotes": ('user,item\nb,2\n"a,1\n', [], ["log.csv", "line 3", "quotes"]),
    "items that are no row numbers": (
        "user,item\na,x\n",
        ["--feature=v={folder}/five.npy"],
        ["five.npy", "'x'", "five.items.txt"],
    ),
    "fewer rows than the highest item": ("user,item\na,7\n", ["--feature=v={folder}/five.npy"], ["five.npy", "5 rows", "7"]),
    "modalities of different length": (
        "user,item\na,1\n",
        ["--feature=v={folder}/five.npy", "--feature=w={folder}/six.npy"],
        ["five.npy has 5", "six.npy has 6"],
    ),
}


def test_numbered_items_in_any_order(tmp_path):
    """Row i of a file without item names belongs to item i."""
    (tmp_path / "s.inter").write_text("user_id:token\titem_id:token\nu\t2\nu\t0\nv\t1\n")
    (tmp_path / "s.item").write_text("item_id:token\ttitle:token_seq\n1\tb\n0\ta\n2\tc\n")
    np.save(tmp_path / "text.npy", np.arange(3.0)[:, None])
    assert run(tmp_path, "--dataset=s", f"--data_path={tmp_path / 'out'}", f"--feature=text={tmp_path}/text.npy") == 0
    assert lines(tmp_path / "out/s/s.item") == ["item_id:token\ttitle:token_seq", "0\ta", "1\tb", "2\tc"]
    assert FeatureTable.load(tmp_path / "out" / "s", "text").select(["2", "0"]).tolist() == [[2], [0]]


@pytest.mark.parametrize("with_names", [False, True])
def test_features_of_items_that_core_removes_are_left_out(with_names, tmp_path):
    """Items 0 and 2 are in the 2-core, item 1 is not, and item 3 has no interactions."""
    (tmp_path / "log.csv").write_text("user,item\nu,0\nu,2\nv,2\nv,0\nw,1\n")
    np.save(tmp_path / "text.npy", np.arange(4.0)[:, None])
    (tmp_path / "ids.json").write_text(json.dumps({str(i): [f"<a_{i}>"] for i in range(4)}))
    if with_names:
        (tmp_path / "text.items.txt").write_text("0\n1\n2\n3\n")
    command = [tmp_path / "log.csv", "--dataset=s", f"--data_path={tmp_path}/out", f"--feature=text={tmp_path}/text.npy",
               f"--semantic_ids=text={tmp_path}/ids.json"]  # fmt: skip
    assert run(*command, "--core=2") == 0
    folder = tmp_path / "out" / "s"
    assert lines(folder / "s.item")[1:] == ["0", "2"]
    assert list(json.loads((folder / "semantic_ids/text.json").read_text())) == ["0", "2"]
    assert FeatureTable.load(folder, "text").select(["2", "0"]).tolist() == [[2], [0]]
    assert FeatureTable.load(folder, "text").item_tokens == ("0", "2")


def test_row_numbers_of_a_filtered_folder_are_those_before_the_filter(tmp_path):
    """Row i of an array belongs to item i of items.csv, also if the filter removes items."""
    (tmp_path / "interactions.csv").write_text("user,item,timestamp\nu,0,1\nu,2,2\nv,2,1\nv,0,2\nw,1,1\n")
    (tmp_path / "items.csv").write_text("item,title\n0,Lamp\n1,Bulb\n2,Shade\n")
    np.save(tmp_path / "text.npy", np.arange(3.0)[:, None])
    np.save(tmp_path / "ids.npy", np.arange(3)[:, None])
    files = [f"--feature=text={tmp_path}/text.npy", f"--semantic_ids=text={tmp_path}/ids.npy"]
    assert run(tmp_path, "--dataset=my lamps", f"--data_path={tmp_path}/out", "--core=2", *files) == 0
    folder = tmp_path / "out" / "my lamps"
    assert lines(folder / "my lamps.item")[1:] == ["0\tLamp", "2\tShade"]
    assert FeatureTable.load(folder, "text").select(["2", "0"]).tolist() == [[2], [0]]
    assert json.loads((folder / "semantic_ids/text.json").read_text()) == {"0": ["<a_0>"], "2": ["<a_2>"]}


def test_printed_commands_are_quoted(tmp_path):
    with pytest.raises(UserError, match="import SRC '--dataset=my lamps' '--data_path=.*/da ta'$"):
        check_dataset("my lamps", tmp_path / "da ta")


@pytest.mark.parametrize("name", ["products.csv", "items.csv.gz", "items.json", "Products.XLSX"])
def test_note_about_tables_that_are_not_read(table, tmp_path, capsys, name):
    (table / name).write_text("item,title\n3,Lamp\n")
    assert run(table, "--dataset=tiny", f"--data_path={tmp_path}/out") == 0
    note = f"note: not read: {name}; texts and images are read from items.csv beside interactions.csv"
    assert note in capsys.readouterr().out


def test_note_about_texts_beside_an_inter_file(tmp_path, capsys):
    (tmp_path / "s.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "u\t1\t1\nu\t2\t2\n")
    (tmp_path / "items.csv").write_text("item,title\n1,Lamp\n")
    assert run(tmp_path, "--dataset=s", f"--data_path={tmp_path}/out") == 0
    assert "note: not read: items.csv;" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["interactions.csv.gz", "interactions.tsv"])
def test_tables_with_other_names_are_a_one_line_error(tmp_path, capsys, name):
    (tmp_path / name).write_text("user,item,time\n")
    assert run(tmp_path, "--dataset=s", f"--data_path={tmp_path}/out") == 1
    assert "or unpack and rename tables to .csv" in capsys.readouterr().err


def test_the_reason_why_core_cannot_filter(tmp_path, capsys):
    (tmp_path / "s.inter").write_text("user_id:token\titem_id:token\nu\t2\n")
    (tmp_path / "s.item").write_text("item_id:token\n2\n")
    assert run(tmp_path, "--dataset=s", f"--data_path={tmp_path / 'out'}", "--core=2") == 1
    assert "s.inter has a catalogue of its own beside it; leave the option out" in capsys.readouterr().err


def check_refused(words, expected, tmp_path, capsys):
    assert run(*words) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    assert not [text for text in expected if text not in error], error
    out = tmp_path / "out"
    assert not out.exists() or [p.name for p in out.iterdir() if not p.name.endswith(".lock")] == []


@pytest.mark.parametrize("case", BAD_RELEASED)
def test_invalid_released_folder(case, released, tmp_path, capsys):
    spoil, options, expected = BAD_RELEASED[case]
    spoil(released)
    own = [option.format(folder=released) for option in options]
    words = [released, f"--data_path={tmp_path}/out", *own]
    if not any(option.startswith("--dataset=") for option in own):
        words.append("--dataset=Shop")
    check_refused(words, expected, tmp_path, capsys)


@pytest.mark.parametrize("case", BAD_CSV)
def test_invalid_csv(case, tmp_path, capsys):
    content, options, expected = BAD_CSV[case]
    (tmp_path / "log.csv").write_text(content)
    np.save(tmp_path / "five.npy", np.eye(5))
    np.save(tmp_path / "six.npy", np.eye(6))
    words = [tmp_path / "log.csv", "--dataset=log", f"--data_path={tmp_path}/out",
             *(option.format(folder=tmp_path) for option in options)]
    check_refused(words, expected, tmp_path, capsys)


@pytest.mark.parametrize("words, expected", [
    ([], ["import, encode, images, toy"]), (["imprt"], ["'imprt'", "'import'"]), (["import"], ["SRC", "--dataset"]),
    (["import", "nowhere", "--dataset=x"], ["nowhere", "does not exist"]), (["toy", "--datapath=x"], ["--data_path"]),
])
def test_invalid_arguments(words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(text in error for text in expected), error


def test_traceback_only_with_verbose(capsys):
    assert main(["import", "nowhere", "--dataset=x", "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("name", [needs_shared_data(name) for name in PUBLISHED])
def test_published_counts(name, tmp_path, capsys):
    assert run(SHARED_DATA / name, f"--dataset={name}", f"--data_path={tmp_path}") == 0
    users, items, interactions = PUBLISHED[name]
    assert f"{users:,} users, {items:,} items, {interactions:,} interactions" in capsys.readouterr().out


def test_word_numbers_are_converted_to_texts(table, tmp_path):
    np.save(table / "words.npy", np.array([[3, 0, 3, 1], [17, 4, 5, 4]], dtype=np.int32))
    assert run(table, "--dataset=csv", f"--data_path={tmp_path / 'out'}", "--feature", f"visual={table}/visual.npy",
               f"--words={table}/words.npy") == 0
    expected = ["item_id:token\ttitle:token_seq", "0\t4", "1\t4", "2\t", "3\t17 5", "4\t"]
    assert lines(tmp_path / "out" / "csv" / "csv.item") == expected


@pytest.mark.parametrize("words, expected", [
    (np.array([[3, 9], [1, 1]]), "'9'"),
    (np.array([[0.5], [1.0]]), "integers [2, n]"),
    (np.arange(6).reshape(3, 2), "integers [2, n]"),
    (None, "does not exist"),
])
def test_invalid_word_numbers(words, expected, table, tmp_path, capsys):
    if words is not None:
        np.save(table / "words.npy", words)
    assert run(table, "--dataset=csv", f"--data_path={tmp_path / 'out'}", "--feature", f"visual={table}/visual.npy",
               f"--words={table}/words.npy") == 1
    assert expected in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_summary_counts_a_single_user(tmp_path, capsys):
    (tmp_path / "one.csv").write_text("user,item,timestamp\nu1,a,1\nu1,b,2\n")
    assert main(["import", str(tmp_path / "one.csv"), "--dataset=one", f"--data_path={tmp_path}", "--core=0"]) == 0
    printed = capsys.readouterr().out
    assert "one: 1 user, 2 items, 2 interactions" in printed and "read: 1 user, 2 items, 2 interactions" in printed
