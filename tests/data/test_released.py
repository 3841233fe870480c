"""Import of released files in the formats of MQL4GRec, MACRec, LC-Rec, LETTER, MMRec and RecBole's benchmark files."""
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import as_words, histories_of
from recbole.config import Config
from recbole.data import create_dataset

from recbole_macrec.benchmark.compare.run_command import main as command
from recbole_macrec.commands.data import main
from recbole_macrec.data.atomic import read_items
from recbole_macrec.data.features import FeatureTable, available_modalities
from recbole_macrec.errors import UserError

HISTORIES = {"0": [2, 0], "1": [0], "2": [2, 0, 2]}  # item 1 has no interactions
TEXTS = {str(i): {"title": f"Title {i}", "description": f"About {i}", "brand": "", "categories": "Craft"} for i in range(3)}
OUT = Path("out")


def ids(letters="ab"):
    return {str(i): [f"<{letters[0]}_{i}>", f"<{letters[1]}_0>"] for i in range(3)}


def run(src, *words, name="Shop") -> int:
    return main(["import", str(src), f"--dataset={name}", f"--data_path={OUT}", *map(str, words)])


def histories(name="Shop") -> dict[str, list[str]]:
    return histories_of(OUT / name / f"{name}.inter")


@pytest.fixture
def released(tmp_path) -> Path:
    folder = tmp_path / "Shop"
    folder.mkdir()
    (folder / "Shop.inter.json").write_text(json.dumps(HISTORIES))
    return folder


def named(folder):
    (folder / "Shop.item2id").write_text("B00C\t0\nB00A\t1\nB00B\t2\n")


def test_features_and_ids_of_mql4grec_and_macrec_are_detected_by_name(released, capsys):
    named(released)
    np.save(released / "Shop.emb-llama-td.npy", np.arange(6.0).reshape(3, 2))
    np.save(released / "Shop.emb-ViT-L-14.npy", 10 + np.arange(9.0).reshape(3, 3))
    (released / "Shop.index_lemb.json").write_text(json.dumps(ids()))
    (released / "Shop.index_vitemb.json").write_text(json.dumps(ids("AB")))
    assert run(released) == 0
    assert FeatureTable.load(OUT / "Shop", "text").select(["B00B"]).tolist() == [[4, 5]]
    assert FeatureTable.load(OUT / "Shop", "image").select(["B00A"]).tolist() == [[13, 14, 15]]
    found = {m: json.loads((OUT / f"Shop/semantic_ids/{m}.json").read_text())["B00A"] for m in ("text", "image")}
    assert found == {"text": ["<a_1>", "<b_0>"], "image": ["<A_1>", "<B_0>"]}
    assert "Shop.emb-ViT-L-14.npy is used for modality 'image'" in capsys.readouterr().out


def test_options_precede_detected_files_and_unknown_names_are_noted(released, capsys):
    named(released)
    np.save(released / "Shop.emb-llama-td.npy", np.zeros((3, 2)))
    np.save(released / "Shop.emb-t5-td.npy", np.ones((3, 2)))
    (released / "Shop.index_mine.json").write_text(json.dumps(ids()))
    assert run(released, "--feature", f"text={released}/Shop.emb-t5-td.npy") == 0
    assert FeatureTable.load(OUT / "Shop", "text").matrix.tolist() == np.ones((3, 2)).tolist()
    out = capsys.readouterr().out
    assert "emb-llama-td.npy is used" not in out and "emb-t5-td.npy is not used" not in out
    assert f"Shop.index_mine.json is not used, because its modality is unknown; --semantic_ids MODALITY={released}" in out


def test_lc_rec_and_letter_folders_use_item_numbers_as_tokens(released, capsys):
    (released / "Shop.item.json").write_text(json.dumps(TEXTS))
    (released / "Shop.index.json").write_text(json.dumps(ids()))
    (released / "Shop.user.json").write_text("{}")
    np.save(released / "Shop.emb-llama-td.npy", np.arange(6.0).reshape(3, 2))
    assert run(released) == 0
    assert histories() == {user: [str(item) for item in history] for user, history in HISTORIES.items()}
    items = read_items(OUT / "Shop", "Shop")
    assert items["item_id"].tolist() == ["0", "1", "2"] and items["title"].tolist() == ["Title 0", "Title 1", "Title 2"]
    assert FeatureTable.load(OUT / "Shop", "text").select(["1"]).tolist() == [[2, 3]]
    assert json.loads((OUT / "Shop/semantic_ids/text.json").read_text())["2"] == ["<a_2>", "<b_0>"]
    assert "Shop.item2id does not exist: item numbers are used as item tokens" in capsys.readouterr().out


@pytest.mark.parametrize("beside", ["ids", "features", "nothing"])
def test_catalogue_without_metadata(released, beside):
    if beside == "ids":
        (released / "Shop.index.json").write_text(json.dumps(ids()))
    if beside == "features":
        np.save(released / "Shop.emb-llama-td.npy", np.eye(3))
    assert run(released) == 0
    assert read_items(OUT / "Shop", "Shop")["item_id"].tolist() == (["0", "2"] if beside == "nothing" else ["0", "1", "2"])


@pytest.fixture
def mmrec(tmp_path) -> Path:
    folder = tmp_path / "baby"
    folder.mkdir()
    (folder / "baby.inter").write_text("userID\titemID\trating\ttimestamp\tx_label\n"
                                       "0\t2\t5.0\t30\t2\n0\t0\t4.0\t10\t0\n1\t0\t3.0\t20\t0\n")
    np.save(folder / "text_feat.npy", np.arange(6.0).reshape(3, 2))
    np.save(folder / "image_feat.npy", np.arange(12.0).reshape(3, 4))
    return folder


def test_mmrec_folder(mmrec, capsys):
    assert run(mmrec, name="baby") == 0
    assert histories("baby") == {"0": ["0", "2"], "1": ["0"]}
    assert list(available_modalities(OUT / "baby")) == ["image", "text"]
    assert FeatureTable.load(OUT / "baby", "image").select(["1"]).tolist() == [[4, 5, 6, 7]]
    assert read_items(OUT / "baby", "baby")["item_id"].tolist() == ["0", "1", "2"]
    assert "x_label of baby.inter is not used" in capsys.readouterr().out


SEQUENCES = {"u": ["a", "b", "c", "d", "a"], "v": ["c", "a", "d"], "w": ["b", "c", "d", "a", "b", "c"]}


def write_benchmark(folder: Path, longest: int = 3) -> Path:
    """Write leave-one-out files with a row for every prefix, histories truncated to the last ``longest`` items."""
    folder.mkdir(parents=True)
    parts = {"train": [], "valid": [], "test": []}
    for user, items in SEQUENCES.items():
        for end in range(1, len(items)):
            part = {1: "test", 2: "valid"}.get(len(items) - end, "train")
            parts[part].append(f"{user}\t{' '.join(items[max(0, end - longest):end])}\t{items[end]}")
    for part, rows in parts.items():
        (folder / f"Shop.{part}.inter").write_text(
            "\n".join(["user_id:token\titem_id_list:token_seq\titem_id:token", *rows]) + "\n"
        )
    (folder / "Shop.item").write_text("item_id:token\ttitle:token_seq\tprice:float\n"
                                      + "".join(f"{item}\tThe {item}\t1.5\n" for item in "dcba"))
    return folder


def test_histories_are_reconstructed_from_benchmark_files(tmp_path):
    assert run(write_benchmark(tmp_path / "bench")) == 0
    assert histories() == SEQUENCES
    items = read_items(OUT / "Shop", "Shop")
    assert (
        items["item_id"].tolist() == list("dcba")
        and items["title"][0] == "The d"
        and list(items) == ["item_id", "title", "price"]
    )


def test_atomic_files_of_recbole(tmp_path):
    folder = write_benchmark(tmp_path / "atomic")
    (folder / "Shop.inter").write_text("item_id:token\tuser_id:token\ttimestamp:float\na\tu\t2\nb\tu\t1\n")
    assert run(folder) == 0
    assert histories() == {"u": ["b", "a"]}


def edit(name, old, new):
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new, 1))


BAD = {
    "contradicting rows": (
        edit("Shop.train.inter", "u\ta b\tc", "u\tb b\tc"),
        ["Shop.train.inter line 3", "'u'", "--benchmark_filename"],
    ),
    "two test rows": (
        edit("Shop.test.inter", "v\tc a\td\n", "v\tc a\td\nv\tc a d\tb\n"),
        ["Shop.test.inter", "'v' more than once"],
    ),
    "user without test row": (
        edit("Shop.test.inter", "v\tc a\td\n", ""),
        ["Shop.test.inter lacks", "'v'", "--benchmark_filename"],
    ),
    "missing part": (lambda folder: (folder / "Shop.valid.inter").unlink(), ["Shop.valid.inter", "does not exist"]),
    "no histories": (edit("Shop.valid.inter", "item_id_list", "items"), ["Shop.valid.inter", "no column item_id_list"]),
    "short row": (edit("Shop.test.inter", "v\tc a\td", "v\tc a"), ["Shop.test.inter line 3", "2 values"]),
    "item without a row": (edit("Shop.item", "a\tThe a\t1.5\n", ""), ["Shop.item lacks", "'a'"]),
}


@pytest.mark.parametrize("case", BAD)
def test_invalid_benchmark_files(case, tmp_path, capsys):
    folder = write_benchmark(tmp_path / "bench")
    spoil, expected = BAD[case]
    spoil(folder)
    refused(folder, expected, capsys)


BAD_RELEASED = {
    "two text features": (
        lambda f: [np.save(f / f"Shop.emb-llama-{m}.npy", np.eye(3)) for m in ("t", "td")],
        ["Shop.emb-llama-t.npy", "Shop.emb-llama-td.npy", "'text'", "--feature"],
    ),
    "fewer features than items": (
        lambda f: np.save(f / "Shop.emb-ViT-L-14.npy", np.eye(2)),
        ["Shop.emb-ViT-L-14.npy", "2 rows"],
    ),
    "no item2id and ids that are no numbers": (
        edit("Shop.item.json", '"1"', '"B00A"'),
        ["Shop.item.json", "'B00A'", ".item2id"],
    ),
    "gap in the numbers": (edit("Shop.item.json", '"1"', '"7"'), ["Shop.item.json", "without gaps"]),
    "item of another release": (edit("Shop.inter.json", "0, 2]", "0, 9]"), ["Shop.inter.json", "'9'", "Shop.item.json lacks"]),
    "damaged metadata": (edit("Shop.item.json", "}", ""), ["Shop.item.json", "not readable JSON"]),
}


@pytest.mark.parametrize("case", BAD_RELEASED)
def test_invalid_released_folders(case, released, capsys):
    (released / "Shop.item.json").write_text(json.dumps(TEXTS))
    spoil, expected = BAD_RELEASED[case]
    spoil(released)
    refused(released, expected, capsys)


BAD_MMREC = {
    "item beyond the features": (
        edit("baby.inter", "0\t2\t", "0\t8\t"),
        ["image_feat.npy", "3 rows", "highest item number is 8"],
    ),
    "features of different length": (
        lambda f: np.save(f / "text_feat.npy", np.eye(4)),
        ["image_feat.npy has 3", "text_feat.npy has 4"],
    ),
    "no item column": (edit("baby.inter", "itemID", "product"), ["baby.inter", "no column 'item'"]),
}


@pytest.mark.parametrize("case", BAD_MMREC)
def test_invalid_mmrec_folders(case, mmrec, capsys):
    spoil, expected = BAD_MMREC[case]
    spoil(mmrec)
    refused(mmrec, expected, capsys)


def refused(src, expected, capsys):
    assert run(src) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    assert not [text for text in expected if text not in error], error
    assert not OUT.exists() or not [path for path in OUT.iterdir() if path.suffix != ".lock"]


def direct(tmp_path, model="TIGER", **options):
    """Return RecBole's dataset of benchmark files that are used without import, with features beside them."""
    folder = tmp_path / "data/Shop"
    if not folder.exists():
        write_benchmark(folder)
        rng = np.random.default_rng(0)
        for modality in ("text", "image"):
            FeatureTable(tuple("dcba"), rng.standard_normal((4, 5)).astype(np.float32)).save(folder, modality)
    settings = {
        "data_path": str(tmp_path / "data"),
        "benchmark_filename": ["train", "valid", "test"],
        "modalities": ["text"],
        **({} if model == "MISSRec" else {"quantizer": "rq_kmeans", "codebook_size": 2, "codebook_levels": 3}),
        "topk": [1, 3],
        "valid_metric": "NDCG@3",
        "state": "ERROR",
        **options,
    }
    config = Config(model, "Shop", config_dict=settings)
    dataset = create_dataset(config)
    return dataset, dataset.build()


@pytest.mark.parametrize("model", ["TIGER", "SASRec", "GRU4Rec"])
def test_benchmark_files_with_other_column_names(model, tmp_path):
    """Every model reads the newest items of a history, whatever the columns are called."""
    direct(tmp_path)
    for path in (tmp_path / "data/Shop").glob("Shop.*"):
        path.write_text(path.read_text().replace("item_id", "pid"))
    _, (_, _, test) = direct(tmp_path, model, ITEM_ID_FIELD="pid", MAX_ITEM_LIST_LENGTH=2, load_col=None)
    assert test.inter_feat["pid_list"].shape[1] == 2 and test.inter_feat["item_length"].max() == 2


@pytest.mark.parametrize("model", ["TIGER", "MISSRec"])
def test_benchmark_files_are_read_without_import(model, tmp_path):
    dataset, parts = direct(tmp_path, model, MAX_ITEM_LIST_LENGTH=2)
    rows = [[], [], []]
    for part, found in zip(parts, rows):
        for user, history, length, item in zip(
            *(part.inter_feat[f] for f in ("user_id", "item_id_list", "item_length", "item_id"))
        ):
            assert history.shape == (2,) and not history[length:].any()
            past = dataset.id2token("item_id", history[:length].numpy()).tolist()
            found.append((str(dataset.id2token("user_id", int(user))), past, str(dataset.id2token("item_id", int(item)))))
    assert ("w", ["d", "a"], "b") in rows[1] and ("w", ["a", "b"], "c") in rows[2] and len(rows[1]) == len(rows[2]) == 3
    assert sorted(rows[0]) == sorted((user, items[max(0, end - 2):end], items[end])
                                     for user, items in SEQUENCES.items() for end in range(1, len(items) - 2))


@pytest.mark.parametrize("model", ["TIGER", "MISSRec", "GRU4Rec"])
def test_empty_histories_are_rejected(model, tmp_path):
    direct(tmp_path, model)
    path = tmp_path / "data/Shop/Shop.test.inter"
    user, _, *rest = path.read_text().splitlines()[1].split("\t")
    with path.open("a") as file:
        file.write("\t".join([user, "", *rest]) + "\n")
    with pytest.raises(UserError, match=f"user {user} has no item"):
        direct(tmp_path, model)


def training_pairs(dataset) -> set:
    matrix = dataset.training_interactions()
    users, items = matrix.nonzero()
    assert matrix.sum() == len(users)  # each pair counts once, although it is in the histories of several rows
    return set(zip(dataset.id2token("user_id", users), dataset.id2token("item_id", items)))


def test_training_interactions_equal_those_of_the_training_file(tmp_path):
    before = training_pairs(direct(tmp_path)[0])
    # v's first item is in no training row: its two rows are validation and test
    assert before == {(user, item) for user in "uw" for item in SEQUENCES[user][:-2]}
    for part in ("valid", "test"):
        file = tmp_path / f"data/Shop/Shop.{part}.inter"
        file.write_text(file.read_text().splitlines()[0] + "\nu\tc c\td\nv\tb b\tb\n")
    assert training_pairs(direct(tmp_path)[0]) == before


@pytest.mark.parametrize("model", ["TIGER", "MISSRec"])
def test_training_interactions_contain_histories_whose_prefixes_have_no_row(model, tmp_path):
    direct(tmp_path)
    file = tmp_path / "data/Shop/Shop.train.inter"
    header, *rows = file.read_text().splitlines()
    longest = {row.split("\t")[0]: row for row in sorted(rows, key=lambda row: len(row.split("\t")[1]))}  # one row per user
    file.write_text("\n".join([header, *longest.values()]) + "\n")
    assert training_pairs(direct(tmp_path, model)[0]) == {(user, item) for user in "uw" for item in SEQUENCES[user][:-2]}


def test_features_from_interactions_use_only_the_training_file(tmp_path):
    options = {"modalities": ["interactions"], "encoders": {"interactions": "cooccurrence"}}
    direct(tmp_path, **options)
    first = FeatureTable.load(tmp_path / "data/Shop", "interactions").matrix.copy()
    for part, same in (("test", True), ("valid", True), ("train", False)):
        file = tmp_path / f"data/Shop/Shop.{part}.inter"
        file.write_text(file.read_text().splitlines()[0] + "\nu\tc\td\n")
        direct(tmp_path, **options)
        assert np.array_equal(FeatureTable.load(tmp_path / "data/Shop", "interactions").matrix, first) == same


def test_benchmark_files_without_histories_are_rejected(tmp_path):
    folder = write_benchmark(tmp_path / "data/Shop")
    FeatureTable(tuple("dcba"), np.eye(4, dtype=np.float32)).save(folder, "text")
    for part in ("train", "valid", "test"):
        (folder / f"Shop.{part}.inter").write_text("user_id:token\titem_id:token\nu\ta\n")
    with pytest.raises(UserError, match="no column item_id_list:token_seq"):
        direct(tmp_path)


@pytest.mark.parametrize("model", ["MACRec", "TIGER"])
def test_benchmark_files_give_test_results(model, tmp_path, capsys):
    direct(tmp_path)
    modalities = ["text", "image"] if model == "MACRec" else ["text"]
    small = {
        "modalities": modalities,
        "quantizer": "rq_kmeans",
        "codebook_size": 2,
        "codebook_levels": 3,
        "epochs": 1,
        "d_model": 8,
        "d_ff": 16,
        "num_heads": 1,
        "d_kv": 8,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "num_beams": 4,
        "topk": [1, 4],
        "valid_metric": "NDCG@4",
        "show_progress": False,
    }
    words = as_words(small)
    assert command([f"--model={model}", "--dataset=Shop", f"--data_path={tmp_path / 'data'}",
                    "--benchmark_filename=['train','valid','test']", "--result_file=result.json", *words]) == 0
    assert json.loads(Path("result.json").read_text())["test_result"]["hit@4"] == 1  # of four items
