"""The dataset class: training interactions do not include validation and test interactions."""
import logging
from collections import defaultdict
from contextlib import suppress

import numpy as np
import pytest
from conftest import TINY, write_tiny_dataset
from helpers import write_features
from recbole.config import Config
from recbole.data import create_dataset

from recbole_macrec.benchmark.compare.runs import PRETRAINED
from recbole_macrec.benchmark.compare.unfinished import unfinished_run
from recbole_macrec.data.checksums import checksums_of_atomic_files
from recbole_macrec.data.features import FeatureTable
from recbole_macrec.data.interactions import interactions_of
from recbole_macrec.errors import UserError
from recbole_macrec.trainer.checkpoint_settings import dataset_folder

ITEMS = 30


@pytest.fixture
def data_path(tiny_dataset):
    write_features(tiny_dataset / TINY, "text", width=6)
    return tiny_dataset


def built(data_path, **options):
    options = {
        "modalities": ["text"],
        "codebook_levels": 2,
        "codebook_size": 8,
        "quantizer": "rq_kmeans",
        "state": "ERROR",
    } | options
    dataset = create_dataset(Config("TIGER", TINY, config_dict={"data_path": str(data_path), **options}))
    logging.getLogger().setLevel(logging.ERROR)
    dataset.build()
    return dataset


def pairs(dataset) -> set:
    """User and item tokens of the training interactions."""
    users, items = dataset.training_interactions().nonzero()
    return set(zip(dataset.id2token(dataset.uid_field, users), dataset.id2token(dataset.iid_field, items)))


def test_training_interactions_are_all_but_the_last_two_of_each_user(data_path):
    histories = defaultdict(list)
    for line in (data_path / TINY / f"{TINY}.inter").read_text().splitlines()[1:]:
        user, item, time = line.split("\t")
        histories[user].append((float(time), item))
    expected = {(user, item) for user, rows in histories.items() for _, item in sorted(rows)[:-2]}
    assert pairs(built(data_path)) == expected


@pytest.mark.parametrize("newest", [1, 3])
def test_training_interactions_do_not_depend_on_history_length(newest, data_path):
    expected = built(data_path).training_interactions()
    counted = built(data_path, MAX_ITEM_LIST_LENGTH=newest).training_interactions()
    assert counted.sum() == expected.sum() and (counted != expected).nnz == 0


def test_every_interaction_is_in_one_part(data_path):
    """The first one of a user, which is no row of its own, is in the training part."""
    dataset = create_dataset(Config("SequentialEASE", TINY, config_dict={"data_path": str(data_path), "state": "ERROR"}))
    counts = [interactions_of(part)[0].size for part in dataset.build()]
    assert sum(counts) == len((data_path / TINY / f"{TINY}.inter").read_text().splitlines()) - 1
    assert counts[1] == counts[2] == dataset.user_num - 1


def test_features_from_interactions_do_not_use_validation_and_test(data_path):
    options = {"modalities": ["interactions"], "encoders": {"interactions": "cooccurrence"}}
    file = data_path / TINY / f"{TINY}.inter"
    built(data_path, **options)
    first = FeatureTable.load(data_path / TINY, "interactions").matrix.copy()
    lines = file.read_text().splitlines()
    user = lines[-1].split("\t")[0]
    file.write_text("\n".join(lines[:-2] + [f"{user}\ti{item}\t{10**6 + item}" for item in (3, 7)]) + "\n")
    built(data_path, **options)
    assert np.array_equal(FeatureTable.load(data_path / TINY, "interactions").matrix, first)
    file.write_text("\n".join(lines[:-2]) + "\n")  # two training interactions of that user become validation and test
    built(data_path, **options)
    assert not np.array_equal(FeatureTable.load(data_path / TINY, "interactions").matrix, first)


def test_default_modalities_are_those_of_the_folder(data_path):
    folder = data_path / TINY
    assert list(built(data_path, modalities=None).semantic_ids.codes) == ["text"]  # the folder has features, and titles
    FeatureTable.load(folder, "text").save(folder, "acoustic")
    dataset = built(data_path, modalities=None, max_modalities=None)
    assert list(dataset.semantic_ids.codes) == ["text", "acoustic"]
    assert list(built(data_path, modalities=["acoustic"]).semantic_ids.codes) == ["acoustic"]


def test_a_folder_without_modalities_is_an_error(tiny_dataset):
    with pytest.raises(UserError, match="neither features nor semantic IDs"):
        built(tiny_dataset, modalities=None, text_fields=["subtitle"])


def test_files_of_a_dataset_whose_name_is_a_pattern_are_found(tmp_path):
    name = "shop[v2]"
    folder = write_tiny_dataset(tmp_path, name) / name
    assert set(checksums_of_atomic_files(folder, name)) == {f"{name}.inter", f"{name}.item"}
    config = Config("Pop", name, config_dict={"data_path": str(tmp_path), "checkpoint_dir": str(tmp_path / "saved")})
    with suppress(KeyboardInterrupt), unfinished_run(config, 1, fresh=False) as run:
        (run.folder / PRETRAINED).write_text("{}")
        raise KeyboardInterrupt
    with unfinished_run(config, 1, fresh=False) as resumed:
        assert resumed.folder == run.folder
    assert dataset_folder(config, "saved/Pop.pth", None) == folder
    (folder / f"{name}.inter").rename(folder / f"{name}.train.inter")
    assert dataset_folder(config, "saved/Pop.pth", None) == folder
