"""Double quotes in atomic files written without quoting: items and titles are unchanged."""
import csv

import pandas as pd
import pytest
from conftest import TINY, write_tiny_dataset
from recbole.config import Config
from recbole.data import create_dataset

from recbole_macrec.data.atomic import read_items
from recbole_macrec.data.importers.importer import ImportRequest, import_dataset
from recbole_macrec.data.quoting import quoting

TITLES = {  # title of i3, and of i9 where both matter
    "inch": ['19" lamp arm'],
    "a word in quotes": ['"Aurora" floor lamp'],
    "one opening quote": ['"Aurora floor lamp'],
    "two opening quotes": ['"Aurora floor lamp', '"Borealis floor lamp'],
    "an opening and a closing quote": ['"Aurora floor lamp', 'Borealis floor lamp"'],
}


@pytest.mark.parametrize("titles", TITLES.values(), ids=TITLES)
def test_import_and_run_keep_items_and_titles_with_quotes(titles, tmp_path):
    data_path = write_tiny_dataset(tmp_path / "src")
    file = data_path / TINY / f"{TINY}.item"
    text = file.read_text()
    for item, title in zip((3, 9), titles):
        text = text.replace(f"\tcraft item {item}\t", f"\t{title}\t")
    file.write_text(text)
    import_dataset(ImportRequest(data_path / TINY), TINY, tmp_path / "data")
    for folder in (tmp_path / "src", tmp_path / "data"):
        items = read_items(folder / TINY, TINY).set_index("item_id")["title"]
        assert len(items) == 30 and [items["i3"], items["i9"]][: len(titles)] == titles
        columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]}
        config = Config("SASRec", TINY, config_dict={"data_path": str(folder), "load_col": columns, "state": "ERROR",
                                                     "train_neg_sample_args": None})
        dataset = create_dataset(config)
        assert dataset.item_num == 31
        words = dataset.id2token("title", dataset.item_feat["title"][dataset.token2id("item_id", "i3")])
        assert [word for word in words if word != "[PAD]"] == titles[0].split()


@pytest.mark.parametrize("separator, rows, expected", [
    ("\t", ["a\tb", '1\t"x"', '2\ty "z"'], csv.QUOTE_MINIMAL),  # complete, and a quote inside a field
    ("\t", ["a\tb", '1\t"x ""y"" z"'], csv.QUOTE_MINIMAL),
    ("\t", ["a\tb", '1\t"x"', '2\t"y'], csv.QUOTE_NONE),
    (",", ["a,b", '1,"x, y"', '2,"z"'], csv.QUOTE_MINIMAL),  # a separator in quotes
    ("\t", ["a\tb", '1\t"x', 'y"', "2\tz"], csv.QUOTE_MINIMAL),  # a line break in quotes
    ("\t", ["a\tb", '1\t"x" y', "2"], csv.QUOTE_NONE),  # lines of different lengths that no rule of CSV explains
])
def test_detected_quoting(separator, rows, expected, tmp_path):
    file = tmp_path / "a.item"
    file.write_text("\n".join(rows) + "\n")
    assert quoting(file, separator) == expected
    if expected == csv.QUOTE_MINIMAL:
        assert len(pd.read_csv(file, sep=separator)) == len([row for row in rows if row[0] in "12"])
