"""Read-only dataset folders: runs work if no file is missing; otherwise the error names the missing file."""
import errno
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from recbole.config import Config
from recbole.data import create_dataset
from web_server import image_bytes

from recbole_macrec import UserError
from recbole_macrec.data.features import FeatureTable

_state = {"folder": None, "error": errno.EROFS, "hooked": False}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _refuse(event: str, arguments: tuple) -> None:
    """Audit hook that fails like a read-only file system; permissions do not restrict tests that run as root."""
    folder = _state["folder"]
    if folder is None or event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"):
        return
    if event == "open" and not (arguments[2] or 0) & _WRITES:
        return
    paths = [argument for argument in arguments if isinstance(argument, str | os.PathLike)]
    if any(Path(path).absolute().is_relative_to(folder) for path in paths) and not (
        event == "os.mkdir" and Path(paths[0]).exists()
    ):
        raise OSError(_state["error"], os.strerror(_state["error"]), str(paths[0]))


@pytest.fixture
def read_only():
    """Make a folder read-only for the rest of the test."""
    if not _state["hooked"]:
        sys.addaudithook(_refuse)  # audit hooks cannot be removed
        _state["hooked"] = True
    yield lambda folder, error=errno.EROFS: _state.update(folder=folder, error=error)
    _state["folder"] = None


def semantic_ids(data_path, **options):
    settings = {"modalities": ["text", "image"], "text_fields": ["title"], "image_field": "picture", "quantizer": "rq_kmeans",
                "encoders": {"text": "tfidf", "image": "pixels"}, "codebook_levels": 2, "codebook_size": 8,
                "max_modalities": 2, "state": "ERROR"}  # fmt: skip
    config = Config("TIGER", TINY, config_dict={"data_path": str(data_path), **settings, **options})
    dataset = create_dataset(config)
    logging.getLogger().setLevel(logging.ERROR)
    dataset.build()
    return dataset.semantic_ids


@pytest.fixture
def shop(tiny_dataset):
    folder = tiny_dataset / TINY
    lines = (folder / f"{TINY}.item").read_text().splitlines()
    rows = [f"{line}\t{i}.png" for i, line in enumerate(lines[1:])]
    (folder / f"{TINY}.item").write_text("\n".join([f"{lines[0]}\tpicture:token", *rows]) + "\n")
    for i in range(len(rows)):
        (folder / f"{i}.png").write_bytes(image_bytes("PNG", seed=i))
    return tiny_dataset


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("memo", [True, False])
def test_complete_read_only_folder_is_usable(shop, read_only, error, memo):
    first = semantic_ids(shop)
    folder = shop / TINY
    for path in [*folder.rglob(".*.lock"), *folder.rglob("*.lock"), *([] if memo else folder.rglob(".*.seen.json"))]:
        path.unlink(missing_ok=True)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    read_only(folder, error)
    again = semantic_ids(shop)
    assert again.bundle == first.bundle and np.array_equal(again.codes["image"], first.codes["image"])
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("lacks", ["features", "semantic_ids"])
def test_incomplete_read_only_folder_is_an_error(shop, read_only, lacks):
    semantic_ids(shop)
    read_only(shop / TINY)
    options, message = {
        "features": ({"text_fields": ["title", "categories"]}, "features is read-only and has no features text.npy"),
        "semantic_ids": ({"codebook_size": 9}, "semantic_ids is read-only and has no semantic IDs for these settings"),
    }[lacks]
    with pytest.raises(UserError, match=message):
        semantic_ids(shop, **options)


def test_imported_features_need_no_lock_file(shop, read_only):
    FeatureTable(tuple(f"i{i}" for i in range(30)), np.eye(30, dtype=np.float32)).save(shop / TINY, "text")
    options = {"modalities": ["text"], "encoders": {}, "quantizer": "rq_kmeans"}
    first = semantic_ids(shop, **options)
    read_only(shop / TINY)
    assert semantic_ids(shop, **options).bundle == first.bundle
