"""Feature tables, encoders and the encoding of missing modalities."""
import json
import os
import shutil
import weakref

import numpy as np
import pytest
from PIL import Image
from pretrained_models import make

from recbole_macrec.data import atomic
from recbole_macrec.data.encoders import RawItem, create_encoder, encode, pixels
from recbole_macrec.data.encoders.content import ItemContent
from recbole_macrec.data.encoders.encode import Encoding, encode_missing, load_or_encode
from recbole_macrec.data.encoders.tfidf import Tfidf
from recbole_macrec.data.features import FeatureTable, available_modalities
from recbole_macrec.errors import UserError

ENCODERS = {"text": "tfidf", "image": "pixels"}
TITLES = ["red pen", "blue pen", "red ink", "blue paper", "green thread", "wool"]


@pytest.fixture
def folder(tmp_path):
    """A dataset folder of six items with titles and one-colour images."""
    folder = tmp_path / "shop"
    (folder / "images").mkdir(parents=True)
    tokens = [f"i{n}" for n in range(len(TITLES))]
    atomic.write(folder / "shop.item", {"item_id:token": tokens, "title:token_seq": TITLES,
                                        "image:token": [f"images/{token}.png" for token in tokens]})
    for n, token in enumerate(tokens):
        image = np.full((20, 30, 3), 255, dtype=np.uint8)
        image[5:15, 5 + n : 20, n % 3] = 0
        Image.fromarray(image).save(folder / f"images/{token}.png")
    return folder


def table(tokens="abc", width=2):
    return FeatureTable(tuple(tokens), np.arange(len(tokens) * width, dtype=np.float32).reshape(-1, width))


def test_loaded_table_equals_the_saved_one(tmp_path):
    table().save(tmp_path, "text")
    loaded = FeatureTable.load(tmp_path, "text")
    assert loaded.item_tokens == ("a", "b", "c") and loaded.matrix.dtype == np.float32
    assert np.array_equal(loaded.matrix, table().matrix)
    assert available_modalities(tmp_path) == {"text": tmp_path / "features/text.npy"}
    assert sorted(path.name for path in (tmp_path / "features").iterdir()) == ["text.items.txt", "text.npy"]


def test_select_joins_by_item_token():
    assert table().select(["c", "a"]).tolist() == [[4, 5], [0, 1]]
    with pytest.raises(UserError, match=r"2 items \('x', 'y'\)"):
        table().select(["a", "x", "y"])


@pytest.mark.parametrize("spoil, expected", [
    (lambda f: (f / "text.npy").unlink(), "text.npy does not exist"),
    (lambda f: (f / "text.items.txt").unlink(), "text.items.txt does not exist"),
    (lambda f: (f / "text.npy").write_bytes((f / "text.npy").read_bytes()[:-3]), "not a readable .npy"),
    (lambda f: (f / "text.npy").write_bytes(b""), "not a readable .npy"),
    (lambda f: np.save(f / "text.npy", np.array([{}, 1, 2], dtype=object)), "not a readable .npy"),
    (lambda f: np.save(f / "text.npy", np.ones(3)), r"shape \[3\]"),
    (lambda f: np.save(f / "text.npy", np.ones((4, 2))), "4 rows but .* 3 items"),
    (lambda f: np.save(f / "text.npy", np.array([[1.0], [np.inf], [np.nan]])), r"2 items \('b', 'c'\)"),
    (lambda f: (f / "text.items.txt").write_text("a\nb\na\n"), "'a'.* more than once"),
    (lambda f: (f / "text.items.txt").write_text("a\n\nb\n"), "line 2 is empty"),
    (lambda f: (f / "text.items.txt").write_bytes(b"a\n\xff\nb\n"), "UTF-8"),
])
def test_damaged_features_are_rejected(tmp_path, spoil, expected):
    table().save(tmp_path, "text")
    spoil(tmp_path / "features")
    with pytest.raises(UserError, match=expected):
        FeatureTable.load(tmp_path, "text")


def test_encoded_features_are_reused_until_the_content_changes(folder, monkeypatch):
    first = load_or_encode(ItemContent(folder, "shop"), ["image", "text"], ENCODERS)
    assert list(first) == ["image", "text"]
    encoded = []
    monkeypatch.setattr(encode, "create_encoder", lambda *chosen: encoded.append(chosen) or create_encoder(*chosen))
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "features").glob("*.npy")}
    again = load_or_encode(ItemContent(folder, "shop"), ["text", "image"], ENCODERS)
    assert all(np.array_equal(first[m].matrix, again[m].matrix) for m in first)
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    shutil.copy(folder / "images/i0.png", folder / "images/i1.png")
    changed = load_or_encode(ItemContent(folder, "shop"), ["text", "image"], ENCODERS)
    assert np.array_equal(first["text"].matrix, changed["text"].matrix)
    assert not np.array_equal(first["image"].matrix, changed["image"].matrix)
    assert np.allclose(changed["image"].matrix[0], changed["image"].matrix[1], atol=1e-5)


def test_other_images_of_equal_size_and_time_are_encoded(folder):
    """As a dataset has that was unpacked from an archive with fixed times."""
    for n in range(len(TITLES)):
        for name, colour in ((f"i{n}", (40 * n, 0, 0)), (f"j{n}", (0, 0, 40 * n))):
            path = folder / f"images/{name}.png"
            Image.new("RGB", (8, 8), colour).save(path, format="BMP")
            os.utime(path, (1e9, 1e9))
    first = load_or_encode(ItemContent(folder, "shop"), ["image"], ENCODERS)["image"].matrix
    rewrite("images/i", "images/j")(folder)
    assert not np.array_equal(load_or_encode(ItemContent(folder, "shop"), ["image"], ENCODERS)["image"].matrix, first)


def test_unknown_text_columns_after_an_encoding(folder):
    load_or_encode(ItemContent(folder, "shop"), ["text"], ENCODERS)
    with pytest.raises(UserError, match=r"text.npy was encoded from other columns and shop.item has no column name to encode"):
        load_or_encode(ItemContent(folder, "shop", ["name"]), ["text"], ENCODERS)


def test_a_warning_names_a_missing_text_column(folder, caplog):
    load_or_encode(ItemContent(folder, "shop"), ["text"], ENCODERS)
    assert not caplog.messages  # there is no column description, which is read by default if it exists
    load_or_encode(ItemContent(folder, "shop", ["title", "heading"]), ["text"], ENCODERS)
    assert caplog.messages == ["shop.item has no column heading, which text_fields names: texts are read only from title "
                               "(other columns: none)"]


def test_an_interrupted_encoding_is_repeated(folder, monkeypatch):
    whole = encode_missing(ItemContent(folder, "shop"), "text", "tfidf")
    shutil.rmtree(folder / "features")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            encode_missing(ItemContent(folder, "shop"), "text", "tfidf")
    assert available_modalities(folder) == {}
    assert np.array_equal(encode_missing(ItemContent(folder, "shop"), "text", "tfidf").matrix, whole.matrix)


def test_imported_features_are_never_replaced(folder):
    tokens = tuple(f"i{n}" for n in range(6))
    FeatureTable(tokens, np.ones((6, 3), dtype=np.float32)).save(folder, "text")
    assert load_or_encode(ItemContent(folder, "shop"), ["text"], ENCODERS)["text"].matrix.shape == (6, 3)


@pytest.mark.parametrize("name", ["tfidf", "pixels"])
def test_encoders_are_deterministic_and_distinguish_items(folder, name):
    items = [RawItem(f"i{n}", (text,), folder / f"images/i{n}.png") for n, text in enumerate(TITLES)]
    first, second = create_encoder(name).encode(items), create_encoder(name).encode(items)
    assert first.dtype == np.float32 and first.shape[0] == 6 and np.array_equal(first, second)
    assert len(np.unique(first.round(4), axis=0)) == 6


def test_tfidf_weights_are_computed_once(monkeypatch):
    computed, weights = [], Tfidf._weights
    monkeypatch.setattr(Tfidf, "_weights", lambda encoder, items: computed.append(items) or weights(encoder, items))
    Tfidf().encode([RawItem(f"i{n}", (text,)) for n, text in enumerate(TITLES)])
    assert len(computed) == 1


def test_the_reason_of_an_item_with_rare_words_only():
    items = [*(RawItem(f"i{n}", ("red pen",)) for n in range(4)), RawItem("rare", ("zyxnorb",)), RawItem("none", ("?!",))]
    assert Tfidf(max_terms=3).unusable(items) == {
        "rare": "no word among the 3 most frequent words and word pairs of all texts", "none": "no words in the text"}


def test_pixels_keeps_few_images_in_memory(folder, monkeypatch):
    references, alive, read = [], [], pixels.read_small

    def watched(item):
        image = read(item)
        references.append(weakref.ref(image))
        alive.append(sum(reference() is not None for reference in references))
        return image

    monkeypatch.setattr(pixels, "read_small", watched)
    pixels.Pixels().encode([RawItem(f"i{n}", image=folder / f"images/i{n}.png") for n in range(6)])
    assert len(alive) == 6 and max(alive) <= 2


def test_encoders_accept_a_single_item(folder):
    item = RawItem("i0", ("pen",), folder / "images/i0.png")
    for name in ("tfidf", "pixels"):
        assert np.isfinite(create_encoder(name).encode([item])).all()


def test_texts_such_as_nan_are_not_missing_values(folder):
    items = folder / "shop.item"
    items.write_text(items.read_text().replace("wool", "NA"))
    assert len(load_or_encode(ItemContent(folder, "shop"), ["text"], ENCODERS)["text"].matrix) == 6


def rewrite(old, new):
    return lambda folder: (folder / "shop.item").write_text((folder / "shop.item").read_text().replace(old, new))


BAD = {
    "no dataset": (shutil.rmtree, "text", ENCODERS, ["does not exist", "recbole_macrec.data import"]),
    "no .item": (lambda f: (f / "shop.item").unlink(), "text", ENCODERS, ["shop.item", "recbole_macrec.data import"]),
    "empty .item": (lambda f: (f / "shop.item").write_text(""), "text", ENCODERS, ["shop.item", "not a readable"]),
    "no id column": (rewrite("item_id", "iid"), "text", ENCODERS, ["shop.item", "item_id:token"]),
    "item twice": (rewrite("i1\t", "i0\t"), "text", ENCODERS, ["shop.item", "'i0'", "more than once"]),
    "no text column": (
        rewrite("title", "name"),
        "text",
        ENCODERS,
        ["title or description", "features/text.npy", "--feature text"],
    ),
    "no image column": (
        rewrite("image:", "photo:"),
        "image",
        ENCODERS,
        ["column image", "features/image.npy", "--feature image"],
    ),
    "no encoder": (lambda f: None, "sound", ENCODERS, ["'sound'", "features/sound.npy", "sound.items.txt", "--feature sound"]),
    "unknown encoder": (lambda f: None, "text", {"text": "tfdif"}, ["'tfdif'", "'tfidf'"]),
    "empty text": (rewrite("blue pen", '""'), "text", ENCODERS, ["'i1'", "empty text", "text_fields"]),
    "no words": (rewrite("wool", "?!"), "text", ENCODERS, ["'i5'", "no words"]),
    "no words at all": (
        lambda f: atomic.write(f / "shop.item", {"item_id:token": ["a", "b"], "title:token_seq": ["?", "!"]}),
        "text",
        ENCODERS,
        ["'a', 'b'", "no words"],
    ),
    "no image named": (rewrite("images/i2.png", '""'), "image", ENCODERS, ["'i2'", "no image"]),
    "missing image": (lambda f: (f / "images/i2.png").unlink(), "image", ENCODERS, ["'i2'", "no file", "i2.png"]),
    "not an image": (lambda f: (f / "images/i3.png").write_text("<html>"), "image", ENCODERS, ["'i3'", "i3.png", "unreadable"]),
    "truncated image": (
        lambda f: (f / "images/i4.png").write_bytes((f / "images/i4.png").read_bytes()[:60]),
        "image",
        ENCODERS,
        ["'i4'", "i4.png", "unreadable"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_invalid_item_files(case, folder):
    spoil, modality, encoders, expected = BAD[case]
    spoil(folder)
    with pytest.raises(UserError) as caught:
        load_or_encode(ItemContent(folder, "shop"), [modality], encoders)
    assert not [text for text in expected if text not in str(caught.value)], str(caught.value)
    assert available_modalities(folder) == {}


def without_words(folder):
    rewrite("wool", "\U0001f680")(folder)
    rewrite("blue pen", '""')(folder)


def without_pixels(folder):
    (folder / "images/i5.png").write_text("<html>404 Not Found</html>")
    (folder / "images/i1.png").unlink()


@pytest.mark.parametrize("modality, chosen, spoil", [("text", "tfidf", without_words), ("text", "bert", without_words),
                                                     ("image", "pixels", without_pixels), ("image", "vit", without_pixels)])
def test_unusable_items_are_listed_or_get_the_mean(folder, tmp_path, caplog, modality, chosen, spoil):
    chosen = {"model": str(make(chosen, tmp_path))} if chosen in ("bert", "vit") else chosen
    intact = load_or_encode(ItemContent(folder, "shop"), [modality], {modality: chosen})[modality]
    shutil.rmtree(folder / "features")
    spoil(folder)
    if isinstance(chosen, dict) and modality == "text":  # a word that the tokenizer does not know is a token
        (folder / "shop.item").write_text((folder / "shop.item").read_text().replace("\U0001f680", '""'))
    with pytest.raises(UserError) as caught:
        load_or_encode(ItemContent(folder, "shop"), [modality], {modality: chosen})
    assert all(f"'{token}'" in str(caught.value) for token in ("i1", "i5"))
    assert f"missing_{modality}s: mean" in str(caught.value)
    found = load_or_encode(ItemContent(folder, "shop"), [modality], {modality: chosen}, Encoding([modality]))[modality]
    others = found.select(["i0", "i2", "i3", "i4"])
    assert np.allclose(found.select(["i1", "i5"]), others.mean(axis=0), atol=1e-6)
    if isinstance(chosen, dict):  # a pretrained model looks at one item alone
        assert np.allclose(others, intact.select(["i0", "i2", "i3", "i4"]), atol=1e-5)
    assert "2 of 6 items get the mean" in caplog.text
    with pytest.raises(UserError, match="'i1'"):  # also after an encoding with the mean
        load_or_encode(ItemContent(folder, "shop"), [modality], {modality: chosen})


def test_failed_refresh_keeps_the_old_features(folder):
    load_or_encode(ItemContent(folder, "shop"), ["image"], ENCODERS)
    before = (folder / "features/image.npy").read_bytes()
    (folder / "images/i3.png").write_text("broken")
    with pytest.raises(UserError):
        load_or_encode(ItemContent(folder, "shop"), ["image"], ENCODERS)
    assert (folder / "features/image.npy").read_bytes() == before
    assert json.loads((folder / "features/image.encoded.json").read_text())["encoder"] == "pixels"


@pytest.mark.parametrize("encoders", [{}, {"txt": "minilm"}])
def test_features_of_other_texts_are_not_read_without_their_encoder(encoders, folder):
    first = load_or_encode(ItemContent(folder, "shop"), ["text"], ENCODERS)["text"]
    assert np.array_equal(load_or_encode(ItemContent(folder, "shop"), ["text"], encoders)["text"].matrix, first.matrix)
    file = folder / "shop.item"
    file.write_text(file.read_text().replace("pen", "paper"))
    with pytest.raises(UserError, match="encoded by tfidf from other texts .*; name an encoder of 'text' in encoders"):
        load_or_encode(ItemContent(folder, "shop"), ["text"], encoders)
    assert not np.array_equal(load_or_encode(ItemContent(folder, "shop"), ["text"], ENCODERS)["text"].matrix, first.matrix)
