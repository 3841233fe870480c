"""JSON files of published IDs: their codes, and an error message for every invalid file."""
import json

import numpy as np
import pytest

from recbole_macrec.data.id_files import encode_ids
from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids import SemanticIDSettings, published_semantic_ids, read_published

GOOD = {"x9": ["<a_170>", "<b_0>", "<c_3>"], "B00Z": ["<a_2>", "<b_0>", "<c_3>"], "7": ["<a_170>", "<b_0>", "<c_3>"]}


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "ids.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path
    return write


def test_read_returns_rows_in_the_given_order_and_drops_other_items(file):
    assert read_published(file(GOOD), ["7", "B00Z"]).tolist() == [[170, 0, 3], [2, 0, 3]]


@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_reading_inverts_encode_ids_in_lower_and_upper_case(file, case):
    codes = np.random.default_rng(0).integers(0, 300, (20, 5))
    ids = {f"item-{i}": [case(code) for code in row] for i, row in enumerate(encode_ids(codes))}
    assert ids["item-0"][4].startswith(case("<e_"))
    assert np.array_equal(read_published(file(ids), list(ids)), codes)


@pytest.mark.parametrize("content, parts", [
    ("{", ["is not readable JSON"]),
    ("[1, 2]", ["expected"]),
    ("{}", ["expected"]),
    ({"x9": GOOD["x9"]}, ["2 of 3 items", "B00Z"]),
    ({**GOOD, "7": ["<a_1>", "<b_1>"]}, ["item '7' has 2 codes", "'x9' has 3"]),
    ({**GOOD, "7": []}, ["item '7'", "list of 1"]),
    ({**GOOD, "7": "<a_1>"}, ["item '7'", "list of 1"]),
    ({**GOOD, "7": ["<a_1>", "<q_1>", "<c_1>"]}, ["item '7'", "<q_1>", "level is unknown", "expected 'b'"]),
    ({**GOOD, "7": ["<b_1>", "<a_1>", "<c_1>"]}, ["item '7'", "<b_1>", "expected 'a'"]),
    ({**GOOD, "7": ["<a_1>", "<B_1>", "<c_1>"]}, ["item '7'", "<B_1>"]),
    ({**GOOD, "7": ["<A_1>", "<B_1>", "<C_1>"]}, ["item '7'", "upper case", "lower case"]),
    ({**GOOD, "7": ["<a_-1>", "<b_1>", "<c_1>"]}, ["item '7'", "<a_-1>", "whole number"]),
    ({**GOOD, "7": ["<a_1.5>", "<b_1>", "<c_1>"]}, ["item '7'", "<a_1.5>"]),
    ({**GOOD, "7": ["<a_01>", "<b_1>", "<c_1>"]}, ["item '7'", "<a_01>"]),
    ({**GOOD, "7": [1, 2, 3]}, ["item '7'", "1"]),
    (json.dumps(GOOD)[:-1] + ', "7": ["<a_1>", "<b_1>", "<c_1>"]}', ["1 key ('7') more than once"]),
])
def test_errors_name_file_item_and_advice(file, content, parts):
    path = file(content)
    with pytest.raises(UserError) as error:
        read_published(path, list(GOOD))
    for part in [str(path), *parts]:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_error_names_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="nowhere.json does not exist"):
        read_published(tmp_path / "nowhere.json", ["1"])


def test_collisions_of_published_ids_are_resolved_and_counted(file):
    path = file(GOOD)
    resolved = {c: published_semantic_ids({"text": path}, list(GOOD), SemanticIDSettings(("text",), collision=c))
            for c in ("reassign", "extra_token", "keep")}
    # of two items with one ID, the first in the order of the tokens keeps it: "7" before "x9"
    assert resolved["reassign"].codes["text"].tolist() == [[170, 0, 0], [2, 0, 3], [170, 0, 3]]
    assert resolved["extra_token"].codes["text"].tolist() == [[170, 0, 3, 1], [2, 0, 3, 0], [170, 0, 3, 0]]
    assert resolved["extra_token"].sizes["text"] == (256, 256, 256, 2)
    assert resolved["keep"].codes["text"].tolist() == resolved["reassign"].raw_codes["text"].tolist()
    statistics = resolved["reassign"].statistics["text"]
    assert statistics["collision_rate"] == pytest.approx(1 / 3) and statistics["collision_rate_after"] == 0
    assert resolved["keep"].statistics["text"]["collision_rate_after"] == pytest.approx(1 / 3)
    assert "reconstruction_error" not in statistics


def test_codes_beyond_codebook_size_enlarge_their_level(file):
    ids = published_semantic_ids({"text": file(GOOD)}, list(GOOD), SemanticIDSettings(("text",), codebook_size=16))
    assert ids.sizes["text"] == (171, 16, 16)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    """As the importer reads it."""
    path = tmp_path / "ids.json"
    path.write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert len(read_published(path, list(GOOD))) == len(GOOD)
