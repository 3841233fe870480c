"""Raw catalogues: filtering against a simple reference, written files, and errors."""
import gc
import gzip
import json
import os
import random
import shutil
import signal
import tracemalloc
from contextlib import closing
from pathlib import Path, PurePath

import numpy as np
import pytest
from conftest import PUBLISHED, SHARED_DATA, needs_shared_data
from helpers import histories_of
from PIL import Image
from raw_shop import CATEGORY, brute_force, read_2018, read_2023, write_2018, write_2023
from recbole.config import Config
from recbole.data import create_dataset

from recbole_macrec.commands.data import main
from recbole_macrec.data import atomic
from recbole_macrec.data.atomic import read_items
from recbole_macrec.data.encoders.content import ItemContent
from recbole_macrec.data.encoders.encode import load_or_encode
from recbole_macrec.data.encoders.images import SUFFIXES
from recbole_macrec.data.importers.find_source import read_source
from recbole_macrec.data.importers.raw import amazon, lines, manifest
from recbole_macrec.data.importers.raw.amazon import read_amazon
from recbole_macrec.data.importers.raw.catalogue import FilterOptions
from recbole_macrec.data.importers.raw.filter_source import filter_source
from recbole_macrec.data.importers.raw.filtering import Interactions, earliest, in_time_order, k_core
from recbole_macrec.data.importers.raw.find import find_raw
from recbole_macrec.data.importers.raw.folder import ItemTable
from recbole_macrec.data.importers.raw.lines import LONGEST, LineCounts, parse_lines
from recbole_macrec.data.importers.raw.records import Records
from recbole_macrec.data.importers.raw.text import plain_text
from recbole_macrec.errors import UserError


@pytest.fixture
def raw(tmp_path) -> Path:
    return write_2018(tmp_path / "raw")


def run(src, *words, name="Instruments") -> int:
    return main(["import", str(src), f"--dataset={name}", "--data_path=out", *words])


def histories(folder: Path) -> dict[str, list[str]]:
    """User -> items of the one .inter file."""
    return histories_of(next(folder.glob("*.inter")))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("write, read", [(write_2018, read_2018), (write_2023, read_2023)], ids=["2018", "2023"])
def test_counts_and_histories_equal_a_simple_reference(write, read, tmp_path):
    source = write(tmp_path / "raw")
    assert run(source) == 0
    steps, expected = brute_force(*read(source), core=5)
    written = json.loads(Path("out/Instruments/manifest.json").read_text())
    assert [(step["users"], step["items"], step["interactions"]) for step in written["steps"]] == steps
    assert len(set(steps)) == 5 and steps[-1][2] > 100  # every step removes something from the fixture
    assert histories(Path("out/Instruments")) == expected
    reviews = next(path.name for path in source.iterdir() if not path.name.startswith("meta_"))
    assert written["category"] == CATEGORY and written["lines"][reviews]["broken"] >= 5


@pytest.mark.parametrize("seed", range(20))
def test_filter_equals_a_simple_reference(seed):
    rng = random.Random(seed)
    rows = [(rng.randrange(9), rng.randrange(7), float(rng.randrange(4))) for _ in range(rng.randrange(1, 90))]
    core = rng.randrange(5)
    interactions = Interactions(*(np.array(column) for column in zip(*rows)))
    once = interactions.take(earliest(interactions))
    left = once.take(k_core(once, core))
    left = left.take(in_time_order(left))
    everything = set(range(7))
    steps, expected = brute_force(rows, everything, everything, core)
    found = {}
    for user, item in zip(left.users.tolist(), left.items.tolist()):
        found.setdefault(user, []).append(item)
    assert (len(once.users), len(left.users)) == (steps[1][2], steps[-1][2]) and found == expected


def test_recbole_shows_histories_in_the_order_of_the_filter(raw):
    assert run(raw) == 0
    config = Config("SASRec", "Instruments", config_dict={
        "data_path": "out", "train_neg_sample_args": None, "state": "ERROR", "MAX_ITEM_LIST_LENGTH": 99,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}})
    dataset = create_dataset(config)
    test = dataset.build()[2]
    seen = {}
    columns = (test.inter_feat[field] for field in ("user_id", "item_id_list", "item_length", "item_id"))
    for user, items, length, target in zip(*columns):
        numbers = [*items[:length].tolist(), int(target)]
        seen[dataset.id2token("user_id", int(user))] = dataset.id2token("item_id", numbers).tolist()
    assert seen == histories(Path("out/Instruments"))


def test_item_columns(raw):
    assert run(raw) == 0
    folder = Path("out/Instruments")
    items = read_items(folder, "Instruments").set_index("item_id")
    assert list(items) == ["title", "description", "brand", "categories", "class", "image"]
    assert list(items.index) == list(dict.fromkeys(item for history in histories(folder).values() for item in history))
    assert items.loc["B0008"].tolist() == ["Guitar 8", "Made of wood & steel Tab here", "Acme & Sons", "Music", "Music",
                                           "images/B0008.jpg"]
    assert items.loc["B0001", "title"] == "" and items.loc["B0002", "title"] == ""  # missing; a script
    urls = json.loads((folder / "image_urls.json").read_text())
    assert list(urls) == list(items.index) and urls["B0001"] == [f"https://shop.example/B0001-{i}.jpg" for i in (0, 1)]
    assert urls["B0005"] == ["https://shop.example/B0005-again.jpg"] and items.loc["B0005", "title"] == "Again"
    assert urls["B0008"] == ["https://shop.example/B0008-0.jpg"]  # the first entry is used
    assert (folder / "images").is_dir()


def test_options_change_the_filter(raw):
    assert run(raw, "--core=0", "--require_image=False") == 0
    reviews, described, _ = read_2018(raw)
    steps, expected = brute_force(reviews, described, described, core=0)
    assert histories(Path("out/Instruments")) == expected
    assert "" in set(read_items(Path("out/Instruments"), "Instruments")["image"])


def test_a_repeated_import_does_nothing(raw, capsys):
    assert run(raw) == 0
    folder = Path("out/Instruments")
    before, times = contents(folder), {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    first = capsys.readouterr().out
    assert run(raw) == 0
    again = capsys.readouterr().out
    assert contents(folder) == before and {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    assert set(first.splitlines()) < set(again.splitlines()) and "nothing to do" in again
    for words in (["--core=4"], ["--require_image=False"]):
        assert run(raw, *words) == 1 and "other options" in capsys.readouterr().err
    assert run(raw, "--overwrite") == 0 and contents(folder) == before
    (folder / "Instruments.item").write_text("spoilt")
    assert run(raw) == 1 and "Instruments.item is missing or was changed" in capsys.readouterr().err
    shutil.rmtree(folder)
    assert run(raw) == 0 and contents(folder) == before
    (raw / f"{CATEGORY}.csv").write_text((raw / f"{CATEGORY}.csv").read_text(errors="ignore") + "B0001,U1,1.0,1\n")
    assert run(raw) == 1 and "other files" in capsys.readouterr().err and contents(folder) == before


STAGES = {
    "checking sources": (manifest, "_fingerprint"),
    "reading reviews": (amazon, "read_reviews"),
    "k-core": (amazon, "k_core"),
    "keeping records": (Records, "put"),
    "writing interactions": (atomic, "write"),
    "writing items": (atomic, "write_rows"),
    "writing the manifest": (manifest, "write"),
    "swapping": (os, "rename"),
}


def killed(raw, stage, moment):
    """Import, and kill the process at ``moment`` (before or after) of the stage."""
    owner, function = STAGES[stage]
    real = getattr(owner, function)

    def die(*args, **kwargs):
        if moment == "after":
            real(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, function, die)
    run(raw, name="cut")


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("stage", STAGES)
def test_import_after_a_kill_at_any_stage_gives_the_same_files(stage, moment, raw, process_pool):
    assert run(raw, name="whole") == 0
    expected = {name.replace("whole", "cut"): content for name, content in contents(Path("out/whole")).items()}
    assert process_pool.exit_codes((killed, raw, stage, moment)) == [-signal.SIGKILL]
    assert not Path("out/cut").exists() or (stage, moment) == ("swapping", "after")
    assert run(raw, name="cut") == 0
    found = contents(Path("out/cut"))
    manifests = [json.loads(part.pop("manifest.json").decode().replace("whole", "cut")) for part in (found, expected)]
    assert found == expected and manifests[0] == manifests[1]
    assert sorted(path.name for path in Path("out").iterdir()) == [".cut.lock", ".whole.lock", "cut", "whole"]


def test_memory_does_not_grow_with_the_metadata(tmp_path):
    def peak(unreviewed):
        files = find_raw(write_2018(tmp_path / str(unreviewed), unreviewed=unreviewed), "Instruments")
        gc.collect()
        tracemalloc.start()
        with closing(Records(tmp_path)) as records:
            read_amazon(files, FilterOptions(5, True), records)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)  # without memory allocated on first use
    small, large = peak(1000), peak(20_000)  # 5 MB of metadata
    assert large < small + 1_000_000


def test_lines_that_are_too_long_are_skipped(tmp_path):
    path = tmp_path / "x.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.writelines([b"first\n", b"x" * (2 * LONGEST + 5), b"\n", b"last\n"])
    counts = LineCounts()
    assert list(parse_lines(path, bytes.strip, counts)) == [b"first", b"last"] and counts == LineCounts(3, 1, 2)


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "UNPACKED", 2**20)
    monkeypatch.setattr(lines, "LONGEST", 2**16)
    for name, line in (("long.gz", b"x"), ("short.gz", b"xxxxxxxxxxxxxxxxxxxx\n")):
        with gzip.open(tmp_path / name, "wb") as file:
            file.write(line * (2**24 // len(line)))
        with pytest.raises(UserError, match=f"{name} unpacks to more than 100 times its size"):
            list(parse_lines(tmp_path / name, bytes.strip, LineCounts()))


def test_uncompressed_files_and_headers_are_read(raw, tmp_path):
    assert run(raw) == 0
    expected = histories(Path("out/Instruments"))
    other = tmp_path / "other"
    other.mkdir()
    (other / f"meta_{CATEGORY}.json").write_bytes(gzip.decompress((raw / f"meta_{CATEGORY}.json.gz").read_bytes()))
    rows_with_header = b"item,user,rating,timestamp\n" + (raw / f"{CATEGORY}.csv").read_bytes()
    (other / f"{CATEGORY}.csv.gz").write_bytes(gzip.compress(rows_with_header))
    assert run(other, name="other") == 0
    assert histories(Path("out/other")) == expected
    assert json.loads(Path("out/other/manifest.json").read_text())["lines"][f"{CATEGORY}.csv.gz"]["broken"] == 7


def test_category_by_name_or_option(raw, capsys):
    write_2018(raw, "Video_Games")
    for name, words, expected in (("Games", [], "Video_Games"), ("mine", ["--category=Instruments"], CATEGORY),
                                  ("Video_Games", [], "Video_Games"), ("other", ["--category=Video_Games"], "Video_Games")):
        assert run(raw, *words, name=name) == 0
        assert json.loads(Path(f"out/{name}/manifest.json").read_text())["category"] == expected
    assert run(raw, name="shop") == 1 and "choose one with --category" in capsys.readouterr().err
    assert run(raw, "--category=Video_Gmes", name="shop") == 1 and "Did you mean 'Video_Games'" in capsys.readouterr().err
    for path in raw.glob("*Video_Games*"):
        path.unlink()
    assert run(raw, name="Arts") == 1 and "choose one with --category" in capsys.readouterr().err  # not under another name
    assert run(raw, name="one") == 0


def cut_archive(folder):
    path = folder / f"meta_{CATEGORY}.json.gz"
    path.write_bytes(path.read_bytes()[:-200])


def spoil(name, content):
    return lambda folder: (folder / name.format(CATEGORY)).write_bytes(content)


BAD = {
    "truncated archive": (cut_archive, [], ["meta_", "not a complete gzip file", "download it again"]),
    "no archive": (spoil("meta_{}.json.gz", b"<html>"), [], ["not a complete gzip file"]),
    "mostly broken": (spoil("{}.csv", b"user;item\n" * 9), [], [f"{CATEGORY}.csv", "9 broken lines of 9", "line 1"]),
    "empty": (spoil("{}.csv", b"\n\n"), [], ["is empty"]),
    "no reviews": (lambda folder: (folder / f"{CATEGORY}.csv").unlink(), [], [f"neither {CATEGORY}.csv nor {CATEGORY}.csv.gz"]),
    "both releases": (lambda folder: write_2023(folder), [], ["2018 and of 2023"]),
    "other category": (spoil("{}.csv", b"Z1,U1,5.0,1\n"), [], ["has no item"]),
    "nothing left": (lambda folder: None, ["--core=99"], ["99-core: 0", "lower --core or set --require_image=False"]),
    "negative core": (lambda folder: None, ["--core=-1"], ["--core=-1"]),
    "features without names": (lambda folder: np.save(folder / "text.npy", np.eye(3)), ["--feature=text=raw/text.npy"],
                               ["text.npy", "text.items.txt"]),
}


@pytest.mark.parametrize("case", BAD)
def test_invalid_catalogue(case, raw, capsys, monkeypatch):
    monkeypatch.chdir(raw.parent)
    damage, options, expected = BAD[case]
    damage(raw)
    refused(raw, options, expected, capsys)


def refused(src, options, expected, capsys, name="Instruments"):
    assert run(src, *options, name=name) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    assert not [text for text in expected if text not in error], error
    assert not Path("out").exists() or not [path for path in Path("out").iterdir() if path.suffix != ".lock"]


def test_reviews_of_2023_without_metadata(tmp_path, capsys):
    (write_2023(tmp_path / "raw") / f"meta_{CATEGORY}.jsonl.gz").unlink()
    refused(tmp_path / "raw", [], [f"put meta_{CATEGORY}.jsonl.gz beside it"], capsys)


@pytest.fixture
def shop(tmp_path) -> Path:
    folder = tmp_path / "shop"
    (folder / "photos").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.PNG")):
        Image.new("RGB", (8, 8), (i * 200, 9, 9)).save(folder / "photos" / name)
    (folder / "interactions.csv").write_text("user,item,timestamp\nu,x/1,2\nu,x/2,1\nv,x/1,1\nv,x/1,3\nw,x/3,1\n")
    (folder / "items.csv").write_text(
        'id,title,image,note\nx/3,Three,https://shop.example/3.png,"a < b, said ""I"""\n'
        "x/1,One &amp; <b>only</b><br>19&quot;,photos/a.png,\nx/2,Two,photos/../photos/b.PNG,\nx/4,Four,,\n"
    )
    return folder


def test_plain_folder(shop, capsys):
    assert run(shop, name="shop") == 0
    folder = Path("out/shop")
    assert histories(folder) == {"u": ["x/2", "x/1"], "v": ["x/1", "x/1"], "w": ["x/3"]}  # nothing is filtered
    items = read_items(folder, "shop")
    assert items.columns.tolist() == ["item_id", "title", "note", "image"]
    assert items["item_id"].tolist() == ["x/3", "x/1", "x/2", "x/4"] and items["note"][0] == 'a < b, said "I"'
    assert items["title"].tolist() == ["Three", 'One & only 19"', "Two", "Four"]  # as texts of raw Amazon files
    assert items["image"].tolist() == ["images/x%2F3.jpg", "images/x%2F1.png", "images/x%2F2.png", ""]
    assert (folder / "images/x%2F1.png").read_bytes() == (shop / "photos/a.png").read_bytes()
    assert json.loads((folder / "image_urls.json").read_text()) == {"x/3": ["https://shop.example/3.png"]}
    text = load_or_encode(ItemContent(folder, "shop"), ["text"], {"text": "tfidf"})["text"]
    assert text.item_tokens == ("x/1", "x/2", "x/3", "x/4")
    assert run(shop, name="shop") == 0 and "nothing to do" in capsys.readouterr().out
    Image.new("RGB", (8, 8)).save(shop / "photos/a.png")
    assert run(shop, name="shop") == 1 and "other files" in capsys.readouterr().err


def test_other_files_beside_a_plain_folder_are_ignored(shop):
    (shop / "export.jsonl").write_text("{}\n")
    assert run(shop, name="shop") == 0


def test_json_lines_that_are_not_of_amazon(tmp_path, capsys):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/interactions.jsonl").write_text('{"user": "u", "item": "a"}\n')
    refused(tmp_path / "shop", [], ["read as Amazon Reviews; write other data as interactions.csv and items.csv"], capsys)


def test_an_import_with_other_columns_is_not_a_repetition(tmp_path, capsys):
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "interactions.csv").write_text("user,sku,ean\nu,a,1\nu,b,2\n")
    (folder / "items.csv").write_text("sku,ean,title\na,1,One\nb,2,Two\n")
    assert run(folder, "--ITEM_ID_FIELD=sku", name="shop") == 0
    assert run(folder, "--ITEM_ID_FIELD=ean", name="shop") == 1 and "other options" in capsys.readouterr().err
    assert run(folder, "--ITEM_ID_FIELD=sku", name="shop") == 0 and "nothing to do" in capsys.readouterr().out
    assert run(folder, "--ITEM_ID_FIELD=ean", "--overwrite", name="shop") == 0
    assert read_items(Path("out/shop"), "shop")["item_id"].tolist() == ["1", "2"]


def test_item_table_without_the_column_of_the_option(shop, capsys):
    (shop / "interactions.csv").write_text("user,sku\nu,x/1\n")
    message = "items.csv has no column 'sku', which --ITEM_ID_FIELD names, in its first line (id, title, image, note)"
    refused(shop, ["--ITEM_ID_FIELD=sku"], [message], capsys, name="shop")


def test_item_table_with_the_item_column_of_published_files(tmp_path, capsys):
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "interactions.csv").write_text("user,product_id\nu,a\nu,b\n")
    (folder / "items.csv").write_text("product_id,title\na,One\nb,Two\n")
    assert run(folder, name="shop") == 0
    assert "items.csv: column product_id is read as the item; --ITEM_ID_FIELD sets another column" in capsys.readouterr().out
    assert read_items(Path("out/shop"), "shop").columns.tolist() == ["item_id", "title"]


def test_images_are_found_by_the_names_of_items(tmp_path, capsys):
    folder = tmp_path / "shop"
    (folder / "images").mkdir(parents=True)
    (folder / "interactions.csv").write_text("user,item\nu,a\nu,b\n")
    (folder / "items.csv").write_text("item,title\na,One\nb,Two\n")
    for name in ("a.JPEG", "zebra.png"):
        Image.new("RGB", (8, 8)).save(folder / "images" / name)
    assert run(folder, name="shop") == 0
    assert read_items(Path("out/shop"), "shop")["image"].tolist() == ["images/a.jpeg", ""]
    assert (Path("out/shop/images/a.jpeg")).read_bytes() == (folder / "images/a.JPEG").read_bytes()
    out = capsys.readouterr().out
    assert "features: none yet; a run encodes them from the columns of shop.item: title, image" in out
    assert "1 item ('b') has no image" in out and "images/ has 1 image ('zebra') named after no item" in out
    Image.new("RGB", (8, 8)).save(folder / "images/a.png")
    assert run(folder, name="twice") == 1 and "images has 1 image ('a') with more than one suffix" in capsys.readouterr().err


def test_error_lists_all_unusable_images_and_texts(tmp_path, capsys):
    folder = tmp_path / "shop"
    (folder / "images/d").mkdir(parents=True)
    (folder / "interactions.csv").write_text("user,item\nu,a\nu,b\nu,c\nu,d\n")
    (folder / "items.csv").write_text("item,title\na,One\nb,\U0001f680\nc,\nd,Four\n")
    Image.new("RGB", (8, 8)).save(folder / "images/a.png")
    for name in ("b.jpg", "c.png", "d.svg"):
        (folder / "images" / name).write_text("<html>404 Not Found</html>")
    assert run(folder, name="shop") == 0
    out = capsys.readouterr().out
    assert "2 items ('b', 'c') have an unreadable image" in out and "missing_images is mean" in out
    assert "images/ has 2 entries ('d', 'd.svg') skipped" in out and "1 item ('d') has no image" in out
    assert "2 items ('b', 'c') have no word in title" in out


def test_images_are_not_compared_with_each_other(shop, monkeypatch):
    (shop / "images").mkdir()
    for n in range(40):
        (shop / f"images/x{n}.png").touch()
    (shop / "images/notes.txt").touch()
    (shop / "items.csv").write_text("item,title\nx/1,One\n")
    compared, equal = [], PurePath.__eq__
    monkeypatch.setattr(PurePath, "__eq__", lambda path, other: compared.append(path) or equal(path, other))
    table = ItemTable(shop / "items.csv", {})
    assert table.skipped == ["notes.txt"] and len(table.unmatched_images(set())) == 40
    assert len(compared) < 40


@pytest.mark.parametrize("column", [True, False], ids=["column", "named after items"])
def test_images_of_all_suffixes(column, tmp_path, capsys):
    folder = tmp_path / "shop"
    (folder / "images").mkdir(parents=True)
    images = [f"i{n}{suffix}" for n, suffix in enumerate(SUFFIXES)]
    for n, image in enumerate(images):
        Image.new("RGB", (8, 8), (30 * n, 9, 9)).save(folder / "images" / image)
    rows = [Path(image).stem + (f",images/{image}" if column else "") for image in images]
    (folder / "items.csv").write_text("\n".join(["item,image" if column else "item", *rows]))
    (folder / "interactions.csv").write_text("user,item\nu,i0\nu,i1\n")
    assert run(folder, name="shop") == 0
    assert "note: images/" not in capsys.readouterr().out
    assert read_items(Path("out/shop"), "shop")["image"].tolist() == [f"images/{image}" for image in images]
    tables = load_or_encode(ItemContent(Path("out/shop"), "shop"), ["image"], {"image": "pixels"})
    assert len(tables["image"].item_tokens) == len(images) and {".tif", ".tiff"} < set(SUFFIXES)


def test_note_about_one_unreadable_image(shop, capsys):
    (shop / "photos/a.png").write_text("no image")
    assert run(shop, name="shop") == 0
    assert "1 item ('x/1') has an unreadable image" in capsys.readouterr().out


def test_usual_column_names_are_read_in_any_case(shop, capsys):
    (shop / "items.csv").write_text("Item,Title,DESCRIPTION,Category,Note\nx/1,One,red,A,n\nx/2,Two,blue,B,n\nx/3,Three,,A,n\n")
    assert run(shop, name="shop") == 0
    out, items = capsys.readouterr().out, read_items(Path("out/shop"), "shop")
    assert items.columns.tolist() == ["item_id", "title", "description", "category", "Note", "class"]
    assert items["class"].tolist() == ["A", "B", "A"]
    assert "note: items.csv: column Title is imported as title" in out and "columns of shop.item: title, description\n" in out
    assert load_or_encode(ItemContent(Path("out/shop"), "shop"), ["text"], {"text": "tfidf"})
    (shop / "items.csv").write_text("item,title,Title\nx/1,One,\nx/2,Two,\nx/3,Three,\n")
    assert run(shop, name="both") == 0
    assert read_items(Path("out/both"), "both").columns.tolist() == ["item_id", "title", "Title"]


def test_categories_of_the_column_class_are_separated(shop):
    (shop / "items.csv").write_text('item,title,class\nx/1,One,"Lamps, Table lamps"\nx/2,Two,Wool Red_yarn\nx/3,Three,\n')
    assert run(shop, name="shop") == 0
    assert read_items(Path("out/shop"), "shop")["class"].tolist() == ["Lamps Table_lamps", "Wool Red_yarn", ""]


def test_note_about_texts_that_a_run_does_not_read(shop, capsys):
    (shop / "items.csv").write_text("item,name,category\nx/1,One,A\nx/2,Two,B\nx/3,Three,A\n")
    assert run(shop, name="shop") == 0
    out = capsys.readouterr().out
    assert "features: none\n" in out and "no column title or description" in out
    assert "--text_fields=\"['name', 'category']\"" in out
    with pytest.raises(UserError, match=r"no column title or description .*--text_fields .* columns: name, category, class"):
        load_or_encode(ItemContent(Path("out/shop"), "shop"), ["text"], {"text": "tfidf"})
    encode = ["encode", "shop", "--data_path=out", "--modality=text", "--encoder=tfidf"]
    assert main([*encode, "--text_fields=['name', 'category']"]) == 0 and main([*encode, "--text_fields=name,category"]) == 0


def test_note_about_a_column_without_a_name(shop, capsys):
    (shop / "interactions.csv").write_text(",user,item,rating\n0,u,x/1,5\n1,u,x/2,4\n")
    assert run(shop, name="shop") == 0
    assert "interactions.csv: columns that are not imported: one without a name, rating\n" in capsys.readouterr().out


def test_note_about_images_to_download(shop, capsys):
    assert run(shop, name="shop") == 0
    command = "python -m recbole_macrec.data images shop --data_path=out"
    assert f"note: images named by a URL: 1; download them with: {command}\n" in capsys.readouterr().out
    (shop / "items.csv").write_text("item,title,image\nx/1,One,photos/a.png\nx/2,Two,\nx/3,Three,\n")
    assert run(shop, name="local") == 0 and "download" not in capsys.readouterr().out


def test_plain_folder_filtered(shop, capsys):
    assert run(shop, "--core=1", "--require_image=True", name="shop") == 0
    assert histories(Path("out/shop")) == {"u": ["x/2", "x/1"], "v": ["x/1"], "w": ["x/3"]}
    assert run(shop, "--require_image=True", name="all") == 0
    assert read_items(Path("out/all"), "all")["item_id"].tolist() == ["x/3", "x/1", "x/2"]
    assert run(shop / "interactions.csv", "--core=2", name="bare") == 1  # 'v' has one item twice: there is no 2-core
    assert "no interactions left" in (error := capsys.readouterr().err) and "require_image" not in error
    assert run(shop / "interactions.csv", "--core=0", name="bare") == 0
    assert histories(Path("out/bare"))["v"] == ["x/1"]


def test_a_csv_file_beside_an_items_csv(shop, capsys):
    assert run(shop / "interactions.csv", name="bare") == 0
    out = capsys.readouterr().out
    assert "items.csv beside it is not read, because SRC is a file" in out and f"give the folder {shop}" in out


def link_out(folder):
    (folder.parent / "secret.png").write_bytes(b"secret")
    (folder / "photos/link.png").symlink_to("../../secret.png")


def rows(*lines):
    return lambda folder: (link_out(folder), (folder / "items.csv").write_text("item,title,image\n" + "\n".join(lines) + "\n"))


BAD_FOLDER = {
    "image above the folder": (rows("x/1,a,../secret.png"), ["items.csv", "'x/1'", "outside"]),
    "image behind a link": (rows("x/1,a,photos/link.png"), ["outside"]),
    "image elsewhere": (rows("x/1,a,/etc/logo.png"), ["outside"]),
    "missing image": (rows("x/1,a,photos/none.png", "x/2,b,photos/a.png", "x/3,c,photos/no.png"),
                      ["photos/none.png of item 'x/1', photos/no.png of item 'x/3'", "do not exist"]),
    "image that is none": (rows("x/1,a,interactions.csv"), ["interactions.csv", ".jpg"]),
    "item without a row": (rows("x/1,a,", "x/2,b,"), ["items.csv lacks", "'x/3'"]),
    "item twice": (rows("x/1,a,", "x/1,b,"), ["'x/1'", "more than once"]),
    "short row": (rows("x/1,a"), ["items.csv line 2", "2 values"]),
    "no id column": (lambda folder: (folder / "items.csv").write_text("itme,title\n1,a\n"), ["items.csv", "'item'", "itme"]),
    "two separators": (lambda folder: (folder / "items.csv").write_text("item;title, long\n1;a\n"),
                       ["items.csv", "'item'", "--field_separator"]),
    "empty file": (lambda folder: (folder / "items.csv").write_text(""), ["items.csv", "is empty"]),
    "column with a space": (lambda folder: (folder / "items.csv").write_text("item,my title\n1,a\n"), ["'my title'", "rename"]),
    "no rows": (rows(), ["no items"]),
}


def test_images_of_items_with_long_ids(shop):
    local, remote = "\u706f" * 40, "https://shop.example/" + "lamp" * 50
    (shop / "interactions.csv").write_text(f"user,item\nu,{local}\nu,{remote}\n")
    (shop / "items.csv").write_text(f"item,image\n{local},photos/a.png\n{remote},https://shop.example/3.png\n")
    assert run(shop, name="shop") == 0
    images = read_items(Path("out/shop"), "shop")["image"].tolist()
    assert Path("out/shop", images[0]).is_file() and not Path("out/shop", images[1]).exists() and images[1].endswith(".jpg")


@pytest.mark.parametrize("name", ["Instruments", "Arts", "Games"])
def test_own_items_cannot_be_imported_as_a_published_catalogue(name, shop, capsys):
    refused(shop, [], [f"--dataset={name}", "another name", f"'my-{name.lower()}'"], capsys, name)


@pytest.mark.parametrize("case", BAD_FOLDER)
def test_invalid_plain_folder(case, shop, capsys):
    spoiled, expected = BAD_FOLDER[case]
    spoiled(shop)
    refused(shop, [], expected, capsys, name="shop")


def test_a_second_item_column_is_refused(shop, capsys):
    (shop / "items.csv").write_text("item_id,sku,title\n1,x/1,One\n2,x/2,Two\n3,x/3,Three\n")
    (shop / "interactions.csv").write_text("user,sku\nu,x/1\nu,x/2\nv,x/3\n")
    message = "items.csv has a column item_id in addition to the item column sku"
    refused(shop, ["--ITEM_ID_FIELD=sku"], [message], capsys, name="shop")


def test_features_of_numbered_items_are_joined_by_number(tmp_path):
    (tmp_path / "interactions.csv").write_text("user,item\na,1\na,0\n")
    (tmp_path / "items.csv").write_text("item,title\n2,c\n0,a\n1,b\n")
    np.save(tmp_path / "text.npy", np.eye(3))
    assert run(tmp_path, f"--feature=text={tmp_path}/text.npy", name="n") == 0
    assert Path("out/n/features/text.items.txt").read_text().split() == ["0", "1", "2"]
    assert read_items(Path("out/n"), "n")["title"].tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("words, expected", [
    (["--core=5"], ["--core=5", "released"]), (["--require_image=True"], ["--require_image"]),
    (["--category=Arts"], ["--category=Arts", "none"])])
def test_options_that_a_released_folder_cannot_use(words, expected, tmp_path, capsys):
    source = tmp_path / "released"
    source.mkdir()
    (source / "A.inter.json").write_text('{"u": [0]}')
    (source / "A.item2id").write_text("X\t0\n")
    refused(source, words, expected, capsys)


def test_write_rows_equals_write(tmp_path):
    rows = [[f"i{i}", ('a "quoted" word', "", "NA", "it's", '"')[i % 5]] for i in range(9000)]
    atomic.write(tmp_path / "a", dict(zip(("item_id:token", "title:token_seq"), map(list, zip(*rows)))))
    atomic.write_rows(tmp_path / "b", ["item_id:token", "title:token_seq"], iter(rows))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("value, expected", [
    ("<p>a<br>b</p>  c", "a b c"), ("&lt;b&gt;x&lt;/b&gt; &amp;amp; y", "x & y"), ("2 < 3 & 4", "2 < 3 & 4"),
    (["a", None, "b\n"], "a b"),
    ("a<script>var x = '<p>';</script>b<style>p {}</style>", "a b"), ("half \ud83d", "half ?"), ("nul\0bell\a", "nul bell"),
    ("Sale <![ 50% off", "Sale <![ 50% off"), ("wow <!b> <![if-x]>", "wow <!b> <![if-x]>"),
    ("a <![CDATA[b]]>c", "a c"), ("<![if IE]>a<![endif]>", "a"),
    (None, ""), (float("nan"), ""), ({}, ""), ("w<b>or</b>d", "word")])
def test_plain_text(value, expected):
    assert plain_text(value) == expected


@pytest.mark.parametrize("name", [needs_shared_data(name) for name in PUBLISHED])
def test_released_catalogues_pass_the_filter_unchanged(name):
    source = read_source(SHARED_DATA / name, name, {})
    before = (source.users[:], source.items[:], set(source.catalogue))
    steps = filter_source(source, 5)
    assert [tuple(step[1:]) for step in steps] == 3 * [PUBLISHED[name]]
    assert (source.users, source.items, set(source.catalogue)) == before
    source = read_source(SHARED_DATA / name, name, {})
    assert filter_source(source, 6)[-1].interactions < PUBLISHED[name][2]  # their 6-core is smaller: the filter has an effect
