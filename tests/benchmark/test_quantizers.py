"""The table of the quantizer benchmark has a row per quantizer and modality."""
import numpy as np
import pytest

from recbole_macrec.benchmark import quantizers
from recbole_macrec.benchmark.__main__ import main
from recbole_macrec.benchmark.quantizers import COLUMNS
from recbole_macrec.data.features import FeatureTable
from recbole_macrec.semantic_ids import Execution, SemanticIDSettings, represent_and_learn
from recbole_macrec.semantic_ids.order import token_order
from recbole_macrec.semantic_ids.statistics import collision_rate

TINY = ["--codebook_size=8", "--codebook_levels=2", "--rqvae_epochs=2", "--rqvae_warmup_epochs=1", "--rqvae_projection=0",
        "--rqvae_hidden_sizes=[16]", "--pseudo_labels=10", "--code_dim=4"]
ALONE = ["rqvae", "rq_kmeans", "hierarchical_kmeans"]
JOINT = [f"cross_modal_rqvae, {preset}" for preset in ("paper", "released", "default")]


def table_of(capsys) -> list[list[str]]:
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert tuple(header) == COLUMNS
    return rows


def features(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(60, 6)).astype(np.float32)


@pytest.fixture
def files(tmp_path) -> list[str]:
    for seed, modality in enumerate(("text", "image")):
        np.save(tmp_path / f"{modality}.npy", features(seed))
    return [f"{modality}={tmp_path / modality}.npy" for modality in ("text", "image")]


def test_table_of_all_quantizers(files, capsys):
    assert main(["quantizers", "--features", *files, *TINY]) == 0
    rows = table_of(capsys)
    assert [row[:2] for row in rows] == [[name, modality] for name in ALONE + JOINT for modality in ("text", "image")]
    assert main(["quantizers", "--features", files[0], *TINY]) == 0
    assert [row[:2] for row in table_of(capsys)] == [[name, "text"] for name in ALONE]


def test_unavailable_devices_are_errors(files, capsys):
    assert main(["quantizers", "--features", *files, "--device=gpu", *TINY]) == 1
    assert "error: device is 'gpu', which is unavailable" in capsys.readouterr().err


def test_the_collision_rate_is_that_of_the_learnt_codes(files, capsys):
    main(["quantizers", "--features", files[0], *TINY])
    rate = next(row[2] for row in table_of(capsys) if row[0] == "rq_kmeans")
    options = {"quantizer": "rq_kmeans", "codebook_size": 8, "codebook_levels": 2, "code_dim": 4}
    settings = SemanticIDSettings.from_options(options, ["text"])
    x = features(0)[token_order([str(i) for i in range(60)])]
    codes = represent_and_learn({"text": x}, None, settings, Execution(show_progress=False)).modalities["text"].codes
    assert rate == f"{collision_rate(codes):.2%}" and collision_rate(codes) > 0


def test_features_of_a_dataset_are_joined_by_item(files, tmp_path, capsys):
    order = np.random.default_rng(2).permutation(60)
    tokens = [str(i) for i in range(60)]
    FeatureTable(tuple(tokens), features(0)).save(tmp_path / "shop", "text")
    FeatureTable(tuple(tokens[i] for i in order), features(1)[order]).save(tmp_path / "shop", "image")
    main(["quantizers", "--features", *reversed(files), *TINY])
    of_files = table_of(capsys)
    main(["quantizers", "--dataset=shop", f"--data_path={tmp_path}", *TINY])
    assert [row[:-1] for row in table_of(capsys)] == [row[:-1] for row in of_files]


@pytest.mark.parametrize("arguments, part", [
    (["--features", "text=nowhere.npy"], "nowhere.npy does not exist"),
    (["--features", "nowhere.npy"], "MODALITY=FILE.npy"),
    (["--dataset=nowhere"], "dataset/nowhere does not exist"),
    (["--dataset=nowhere", "--rqvae_preset=paper"], "--rqvae_preset=paper: the table does not use this option"),
    (["--dataset=nowhere", "--code_dims=8"], "--code_dims is not an option of the semantic IDs. Did you mean 'code_dim'?"),
    (["--dataset=nowhere", "--quantizer=rqvae"], "--quantizer=rqvae: the table does not use this option"),
    (["--dataset=nowhere", "--representation=concatenated"], "--representation=concatenated: the table does not use"),
    ([], "--features --dataset"),
])
def test_wrong_arguments_are_user_errors(arguments, part, capsys):
    assert main(["quantizers", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and part in error


@pytest.mark.parametrize("option, part", [
    ("--pseudo_labels=512", "pseudo_labels = 512, but there are only 60 items"),
    ("--codebook_size=4 --codebook_levels=2", "60 items cannot have different IDs of sizes [4, 4]"),
    ("--collision=popularity", "collision is popularity, which reads training interactions, but this command reads"),
    ("--collision=sinkhorn", "collision is sinkhorn, which needs codewords, but quantizer is"),
])
def test_options_of_all_quantizers_are_checked_before_the_first_is_trained(files, option, part, monkeypatch, capsys):
    monkeypatch.setattr(quantizers, "build_semantic_ids", lambda *args: pytest.fail("learns codes"))
    others = [word for word in TINY if word.split("=")[0] not in option]
    assert main(["quantizers", "--features", *files, *others, *option.split()]) == 1
    assert part in capsys.readouterr().err


def test_features_of_different_items_are_a_user_error(files, tmp_path, capsys):
    np.save(tmp_path / "image.npy", features(1)[:50])
    assert main(["quantizers", "--features", *files, *TINY]) == 1
    assert "'image'" in capsys.readouterr().err
