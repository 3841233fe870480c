"""Prepare a dataset with a ``source:``: download, import, download images; or write the synthetic one.

Each stage writes its complete result or nothing, so a killed run resumes after the last finished stage. A finished stage is
recognised by the existence of its files. The last stage, encoding, is in encode.py and works in the same way.
"""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from recbole_macrec.config.options import import_command
from recbole_macrec.data import atomic
from recbole_macrec.data.atomic import DEFAULT_FORMAT, AtomicFormat
from recbole_macrec.data.fetch.download import DownloadError, fetch, new_session
from recbole_macrec.data.fetch.drop import drop_items
from recbole_macrec.data.fetch.hosts import Hosts
from recbole_macrec.data.fetch.images import REPORT, fetch_catalogue_images
from recbole_macrec.data.fetch.source_block import SYNTHETIC, SourceBlock
from recbole_macrec.data.importers.importer import ImportRequest, import_dataset
from recbole_macrec.data.importers.raw import manifest
from recbole_macrec.data.importers.raw.catalogue import IMAGES, URLS
from recbole_macrec.data.importers.raw.find import SHORT_NAMES
from recbole_macrec.data.toy.toy import TOY_NAME, write_toy
from recbole_macrec.errors import UserError
from recbole_macrec.utils.files import needs_restore, remove_temporary_files, restore_folder

logger = logging.getLogger(__name__)


def fetch_dataset(folder: Path, source: Any, needs_images: Callable[[], bool], missing_images: str = "drop",
                  show_progress: bool = True, form: AtomicFormat = DEFAULT_FORMAT) -> None:
    """Prepare the dataset in ``folder`` unless it exists; one of several processes does, and the others wait.

    Args:
        folder: the dataset folder.
        source: the ``source:`` block, see :class:`SourceBlock`, or ``synthetic`` for arts-toy.
        needs_images: returns whether images are needed; called after the import, if images are not complete.
        missing_images: treatment of items whose image is unavailable: ``drop`` removes them from the dataset, ``mean`` keeps
            them, and they get the mean feature when images are encoded.
        show_progress: whether to show progress bars.
        form: format of the dataset's files.

    Raises:
        UserError: if files are missing that only the user can provide; the message names them and their paths. A later run
            resumes from the files on disk.
    """
    if source == SYNTHETIC:
        _write_synthetic(folder)
        return
    block = SourceBlock.read(source, folder)
    if _imported(folder) and not needs_restore(folder):
        _check_origin(folder, block)
        if _images_complete(folder, missing_images) or not needs_images():
            return
    with locked(folder):
        restore_folder(folder)
        if not _imported(folder):
            _download(folder, block, show_progress)
            logger.info("Importing %s from %s", folder.name, block.path)
            request = ImportRequest(block.path, category=block.category, core=block.core, require_image=block.require_image)
            import_dataset(request, folder.name, folder.parent, form=form)
        if not _images_complete(folder, missing_images) and needs_images():
            _download_images(folder, block, missing_images, show_progress, form)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock for the preparation of ``folder``; the lock file is beside the folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.prepare.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("Waiting for another process that prepares %s", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _imported(folder: Path) -> bool:
    return (folder / f"{folder.name}.inter").is_file()


def _check_origin(folder: Path, block: SourceBlock) -> None:
    """Raise UserError if the dataset was imported with other options, or from files other than those in the block's path."""
    origin = manifest.read(folder)
    if origin is None:  # imported from released files, or not by this program
        return
    remedy = f"correct its source, or rename {folder}, and the dataset is imported from its source"
    for key, value in {"category": origin["category"], **origin["options"]}.items():
        expected = getattr(block, key)
        if expected is not None and SHORT_NAMES.get(expected, expected) != value:
            raise UserError(f"dataset {folder} was imported with {key} = {value}, but its source has {expected}: {remedy}")
    for name, recorded in origin["sources"].items():
        file = block.path / name
        if file.is_file() and file.stat().st_size != recorded["bytes"]:
            raise UserError(f"dataset {folder} was imported from a {name} of {recorded['bytes']:,} bytes, but {file} has "
                            f"{file.stat().st_size:,}: {remedy}")


def _write_synthetic(folder: Path) -> None:
    if _imported(folder):
        return
    if folder.name != TOY_NAME:
        raise UserError(
            f"source of dataset {folder.name} is {SYNTHETIC}, which is only for {TOY_NAME}; expected a folder: "
            "{path: FOLDER}"
        )
    with locked(folder):
        restore_folder(folder)
        if not _imported(folder):
            _check_absent(folder)
            logger.warning(f"Dataset {folder.name} is not at {folder.absolute()} and is generated there: a synthetic shop, "
                           "with no real users, items or images.")
            write_toy(folder.parent)


def _check_absent(folder: Path) -> None:
    if folder.exists():
        raise UserError(f"{folder} exists, but has no {folder.name}.inter; rename the folder, or add the file")


def _download(folder: Path, block: SourceBlock, show_progress: bool) -> None:
    _check_absent(folder)
    missing = block.missing()
    hosts = Hosts()
    hosts.check_all(url for name in missing for url in block.files[name].urls)
    try:
        for name in (name for name in block.files if name in missing or (block.path / name).exists()):
            fetch(block.files[name], block.path / name, new_session(hosts), show_progress)
    except DownloadError as error:
        raise UserError(_missing_files_message(folder, block, "; ".join(dict.fromkeys(error.reasons.values())))) from error
    if not block.path.exists():
        raise UserError(f"path of source is {block.path}, which does not exist; correct it, or put the files of dataset "
                        f"{folder.name} there")


def _missing_files_message(folder: Path, block: SourceBlock, reasons: str) -> str:
    name = folder.name
    paths = "; ".join(f"{block.path / file} (from {' or '.join(block.files[file].urls) or 'your own copy'})"
                      for file in block.missing())
    return (
        f"dataset {name} is not at {folder}, and its raw files could not be downloaded "
        f"({reasons or 'they have no URL'}). Put these files there and run again: {paths}. Its images are then downloaded "
        f"from the URLs in these files, to {folder / IMAGES} (--modalities=\"[text]\" needs none), and the models in encoders "
        f'from the Hugging Face hub (--encoders="{{text: tfidf, image: pixels}}" needs none). Or, without network, import '
        f"a released folder SRC with {name}.inter.json, {name}.item2id and the features "
        f"{name}.emb-llama-td.npy and {name}.emb-ViT-L-14.npy: {import_command(folder, name, None)}; or use a "
        "dataset that is on this machine: --dataset=arts-toy or --dataset=ml-100k."
    )


def _images_complete(folder: Path, missing_images: str) -> bool:
    """Return whether no images are left to download, and items without an image were treated as set by ``missing_images``."""
    content = manifest.read(folder)
    if content is None or not (folder / URLS).is_file():
        return True
    images = content.get("images")
    if images is None or not images["missing"] or images["missing_images"] == missing_images:
        return images is not None
    if images["missing_images"] == "drop":
        raise UserError(f"dataset {folder} was prepared with missing_images: drop, which removed {images['missing']} items; "
                        f"keep this option, or remove {folder} to prepare it with missing_images: {missing_images}")
    return False


def _download_images(folder: Path, block: SourceBlock, missing_images: str, show_progress: bool, form: AtomicFormat) -> None:
    remove_temporary_files(folder)
    remove_temporary_files(folder / IMAGES)
    _, failed = fetch_catalogue_images(folder, show_progress=show_progress, form=form)
    temporary = [item for item, failure in failed.items() if failure.temporary]
    if temporary and block.unreachable_images == "stop":
        raise UserError(
            f"{len(temporary)} images of dataset {folder.name} could not be downloaded for now, the first of item "
            f"'{temporary[0]}' ({failed[temporary[0]].reason}); the others are in {folder / REPORT}. Run again to resume, put "
            f"them at the paths in column image of {folder.name}.item, add unreachable_images: missing to the source in the "
            "YAML file of the dataset to treat them as missing, or run with --modalities=\"[text]\", which needs none"
        )
    items = atomic.read_items(folder, folder.name, form)
    missing = [item for item, path in zip(items["item_id"], items["image"]) if not (path and (folder / path).is_file())]
    images = {"missing_images": missing_images, "there": len(items) - len(missing), "missing": len(missing)}
    if missing and missing_images == "drop":
        drop_items(folder, missing, images, form)
        counts = manifest.require(folder)["counts"]
        logger.warning(
            f"Dataset {folder.name}: {len(missing)} items without an image are dropped (missing_images: drop), which "
            f"leaves {counts}. Do not compare results on this dataset with earlier ones."
        )
    else:
        manifest.save(folder, {**manifest.require(folder), "images": images})
