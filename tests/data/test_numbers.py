"""Numeric columns: one-line errors for values that RecBole cannot read, and cleaning of prices in the import."""
from pathlib import Path

import pytest
from conftest import TINY
from recbole.config import Config
from recbole.data import create_dataset

from recbole_macrec import UserError
from recbole_macrec.commands.data import main
from recbole_macrec.data.atomic import read_items

COLUMNS = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "price"]}


def put(data_path: Path, price: str, kind: str = "float") -> Path:
    """Give item i7, line 9 of the item file, another price."""
    path = data_path / TINY / f"{TINY}.item"
    lines = path.read_text().replace("price:float", f"price:{kind}", 1).splitlines()
    lines[8] = lines[8].replace("\t7.5\t", f"\t{price}\t")
    path.write_text("\n".join(lines) + "\n")
    return path


def load(data_path: Path, model: str, **options):
    return create_dataset(Config(model, TINY, config_dict={"data_path": str(data_path), "load_col": COLUMNS, "state": "ERROR",
                                                           "modalities": ["text"], **options}))


@pytest.mark.parametrize("model", ["TIGER", "SASRec", "Pop"])
@pytest.mark.parametrize("price, kind", [("—", "float"), ("$1,299.00", "float"), ("about 5", "float"), ("1 —", "float_seq")])
def test_error_names_a_price_that_recbole_cannot_read(tiny_dataset, model, price, kind):
    put(tiny_dataset, price, kind)
    options = {"train_neg_sample_args": None} if model == "SASRec" else {}
    with pytest.raises(UserError) as error:
        load(tiny_dataset, model, **options)
    seen = str(error.value)
    assert f"tiny.item line 9 has '{price}' as price of item 'i7'" in seen and "expected a number" in seen


def in_every_line(end: bytes):
    return lambda content: content.replace(b"\n", end + b"\n")


def in_the_first_line(old: bytes, new: bytes):
    return lambda content: content.replace(old, new, 1)


UNREADABLE = {
    "bytes of latin-1 at the start": (in_the_first_line(b"\n", b"\n\xfc\ti1\t1\n"),
                                      "not a readable atomic file .*utf-8.*set encoding"),
    "bytes of latin-1 at the end": (lambda content: content + 900 * b"u1\ti1\t9999999999\n" + b"\xfc\ti1\t1\n",
                                    "not a readable atomic file .*utf-8.*set encoding"),
    "a separator at the end of lines": (lambda content: in_every_line(b"\t")(content).replace(b"\t\n", b"\n", 1),
                                        "4 values in line 2, but 3 columns"),
    "a row with one value more": (in_the_first_line(b"u0\ti2\t1\n", b"u0\ti2\t5\t1\n"),
                                  "4 values in line 3, but 3 columns"),
    "a row with one value more in a file with quotes": (
        lambda content: content.replace(b"u0", b'"u\t0"').replace(b"i2\t1\n", b"i2\t5\t1\n", 1),
        "4 values in line 3, but 3 columns"),
    "a column without a type": (in_the_first_line(b"user_id:token", b"user_id"), "column 'user_id' .*user_id:token"),
    "a repeated column": (in_every_line(b"\ttimestamp:float"), r"1 column \('timestamp'\) more than once"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_errors_of_unreadable_interactions_are_one_sentence(tiny_dataset, case):
    path, (spoil, expected) = tiny_dataset / TINY / f"{TINY}.inter", UNREADABLE[case]
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match=f"tiny.inter .*{expected}"):
        load(tiny_dataset, "Pop")


def test_separators_within_quotes_are_part_of_a_value(tiny_dataset):
    path = tiny_dataset / TINY / f"{TINY}.inter"
    path.write_text(path.read_text().replace("u0\t", '"u\t\t\t0\n"\t'))
    assert "u\t\t\t0\n" in load(tiny_dataset, "Pop").field2id_token["user_id"]


def test_an_unknown_encoding_is_named(tiny_dataset):
    with pytest.raises(UserError, match="tiny.inter is not a readable atomic file .*unknown encoding: utf9.*set encoding"):
        load(tiny_dataset, "Pop", encoding="utf9")


def test_line_numbers_of_errors_count_blank_lines(tiny_dataset):
    path = put(tiny_dataset, "—")
    path.write_text(path.read_text().replace("\n", "\n\n", 1))
    with pytest.raises(UserError, match="line 10 has '—'"):
        load(tiny_dataset, "Pop")


def test_error_names_a_timestamp_that_recbole_cannot_read(tiny_dataset):
    path = tiny_dataset / TINY / f"{TINY}.inter"
    path.write_text(path.read_text().replace("u0\ti2\t1\n", "u0\ti2\tnoon\n", 1))
    with pytest.raises(UserError, match="tiny.inter line 3 has 'noon' as timestamp of item 'i2'"):
        load(tiny_dataset, "Pop")


@pytest.mark.parametrize("price", ["", "1e3", "NA", "-0.5"])
def test_values_that_recbole_reads_are_unchanged(tiny_dataset, price):
    put(tiny_dataset, price)
    assert load(tiny_dataset, "Pop").item_feat["price"].notna().all()


@pytest.mark.parametrize(
    "price, plain, said",
    [
        ("$1,299.00", "1299.00", "price of 1 item ('i7') is cleaned, the first is '$1,299.00' to '1299.00'"),
        ("1,299", "1299", "cleaned"),
        ("€ 5", "5", "cleaned"),
        ("5.50 €", "5.50", "cleaned"),
        ("-$3", "-3", "cleaned"),
        ("—", "", "price of 1 item ('i7') is left empty, the first is '—'"),
        ("N/A", "", "left empty"),
        ("7.25", "7.25", ""),
        ("", "", ""),
    ],
)
def test_import_cleans_prices(tiny_dataset, price, plain, said, capsys):
    put(tiny_dataset, price)
    assert main(["import", str(tiny_dataset / TINY), "--dataset=again", "--data_path=out"]) == 0
    assert read_items(Path("out/again"), "again")["price"].tolist()[6:9] == ["6.5", plain, "8.5"]
    out = capsys.readouterr().out
    assert said in out and ("price of" in out) == bool(said)
    assert "price:float" in Path("out/again/again.item").read_text().splitlines()[0]


@pytest.mark.parametrize("price", ["1.299,00", "12,34", "$5 to $9", "$9.99 - $19.99", "1 299", "inf", "cheap", "1_000"])
def test_import_rejects_prices_that_it_cannot_clean(tiny_dataset, price, capsys):
    put(tiny_dataset, price)
    assert main(["import", str(tiny_dataset / TINY), "--dataset=again", "--data_path=out"]) == 1
    assert f"tiny.item line 9 has '{price}' as price of item 'i7'; expected a number" in capsys.readouterr().err
    assert not Path("out/again").exists()
