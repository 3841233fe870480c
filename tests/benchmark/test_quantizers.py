"""The table of the quantizer benchmark has a row per quantizer and modality."""
import numpy as np
import pytest
from conftest import NETWORK

from recbole_macrec.benchmark import quantizers
from recbole_macrec.benchmark.compare.run_model import Request
from recbole_macrec.benchmark.quantizers import COLUMNS, main
from recbole_macrec.data.features import FeatureTable

TINY = ["--codebook_size", "8", "--codebook_levels", "4", "--rqvae_epochs", "2", "--rqvae_warmup_epochs", "1",
        "--rqvae_projection", "0", "--rqvae_hidden_sizes", "16", "--pseudo_labels", "10", "--code_dim", "4"]
NAMES = ["rq_kmeans", "rqvae", "cross_modal_rqvae, paper", "cross_modal_rqvae, released", "cross_modal_rqvae, default"]


def test_table_of_all_quantizers(tmp_path, capsys):
    files = []
    for seed, modality in enumerate(("text", "image")):
        np.save(tmp_path / f"{modality}.npy", np.random.default_rng(seed).normal(size=(60, 6)))
        files.append(f"{modality}={tmp_path / modality}.npy")
    main(["--features", *files, *TINY])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 5 * 2 and all(line.count("|") == len(COLUMNS) + 1 for line in rows)
    assert [row.split("|")[1].strip() for row in rows[2::2]] == NAMES


def test_ranking_with_the_ids_of_each_quantizer(tmp_path, tiny_dataset, monkeypatch, capsys):
    network = {**NETWORK, "topk": [5], "valid_metric": "NDCG@5"}  # a small network; no arguments of the command
    monkeypatch.setattr(quantizers, "Request", lambda name, settings: Request(name, settings={**network, **settings}))
    rng = np.random.default_rng(0)
    for modality in ("text", "image"):
        FeatureTable(tuple(f"i{i}" for i in range(30)), rng.normal(size=(30, 6)).astype(np.float32)).save(
            tiny_dataset / "tiny", modality)
    arguments = ["--rank", "TIGER", "--dataset", "tiny", "--data_path", str(tiny_dataset), "--epochs", "1",
                 "--output", str(tmp_path / "out"), *TINY]
    main(arguments)
    header, *_ = first = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in first[2:]] == NAMES
    assert {line.split("|")[2].strip() for line in first[2:]} == {"text"}  # TIGER uses one of the two modalities
    assert all(line.count("|") == len(COLUMNS) + 3 + 1 for line in first)
    assert "hit@5 | fused hit@5 | fused ndcg@5" in header
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    main(arguments)  # finished quantizers are not repeated
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")] == first
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    main([*arguments, "--collision", "reassign", "--modalities", "text"])  # other options are stored in other files
    assert len(list((tmp_path / "out").iterdir())) == len(before) + 2


@pytest.mark.parametrize("arguments, part", [
    (["--features", "text=nowhere.npy"], "nowhere.npy"),
    (["--features", "nowhere.npy"], "MODALITY=FILE.npy"),
    (["--rank", "Pop"], "Pop reads no semantic IDs"),
])
def test_wrong_arguments_are_user_errors(arguments, part, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and part in error
