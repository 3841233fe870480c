"""Pretrained encoders against one text or image at a time, and the errors of loading a model."""
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps
from pretrained_models import make
from transformers import (
    AutoTokenizer,
    BertModel,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Model,
    LlamaModel,
    SiglipModel,
    T5EncoderModel,
    ViTModel,
)

from recbole_macrec.data.encoders import ModelOptions, RawItem, create_encoder, source as source_module
from recbole_macrec.data.encoders.images import read_rgb
from recbole_macrec.data.encoders.presets import PRESETS
from recbole_macrec.errors import UserError

TEXTS = [("red pen", "soft red pen for the craft of paint"), ("blue ink", ""), ("  ", "wool"), ("thread",),
         ("green paper and paint brush and hard wool " * 3, "ink"), ("unheard words", "the pen")]
ITEMS = [RawItem(f"i{n}", texts) for n, texts in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def model(folder):
    """Return the folder of a tiny model by name, written on first use."""
    return lambda name: folder / name if (folder / name).exists() else make(name, folder)


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    items = []
    for n in range(5):
        path = tmp_path / f"{n}.png"
        Image.fromarray(rng.integers(0, 255, (20 + n, 24, 4), dtype=np.uint8), "RGBA").save(path)
        items.append(RawItem(f"i{n}", image=path))
    return items


@torch.no_grad()
def text_reference(model, tokenizer, pool=lambda output: output.last_hidden_state[0].mean(0)):
    """Mean over the item's fields, one field at a time and without padding."""
    def field(text):
        return pool(model(**tokenizer(text, return_tensors="pt")))
    return torch.stack([torch.stack([field(text) for text in item.texts if text.strip()]).mean(0) for item in ITEMS]).numpy()


@pytest.mark.parametrize("limits", [{}, {"batch_size": 1}, {"batch_tokens": 40, "batch_size": 3}])
@pytest.mark.parametrize("name, cls", [("llama", LlamaModel), ("bert", BertModel), ("t5", T5EncoderModel)])
def test_batched_texts_equal_single_texts(model, name, cls, limits):
    features = create_encoder({"model": str(model(name)), **limits}, "cpu").encode(ITEMS)
    expected = text_reference(cls.from_pretrained(model(name)).eval(), AutoTokenizer.from_pretrained(model(name)))
    assert features.dtype == np.float32 and np.abs(features - expected).max() < 1e-4 and np.abs(expected).max() > 0.1


@pytest.mark.parametrize("pooling, pool", [("cls", lambda output: output.last_hidden_state[0, 0]),
                                           ("pooler", lambda output: output.pooler_output[0])])
def test_text_poolings(model, pooling, pool):
    features = create_encoder({"model": str(model("bert")), "pooling": pooling}, "cpu").encode(ITEMS)
    bert = BertModel.from_pretrained(model("bert")).eval()
    assert np.abs(features - text_reference(bert, AutoTokenizer.from_pretrained(model("bert")), pool)).max() < 1e-4


def test_long_texts_are_truncated(model):
    chosen = {"model": str(model("bert")), "max_length": 6}
    short, long = (RawItem("a", ("red blue green pen",)), RawItem("b", ("red blue green pen ink paper",)))
    features = create_encoder(chosen, "cpu").encode([short, long])
    assert np.array_equal(features[0], features[1])
    very_long = RawItem("c", ("red " * 500,))
    assert np.isfinite(create_encoder({"model": str(model("bert"))}, "cpu").encode([very_long])).all()
    with pytest.raises(UserError, match="max_length is 65, .* 64 tokens"):
        create_encoder({**chosen, "max_length": 65}, "cpu").encode([short])


def test_positions_of_roberta_begin_after_the_padding(model):
    """Also if its tokenizer sets no limit."""
    chosen = {"model": str(model("roberta"))}
    long, longer = (RawItem(name, ("red " * count,)) for name, count in (("a", 62), ("b", 500)))
    features = create_encoder(chosen, "cpu").encode([long, longer])
    assert np.array_equal(features[0], features[1]) and np.isfinite(features).all()
    with pytest.raises(UserError, match="max_length is 64, .* 63 tokens"):
        create_encoder({**chosen, "max_length": 64}, "cpu").encode([long])


def vision(output, pooling):
    return {
        "cls": output.last_hidden_state[0, 0],
        "mean": output.last_hidden_state[0].mean(0),
        "pooler": output.pooler_output[0],
    }[pooling]


@pytest.mark.parametrize("name, cls, pooling", [
    ("clip", CLIPModel, None), ("clip", CLIPModel, "pooler"), ("siglip", SiglipModel, None), ("vit", ViTModel, None),
    ("vit", ViTModel, "pooler"), ("vit", ViTModel, "mean"), ("dino", Dinov2Model, None)])
def test_batched_images_equal_single_images(model, images, name, cls, pooling):
    encoder = create_encoder({"model": str(model(name)), "pooling": pooling, "batch_size": 2}, "cpu")
    reference, processor = cls.from_pretrained(model(name)).eval(), CLIPImageProcessor.from_pretrained(model(name))
    expected = []
    for item in images:
        pixels = processor(images=read_rgb(item), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            tower = getattr(reference, "vision_model", reference)(pixel_values=pixels)
        vector = vision(tower, encoder.pooling if encoder.pooling != "projected" else "pooler")
        expected.append(reference.visual_projection(vector) if name == "clip" and pooling is None else vector)
    expected = torch.stack(expected).detach().numpy()
    features = encoder.encode(images)
    assert encoder.kind == "image" and np.abs(features - expected).max() < 1e-4 and np.abs(expected).max() > 0.1


def test_images_are_read_with_exif_orientation_on_white(tmp_path):
    pixels = np.zeros((4, 8, 4), dtype=np.uint8)
    pixels[:2, :, :] = 255
    Image.fromarray(pixels, "RGBA").save(tmp_path / "clear.png")
    assert np.asarray(read_rgb(RawItem("a", image=tmp_path / "clear.png"))).min() == 255
    lying = Image.new("RGB", (8, 4), "red")
    exif = lying.getexif()
    exif[0x0112] = 6
    lying.save(tmp_path / "lying.png", exif=exif)
    assert read_rgb(RawItem("a", image=tmp_path / "lying.png")).size == (4, 8)


@pytest.mark.parametrize("name", ["turned.png", "turned.tiff"])
def test_images_are_turned_as_pillow_does(name, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 8, 3), dtype=np.uint8)
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(tmp_path / name, exif=exif)
        expected = ImageOps.exif_transpose(Image.open(tmp_path / name))
        assert np.array_equal(read_rgb(RawItem("a", image=tmp_path / name)), expected)


def test_an_invalid_exif_tag_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    Image.new("RGB", (8, 4)).save(tmp_path / "tag.jpg", exif=exif)
    content = (tmp_path / "tag.jpg").read_bytes()
    resolution, model = b"\x01\x1a\x00\x05", b"\x01\x10\x00\x05"  # tag and type: the name of the camera is now a fraction
    assert content.count(resolution) == 1
    (tmp_path / "tag.jpg").write_bytes(content.replace(resolution, model))
    assert read_rgb(RawItem("a", image=tmp_path / "tag.jpg")).size == (4, 8)


GREY = (np.add.outer(np.arange(12), np.arange(16)) * 9).astype(np.uint8)  # [12, 16], 0 to 234
COLOUR = np.stack([GREY, 255 - GREY, np.full_like(GREY, 90)], axis=2)


def lab(colour):
    srgb, cielab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(Image.fromarray(colour), srgb, cielab, outputMode="LAB")


@pytest.mark.parametrize("image, name, expected, off", [
    (Image.fromarray(GREY), "a.png", GREY, 0),
    (Image.fromarray(GREY.astype(np.uint16) * 257), "a.png", GREY, 0),
    (Image.fromarray(GREY.astype(np.uint16) * 257), "a.tif", GREY, 0),
    (Image.fromarray(GREY.astype(np.int32)), "a.tif", GREY, 0),
    (Image.fromarray(GREY.astype(np.int32) * 257), "a.tif", GREY, 0),
    (Image.fromarray(GREY.astype(np.int32) * 10**6), "a.tif", GREY * (255 / 234), 0.5),
    (Image.fromarray(GREY.astype(np.float32) / 255), "a.tif", GREY, 0),
    (Image.fromarray(GREY.astype(np.float32)), "a.tif", GREY, 0),
    (Image.fromarray((GREY > 128) * np.uint8(255)).convert("1"), "a.png", (GREY > 128) * 255, 0),
    (Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (16, 12), 255)]), "a.png", GREY, 0),
    (Image.fromarray(COLOUR).quantize(256), "a.png", COLOUR, 0),
    (Image.fromarray(COLOUR).convert("CMYK"), "a.jpg", COLOUR, 12),
    (Image.fromarray(COLOUR).convert("CMYK"), "a.tif", COLOUR, 0),
    (Image.fromarray(COLOUR).convert("YCbCr"), "a.tif", COLOUR, 3),
    (lab(COLOUR), "a.tif", COLOUR, 3),
])
def test_images_of_every_mode_are_read_correctly(image, name, expected, off, tmp_path):
    # Pillow 12.3 writes uncompressed YCbCr files that it cannot read
    image.save(tmp_path / name, **({"compression": "tiff_lzw"} if image.mode == "YCbCr" else {}))
    got = np.asarray(read_rgb(RawItem("a", image=tmp_path / name))).astype(float)
    expected = np.broadcast_to(expected[..., None], got.shape) if expected.ndim == 2 else expected
    assert np.abs(got - expected).mean() <= off


def test_a_transparent_16_bit_grey_value_is_white(tmp_path):
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "a.png", transparency=0)
    expected = np.where(GREY == 0, 255, GREY)
    assert np.array_equal(np.asarray(read_rgb(RawItem("a", image=tmp_path / "a.png")))[..., 0], expected)


def test_errors_name_decompression_bombs_and_broken_images(model, images, monkeypatch):
    images[3].image.write_bytes(images[3].image.read_bytes()[:60])
    with pytest.raises(UserError, match="3.png of item 'i3' is unreadable"):
        create_encoder({"model": str(model("vit"))}, "cpu").encode(images)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="0.png of item 'i0' is unreadable"):
        create_encoder({"model": str(model("vit"))}, "cpu").encode(images)


def test_a_model_of_the_hub_is_identified_by_its_commit(model, tmp_path, monkeypatch):
    """The cache has the layout of the hub's client; there is no network."""
    cache, commit = tmp_path / "models--someone--tiny-bert", "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(model("bert"), cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path), raising=False)  # transformers 4
    encoder = create_encoder({"model": "someone/tiny-bert"}, "cpu")
    assert np.array_equal(encoder.encode(ITEMS), create_encoder({"model": str(model("bert"))}, "cpu").encode(ITEMS))
    assert encoder.details["revision"] == commit
    assert (encoder.settings["model"], encoder.settings["revision"]) == ("someone/tiny-bert", "main")
    with pytest.raises(UserError, match="'someone/tiny-bert' of encoders is not on this machine"):
        create_encoder({"model": "someone/tiny-bert", "revision": "v2"}, "cpu")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_image_features_are_close(model, images, precision):
    half, full = (
        create_encoder({"model": str(model("clip")), "precision": p}, "cpu").encode(images) for p in (precision, "fp32")
    )
    assert half.dtype == np.float32 and 0 < np.abs(half - full).max() < 0.2


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_text_features_are_close(model, precision):
    half, full = (
        create_encoder({"model": str(model("llama")), "precision": p}, "cpu").encode(ITEMS) for p in (precision, "fp32")
    )
    assert half.dtype == np.float32 and 0 < np.abs(half - full).max() < 0.1


@pytest.mark.parametrize("name", PRESETS)
def test_presets_of_encoders(name):
    options = ModelOptions.read({"model": name, "batch_size": 3})
    assert options.batch_size == 3 and options.pooling == PRESETS[name]["pooling"] and "/" in options.model


BAD = {
    "unknown name": ("minilml", ["'minilml'", "Did you mean 'minilm'?"]),
    "unknown key": ({"model": "x/y", "poolin": "mean"}, ["'poolin'", "Did you mean 'pooling'?"]),
    "no model": ({"pooling": "mean"}, ["model: None", "minilm"]),
    "no mapping": (7, ["7", "tfidf"]),
    "batch of zero": ({"model": "x/y", "batch_size": 0}, ["batch_size", "0"]),
    "number as revision": ({"model": "x/y", "revision": 1234567}, ["revision is 1234567; expected text or None"]),
    "length as text": ({"model": "x/y", "max_length": "long"}, ["max_length", "'long'"]),
    "unknown precision": ({"model": "x/y", "precision": "fp8"}, ["'fp8'", "bf16"]),
    "no such folder": ({"model": "/no/such/folder"}, ["/no/such/folder", "does not exist"]),
    "no such model": ({"model": "nobody/no-such-model"}, ["nobody/no-such-model", "hf download", "model: FOLDER"]),
}


@pytest.mark.parametrize("case", BAD)
def test_invalid_options(case, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    chosen, expected = BAD[case]
    with pytest.raises(UserError) as caught:
        create_encoder(chosen, "cpu")
    assert not [text for text in expected if text not in str(caught.value)], str(caught.value)


def edit_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def lose_weight(folder, part):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file({key: value for key, value in weights.items() if part not in key}, folder / "model.safetensors", {"format": "pt"})


DAMAGED = {
    "no configuration": ("bert", lambda f: (f / "config.json").unlink(), {}, ["not readable", "config.json"]),
    "code of its own": ("bert", lambda f: edit_config(f, model_type="mine", auto_map={"AutoConfig": "mine.Mine"}), {},
                        ["needs custom code", "trust_remote_code is off"]),
    "no weights": ("bert", lambda f: (f / "model.safetensors").unlink(), {}, ["not readable", "weights"]),
    "half of the weights": ("bert", lambda f: (f / "model.safetensors").write_bytes(
        (f / "model.safetensors").read_bytes()[:900]), {}, ["not readable", "weights"]),
    "a lost layer": ("bert", lambda f: lose_weight(f, "layer.1.output"), {}, ["lacks the weights", "layer.1.output"]),
    "no pooler": ("bert", lambda f: lose_weight(f, "pooler"), {"pooling": "pooler"}, ["lacks the weights", "pooling"]),
    "no first token": ("llama", lambda f: None, {"pooling": "cls"}, ["pooling: cls", "mean"]),
    "image pooling": ("llama", lambda f: None, {"pooling": "projected"}, ["'projected'", "mean, cls, pooler"]),
    "revision of a folder": ("bert", lambda f: None, {"revision": "main"}, ["revision main", "leave it out"]),
    "tokens of images": ("vit", lambda f: None, {"batch_tokens": 9}, ["batch_tokens", "image"]),
    "nothing projected": ("vit", lambda f: None, {"pooling": "projected"}, ["pooling: projected"]),
    "no image processor": ("vit", lambda f: (f / "preprocessor_config.json").unlink(), {}, ["not readable", "image processor"]),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_invalid_model_folders(case, model, images, tmp_path):
    name, damage, options, expected = DAMAGED[case]
    folder = shutil.copytree(model(name), tmp_path / "damaged")
    damage(folder)
    with pytest.raises(UserError) as caught:
        create_encoder({"model": str(folder), **options}, "cpu").encode(images if name == "vit" else ITEMS)
    assert not [text for text in expected if text not in str(caught.value)], str(caught.value)
    assert "\n" not in str(caught.value)


def test_model_without_a_pooler_supports_mean_pooling(model, tmp_path):
    folder = shutil.copytree(model("bert"), tmp_path / "headless")
    lose_weight(folder, "pooler")
    features = [create_encoder({"model": str(path)}, "cpu").encode(ITEMS) for path in (folder, model("bert"))]
    assert np.array_equal(*features)


def test_large_files_are_hashed_by_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "WHOLE", 100)
    monkeypatch.setattr(source_module, "SAMPLE", 4)
    rng = np.random.default_rng(0)
    (tmp_path / "weights.bin").write_bytes(rng.bytes(1000))
    first = source_module.content_hash(tmp_path)
    (tmp_path / "README.md").write_text("of no consequence")
    assert source_module.content_hash(tmp_path) == first
    (tmp_path / "weights.bin").write_bytes(rng.bytes(1000))
    assert source_module.content_hash(tmp_path) != first


def test_error_names_items_without_text(model):
    with pytest.raises(UserError, match=r"2 items \('x', 'y'\): empty text"):
        create_encoder({"model": str(model("bert"))}, "cpu").encode([*ITEMS, RawItem("x", ("", " ")), RawItem("y")])


@pytest.mark.parametrize("name", ["a.eps", "a.ppm", "a.ico"])
def test_unsafe_image_formats_are_rejected(name, tmp_path, monkeypatch):
    """Opening EPS would start Ghostscript, whatever the file name."""
    Image.fromarray(COLOUR).save(tmp_path / name)
    (tmp_path / name).rename(tmp_path / "a.jpg")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **kwargs: pytest.fail("Ghostscript ran"))
    with pytest.raises(
        UserError, match=r"a.jpg of item 'a' is unreadable \(it is not one of JPEG, PNG, WEBP, GIF, BMP, TIFF\)"
    ):
        read_rgb(RawItem("a", image=tmp_path / "a.jpg"))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.gif", "a.bmp", "a.tif"])
def test_common_image_formats_are_opened(name, tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / name)
    assert np.abs(np.asarray(read_rgb(RawItem("a", image=tmp_path / name))).astype(float) - COLOUR).mean() < 12
