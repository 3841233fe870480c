"""The side-by-side table of quantizers has a row per quantizer and modality."""
import numpy as np
import pytest

from recbole_macrec.benchmark.quantizers import COLUMNS, main

TINY = ["--codebook_size", "8", "--codebook_levels", "4", "--rqvae_epochs", "2", "--rqvae_warmup_epochs", "1",
        "--rqvae_projection", "0", "--rqvae_hidden_sizes", "16", "--pseudo_labels", "10", "--code_dim", "4"]


def test_table(tmp_path, capsys):
    files = []
    for seed, modality in enumerate(("text", "image")):
        np.save(tmp_path / f"{modality}.npy", np.random.default_rng(seed).normal(size=(60, 6)))
        files.append(f"{modality}={tmp_path / modality}.npy")
    main(["--features", *files, *TINY])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 5 * 2 and all(line.count("|") == len(COLUMNS) + 1 for line in rows)
    assert [row.split("|")[1].strip() for row in rows[2::2]] == [
        "rq_kmeans", "rqvae", "cross_modal_rqvae, paper", "cross_modal_rqvae, released",
        "cross_modal_rqvae, default"]


@pytest.mark.parametrize("arguments, part", [
    (["--features", "text=nowhere.npy"], "nowhere.npy"),
    (["--features", "nowhere.npy"], "MODALITY=FILE.npy"),
])
def test_missing_files_are_named(arguments, part):
    with pytest.raises(SystemExit, match=part):
        main(arguments)
