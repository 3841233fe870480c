"""arts-toy: the committed files equal the generated ones and have the described properties."""
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import histories_of
from PIL import Image

from recbole_macrec.benchmark.compare import run_command
from recbole_macrec.commands.data import main
from recbole_macrec.data import atomic
from recbole_macrec.data.fetch.prepare import fetch_dataset
from recbole_macrec.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "dataset" / "arts-toy"


@pytest.fixture(scope="module")
def histories():
    return list(histories_of(COMMITTED / "arts-toy.inter").values())


def test_regeneration_gives_the_committed_files(tmp_path):
    assert main(["toy", f"--data_path={tmp_path}"]) == 0
    generated = tmp_path / "arts-toy"
    for name in ("arts-toy.inter", "arts-toy.item", "README.md", ".gitignore"):
        assert (generated / name).read_bytes() == (COMMITTED / name).read_bytes(), name
    images = sorted(path.name for path in (generated / "images").iterdir())
    assert images == sorted(path.name for path in (COMMITTED / "images").iterdir()) and len(images) == 288
    for name in images:
        assert np.array_equal(
            np.asarray(Image.open(generated / "images" / name)), np.asarray(Image.open(COMMITTED / "images" / name))
        )


def test_toy_is_small_and_described_as_synthetic():
    own = [path for path in COMMITTED.rglob("*") if path.is_file() and not {"features", "semantic_ids"} & set(path.parts)]
    assert sum(path.stat().st_size for path in own) < 3_000_000
    assert "synthetic" in (COMMITTED / "README.md").read_text()
    assert "synthetic" in (ROOT / "properties/dataset/arts-toy.yaml").read_text().lower()


def test_toy_is_overwritten_only_with_the_option(tmp_path, capsys):
    (tmp_path / "arts-toy").mkdir()
    assert main(["toy", f"--data_path={tmp_path}"]) == 1
    assert "--overwrite" in capsys.readouterr().err and not list((tmp_path / "arts-toy").iterdir())


def test_several_items_have_the_same_text():
    frame = atomic.read_items(COMMITTED, "arts-toy")
    assert len(frame) == 288 and frame["title"].nunique() == 96
    assert (frame["title"] + frame["description"]).nunique() < 288


def test_last_item_predicts_better_than_popularity(histories):
    """Counts of item pairs predict the last item far better than popularity, by more than the factor 2 that tests require of
    models."""
    assert all(6 <= len(history) <= 20 and len(set(history)) == len(history) for history in histories)
    training = [history[:-2] for history in histories]
    popular = Counter(item for history in training for item in history)
    follows = defaultdict(Counter)
    for history in training:
        for item, following in zip(history, history[1:]):
            follows[item][following] += 1

    def hit_at_10(score):
        return np.mean([history[-1] in sorted(popular, key=lambda item: score(history[-2], item), reverse=True)[:10]
                        for history in histories])

    by_popularity = hit_at_10(lambda last, item: popular[item])
    by_order = hit_at_10(lambda last, item: (follows[last][item], popular[item]))
    assert 0.03 < by_popularity < 0.10 and by_order > 5 * by_popularity


@pytest.mark.parametrize("name", ["Instruments", "Arts", "Games", "arts-toy"])
def test_dataset_property_files(name):
    options = yaml.safe_load((ROOT / f"properties/dataset/{name}.yaml").read_text())
    assert options["MAX_ITEM_LIST_LENGTH"] == 20 and options["modalities"] == ["text", "image"]
    assert options["load_col"]["inter"] == ["user_id", "item_id", "timestamp"] and "item_id" in options["load_col"]["item"]


def test_run_outside_the_repository_generates_the_toy_with_a_warning(tmp_path, caplog):
    run = ["--model=Pop", "--show_progress=False", "--state=WARNING"]
    assert run_command.main(run) == 0 and f"is not at {tmp_path / 'dataset' / 'arts-toy'} and is generated there" in caplog.text
    inter_file = tmp_path / "dataset" / "arts-toy" / "arts-toy.inter"
    assert inter_file.read_bytes() == (COMMITTED / "arts-toy.inter").read_bytes()
    written = inter_file.stat().st_mtime_ns
    caplog.clear()
    assert run_command.main(run) == 0 and "seed" not in caplog.text and inter_file.stat().st_mtime_ns == written


@pytest.mark.parametrize("folder, expected", [("arts-toy", "rename the folder"), ("shop", "only for arts-toy")])
def test_existing_folders_and_other_names_are_not_written(folder, expected, tmp_path):
    (tmp_path / folder).mkdir()
    with pytest.raises(UserError, match=expected):
        fetch_dataset(tmp_path / folder, "synthetic", lambda: True)
    assert not list((tmp_path / folder).iterdir())


def test_import_and_run_use_the_same_dataset_folder(tmp_path, capsys):
    (tmp_path / "shop").mkdir()
    rows = [f"u{user},i{(user + step) % 13},{step}" for user in range(13) for step in range(5)]
    (tmp_path / "shop" / "interactions.csv").write_text("\n".join(["user,item,timestamp", *rows]))
    assert main(["import", "shop", "--dataset=lamps"]) == 0
    assert (tmp_path / "dataset" / "lamps" / "lamps.inter").is_file()
    assert run_command.main(["--model=Pop", "--dataset=lamps", "--show_progress=False", "--state=ERROR"]) == 0
    assert "lamps: test results" in capsys.readouterr().out
    assert run_command.main(["--model=Pop", "--dataset=nowhere"]) == 1
    assert f"Dataset folder {tmp_path / 'dataset' / 'nowhere'} does not exist" in capsys.readouterr().err
