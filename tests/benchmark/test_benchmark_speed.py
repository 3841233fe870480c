"""Every speed benchmark on small data: both implementations agree, and the results have all keys. Times are not checked."""
import json
import signal
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY

from recbole_macrec.benchmark.__main__ import main
from recbole_macrec.benchmark.compare.run_model import Request
from recbole_macrec.benchmark.speed import catalogues, graph, measure, whole
from recbole_macrec.benchmark.speed.exact import TOP, same_top
from recbole_macrec.benchmark.speed.measure import in_own_process
from recbole_macrec.benchmark.speed.scale import COSTS, crossing, plot_costs
from recbole_macrec.benchmark.speed.stages import STAGES
from recbole_macrec.config.options import config_of
from recbole_macrec.generation.decoding.search import Ranking
from recbole_macrec.utils.hardware import has_fast_bf16

SMALL = {"batch": 64, "repeats": 1, "training_steps": 5, "users": 24, "reference_users": 12, "reference_batch": 5,
         "parity_steps": 4, "timed_steps": 1, "exact_users": 12, "scale_users": 3}
SIZES = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1}


@pytest.fixture
def small_model(monkeypatch):
    """Benchmarks build a small network; their arguments do not include its sizes."""
    monkeypatch.setattr(
        measure, "config_of", lambda model, dataset, files, options: config_of(model, dataset, files, {**SIZES, **options})
    )
    monkeypatch.setattr(whole, "Request", lambda dataset, settings: Request(dataset, settings={**SIZES, **settings}))


@pytest.fixture
def data(tiny_dataset, small_model):
    """The dataset ``tiny`` with published IDs without collisions."""
    folder = tiny_dataset / TINY / "semantic_ids"
    folder.mkdir()
    for modality, step in (("text", 3), ("image", 5)):
        ids = {f"i{i}": [f"<a_{i % step}>", f"<b_{i // step % 4}>", f"<c_{i}>"] for i in range(30)}
        (folder / f"{modality}.json").write_text(json.dumps(ids))
    return [f"--dataset={TINY}", f"--data_path={tiny_dataset}"]


def small(stage: str) -> list[str]:
    """Arguments for a short run of a stage."""
    return [f"--{option}={SMALL[option]}" for option in STAGES[stage].options if option in SMALL]


def figures(capsys, *arguments) -> dict:
    """Run a benchmark and return the JSON object of its last line."""
    assert main(list(arguments)) == 0
    record = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert record["hardware"]["cores"] >= 1 and record["versions"]["torch"]
    return record


def test_decode_ranks_the_same_items_as_generate(data, capsys):
    record = figures(capsys, "decode", *data, *small("decode"))
    fp32 = record["fp32"]
    assert fp32["top10_agreement"] >= 0.99
    for measured in (fp32, fp32["default_allocator"]):
        assert measured["speedup"] == pytest.approx(fp32["users_per_s"] / measured["reference_users_per_s"], rel=0.01)
    other = record["decoder_only"]["fp32"]
    assert other["speedup"] == pytest.approx(other["users_per_s"] / fp32["reference_users_per_s"], rel=0.01)
    for precisions in (record, record["decoder_only"]):
        assert (precisions["bf16"] is None) == (not has_fast_bf16(torch.device("cpu")))


def test_training_losses_equal_those_of_t5(data, capsys):
    record = figures(capsys, "train", *data, *small("train"))
    curve = record["loss_difference"]
    assert curve["steps"] >= 3 and curve["last_loss"] < curve["first_loss"]
    assert curve["largest"] < 1e-3
    for name in ("released", "small_vocabulary"):
        theirs = record[name]
        assert theirs["speedup"] == pytest.approx(record["samples_per_s"] / theirs["samples_per_s"], rel=0.01)


def test_exact_equals_brute_force(data, capsys):
    record = figures(capsys, "exact", *data, *small("exact"))
    assert record["brute_force_difference"] < 1e-4
    assert 0 <= record["beam_top10_exact_share"] <= 1 and record["users_per_s"] > 0 and record["beam_users_per_s"] > 0
    certified = record["certified"]
    assert set(certified) == {"users_per_s", "top10_agreement", "prefixes_per_user"} and certified["users_per_s"] > 0
    assert certified["top10_agreement"] == 1 and 1 < certified["prefixes_per_user"] <= 1 + 3 + 12  # inner nodes of the trie


def test_same_top_compares_items_in_order():
    expected = torch.arange(1, TOP + 2).repeat(3, 1)
    found = expected.clone()
    found[0, TOP] = 99  # below the top
    found[1, :2] = torch.tensor([2, 1])
    found[2, TOP - 1] = 99
    scores = -expected.float()
    assert same_top(Ranking(found, scores), Ranking(expected, scores)) == pytest.approx(1 / 3)


def test_whole_run_reports_floating_point_operations(data, capsys):
    record = figures(capsys, "whole", *data, *small("whole"), "--epochs=1", "--modalities", "text", "image")
    assert min(record[name] for name in ("tflop_per_s", "matrix_tflop_per_s", "share_of_matrix_rate")) > 0
    assert record["test_result"]["hit@10"] > 0
    assert record["seconds"]["total"] >= record["seconds_per_epoch"]


def test_scale_has_a_row_per_catalogue_size(capsys):
    record = figures(capsys, "scale", *small("scale"), "--items", "500", "2000")
    rows = record["rows"]
    assert set(record["cheaper_from_items"]) == {"decode_ms_per_user", "mmgrec_ms_per_user"}
    assert [row["items"] for row in rows] == [500, 2000]
    assert all(row["trie_bytes_per_item"] <= 64 and 0 < row["collisions"] < 0.1 for row in rows)
    positive = (*COSTS, "resolve_seconds", "peak_rss_mb")
    assert all(row[k] > 0 for row in rows for k in positive)


def test_crossing_point_of_two_costs():
    rows = [{"items": n, "flat": 4.0, "steep": n / 100} for n in (1000, 10, 100)]
    assert crossing(rows, "flat", "steep") == pytest.approx(400, abs=1)
    assert crossing(rows, "steep", "flat") is None and crossing(rows[1:], "flat", "steep") is None


def test_plot_has_a_line_per_cost(tmp_path):
    rows = [{"items": n, **dict.fromkeys(COSTS, n / 100)} for n in (10, 100)]
    path = tmp_path / "costs.svg"
    plot_costs(rows, COSTS, str(path))
    assert all(f"id=\"line2d_{i}\"" in path.read_text() for i in range(1, len(COSTS) + 1))


@pytest.mark.parametrize("words", [["--plot=a.nothing"], ["--plot=missing/a.svg"], ["--part=graph", "--plot=a.svg"]])
def test_plots_that_cannot_be_written_are_errors_before_the_measurement(words, capsys):
    assert main(["scale", *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: --plot is ") and error.count("\n") == 1


def test_arguments_of_the_command_are_no_options_of_the_model(data, tiny_dataset, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark", "decode", "--seed=7"])
    assert measure.build_subject(TINY, str(tiny_dataset), "text").config["seed"] == 2020


def test_unknown_dataset_is_a_one_line_error(capsys):
    assert main(["decode", "--dataset=nowhere", "--data_path=."]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_quantize_measures_catalogues_of_several_sizes(capsys, monkeypatch):
    own_process = catalogues.in_own_process
    monkeypatch.setattr(catalogues, "in_own_process", lambda measure, *arguments: measure(*arguments))
    record = figures(capsys, "quantize", "--items", "300", "700", "--modalities", "text")
    assert [(row["items"], row["quantizer"]) for row in record["rows"]] == [
        (300, "rq_kmeans"), (300, "rqvae"), (700, "rq_kmeans"), (700, "rqvae")]  # fmt: skip
    for row in record["rows"]:
        assert row["peak_memory_mib"] > 50 and row["seconds" if row["quantizer"] == "rq_kmeans" else "seconds_per_epoch"] > 0
    assert isinstance(record["bytes_per_item"], int) and not list(Path.cwd().glob(".quantize-*"))
    catalogues.write_random(Path("text.npy"), 300, seed=0)
    assert own_process(catalogues.measure_rq_kmeans, ".", ["text"])["collision_rate"] < 1


@pytest.mark.parametrize("argv, expected", [
    (["quantize", "--items", "100"], "codebook_size = 256"),
    (["quantize", "--items", "300"], "pseudo_labels = 512"),
    (["quantize", "--modalities", "a/b"], "the name of a modality is 'a/b'"),
    (["scale", "--items", "10"], "items is 10; expected a whole number >= 20"),
    (["scale", "--part=graph", "--interactions=10"], "interactions is 10; expected a whole number >= 20"),
    (["exact", "--exact_users=-5"], "exact_users is -5; expected a whole number >= 0"),
])
def test_sizes_that_cannot_be_measured_are_refused(argv, expected, capsys):
    assert main(argv) == 1
    assert expected in capsys.readouterr().err


def test_the_graph_part_of_scale_has_a_row_per_model_and_size(capsys, monkeypatch):
    monkeypatch.setattr(graph, "in_own_process", lambda measured, *arguments: measured(*arguments))  # a process takes seconds
    record = figures(capsys, "scale", "--part=graph", "--items", "300", "--interactions=400", "--timed_steps=1")
    assert [(row["model"], row["items"]) for row in record["rows"]] == [(name, 300) for name in graph.MODELS]
    assert not any("failed" in row for row in record["rows"])
    for row in record["rows"]:
        assert row["interactions"] == 400 and row["users"] == 20 and 0.1 < row["peak_gib"] < 8
        assert row["epoch_s"] == pytest.approx(row["first_step_s"] + (row["steps"] - 1) * row["step_s"], rel=0.05, abs=0.002)


def test_failed_and_killed_measurements_are_rows_of_the_graph_part(capsys, monkeypatch):
    """10^15 interactions fit in no memory. Every row is also on stderr."""
    arguments = ["scale", "--part=graph", "--items", "300"]
    rows = figures(capsys, *arguments, "--models", "VBPR", "--interactions=1000000000000000")["rows"]
    assert len(rows) == 1 and "allocate" in rows[0]["failed"] and "peak_gib" not in rows[0]
    monkeypatch.setattr(graph, "in_own_process", lambda *_: in_own_process(signal.raise_signal, signal.SIGKILL))
    assert main([*arguments, "--models", "VBPR", "GAT"]) == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out.splitlines()[-1])["rows"]
    assert [row["model"] for row in rows] == ["VBPR", "GAT"]
    assert all("ended without a result" in row["failed"] for row in rows)
    assert [json.loads(line) for line in printed.err.splitlines() if line.startswith("{")] == rows
