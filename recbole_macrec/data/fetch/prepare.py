"""Bring a dataset with a ``source:`` here: download, import, images; or make the synthetic one.

Each stage leaves its result whole or not at all, so a killed run goes on where it was; a finished stage is known by what it
left, without reading it. Encoding, the last stage, is in encode.py and works the same way.
"""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from recbole_macrec.config.values import check_choice
from recbole_macrec.data import atomic
from recbole_macrec.data.atomic import DEFAULT_FORMAT, AtomicFormat
from recbole_macrec.data.fetch.download import DownloadError, fetch, new_session
from recbole_macrec.data.fetch.drop import drop_items
from recbole_macrec.data.fetch.hosts import Hosts
from recbole_macrec.data.fetch.images import REPORT, fetch_catalogue_images
from recbole_macrec.data.fetch.source_block import SYNTHETIC, SourceBlock
from recbole_macrec.data.importers.importer import import_dataset
from recbole_macrec.data.importers.raw import manifest
from recbole_macrec.data.importers.raw.catalogue import IMAGES, URLS
from recbole_macrec.data.importers.raw.find import SHORT_NAMES
from recbole_macrec.data.toy.toy import NAME as SYNTHETIC_NAME, write_toy
from recbole_macrec.errors import UserError
from recbole_macrec.utils.files import half_replaced, recover, remove_unfinished

logger = logging.getLogger(__name__)


def prepare(folder: Path, source: Any, wants_images: Callable[[], bool], missing_images: str = "drop",
            show_progress: bool = True, form: AtomicFormat = DEFAULT_FORMAT) -> None:
    """Bring the dataset to ``folder`` unless it is there; of several processes one does, and the others wait.

    Args:
        source: the ``source:`` block, see :class:`SourceBlock`, or ``synthetic`` for arts-toy.
        wants_images: asked once the catalogue is there, and only while its images are not settled.
        missing_images: what becomes of items whose image can't be had: ``drop`` takes them out of the dataset, ``mean``
            leaves it to the encoding to give them the mean feature.
        form: column names and separators of the dataset's files, which are written and read so.

    Raises:
        UserError: when something is missing that only the user can bring, saying what and where to; what is on disk then
            is what a later run goes on from.
    """
    if source == SYNTHETIC:
        _make_synthetic(folder)
        return
    block = SourceBlock.read(source, folder)
    check_choice(("drop", "mean"), missing_images=missing_images)
    if _imported(folder) and not half_replaced(folder):
        _check_made_so(folder, block)
        if _images_settled(folder, missing_images) or not wants_images():
            return
    with locked(folder):
        recover(folder)
        if not _imported(folder):
            _download(folder, block, show_progress)
            logger.info("Importing %s from %s", folder.name, block.path)
            import_dataset(block.path, folder.name, folder.parent, category=block.category, core=block.core,
                           require_image=block.require_image, writes=form)
        if not _images_settled(folder, missing_images) and wants_images():
            _bring_images(folder, block, missing_images, show_progress, form)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of the preparation of ``folder``; it lies beside it."""
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


def _check_made_so(folder: Path, block: SourceBlock) -> None:
    """Raise UserError if the dataset was made by other options, or of other files than lie in the block's path."""
    made = manifest.read(folder)
    if made is None:  # of released files, or put there by hand
        return
    mend = f"remove {folder} to make it again, or mend its source"
    for key, value in {"category": made["category"], **made["options"]}.items():
        wanted = getattr(block, key)
        if wanted is not None and SHORT_NAMES.get(wanted, wanted) != value:
            raise UserError(f"dataset {folder} was made with {key} = {value}, but its source says {wanted}: {mend}")
    for name, known in made["sources"].items():
        file = block.path / name
        if file.is_file() and file.stat().st_size != known["bytes"]:
            raise UserError(f"dataset {folder} was made from a {name} of {known['bytes']:,} bytes, but {file} has "
                            f"{file.stat().st_size:,}: {mend}")


def _make_synthetic(folder: Path) -> None:
    if _imported(folder):
        return
    if folder.name != SYNTHETIC_NAME:
        raise UserError(f"source of dataset {folder.name} is {SYNTHETIC}, which is for {SYNTHETIC_NAME} alone; name a folder: "
                        "{path: FOLDER}")
    with locked(folder):
        recover(folder)
        if not _imported(folder):
            _check_absent(folder)
            logger.warning(f"Dataset {folder.name} is not at {folder.absolute()} and is made there from its seed: a synthetic shop, "
                           "with no real users, items or images.")
            write_toy(folder.parent)


def _check_absent(folder: Path) -> None:
    if folder.exists():
        raise UserError(f"{folder} exists but holds no {folder.name}.inter; remove it, or put the file there")


def _download(folder: Path, block: SourceBlock, show_progress: bool) -> None:
    _check_absent(folder)
    missing = block.missing()
    hosts = Hosts()
    hosts.try_all(url for name in missing for url in block.files[name].urls)
    try:
        for name in (name for name in block.files if name in missing or (block.path / name).exists()):
            fetch(block.files[name], block.path / name, new_session(hosts), show_progress)
    except DownloadError as error:
        raise UserError(_what_to_bring(folder, block, "; ".join(dict.fromkeys(error.reasons.values())))) from error
    if not block.path.exists():
        raise UserError(f"path of source is {block.path}, which does not exist; mend it, or put there what the dataset "
                        f"{folder.name} is made from")


def _what_to_bring(folder: Path, block: SourceBlock, reasons: str) -> str:
    name = folder.name
    places = "; ".join(f"{block.path / file} (from {' or '.join(block.files[file].urls) or 'wherever you have it'})"
                       for file in block.missing())
    return (f"dataset {name} is not at {folder} yet, and what it is made from can't be downloaded "
            f"({reasons or 'no address is known'}). Put these files there and run again: {places}. Its images follow from "
            f"addresses in them, into {folder / IMAGES} (--modalities=[text] needs none), and the models that encoders names "
            f"from the Hugging Face hub (--encoders=\"{{text: tfidf, image: pixels}}\" needs none). Or, without network, import "
            f"the folder SRC that others released, with {name}.inter.json, {name}.item2id and the features "
            f"{name}.emb-llama-td.npy and {name}.emb-ViT-L-14.npy: {atomic.import_command(folder, name, None)}; or take a "
            "dataset that is on this machine: --dataset=arts-toy or --dataset=ml-100k.")


def _images_settled(folder: Path, missing_images: str) -> bool:
    """Whether there are no images to bring, or they were brought, and those missing treated as asked."""
    made = manifest.read(folder)
    if made is None or not (folder / URLS).is_file():
        return True
    images = made.get("images")
    if images is None or not images["missing"] or images["missing_images"] == missing_images:
        return images is not None
    if images["missing_images"] == "drop":
        raise UserError(f"dataset {folder} was prepared with missing_images: drop, which took {images['missing']} items out; "
                        f"keep that, or remove {folder} to prepare it with missing_images: {missing_images}")
    return False


def _bring_images(folder: Path, block: SourceBlock, missing_images: str, show_progress: bool, form: AtomicFormat) -> None:
    remove_unfinished(folder)
    remove_unfinished(folder / IMAGES)
    _, failed = fetch_catalogue_images(folder, show_progress=show_progress, form=form)
    for_now = [item for item, failure in failed.items() if failure.for_now]
    if for_now and block.unreachable_images == "stop":
        raise UserError(
            f"{len(for_now)} images of dataset {folder.name} can't be had for now, the first of item '{for_now[0]}' "
            f"({failed[for_now[0]].reason}); the others are in {folder / REPORT}. Run again to go on, put them where the column "
            f"image of {folder.name}.item says, set unreachable_images: missing in the source to do without them, or run with "
            "--modalities=[text], which needs none")
    items = atomic.read_items(folder, folder.name, form)
    missing = [item for item, place in zip(items["item_id"], items["image"]) if not (place and (folder / place).is_file())]
    images = {"missing_images": missing_images, "there": len(items) - len(missing), "missing": len(missing)}
    if missing and missing_images == "drop":
        drop_items(folder, missing, images, form)
        made = manifest.read(folder)
        logger.warning(f"Dataset {folder.name}: {len(missing)} items without an image are dropped (missing_images: drop), which "
                       f"leaves {made['counts']}. Compare only results from now on with each other.")
    else:
        manifest.save(folder, {**manifest.read(folder), "images": images})
