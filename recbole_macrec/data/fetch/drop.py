"""``missing_images: drop``: remove items without an image, with the same result as removing them before the import."""
from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_macrec.data import atomic, features
from recbole_macrec.data.atomic import AtomicFormat
from recbole_macrec.data.encoders.encoded_manifest import manifest_file
from recbole_macrec.data.importers.raw import manifest
from recbole_macrec.data.importers.raw.catalogue import IMAGES, URLS, write_urls
from recbole_macrec.data.importers.raw.filtering import Filtering, Interactions
from recbole_macrec.data.json_files import read_json_object
from recbole_macrec.errors import UserError
from recbole_macrec.utils.files import replace_folder

STEP = "items whose image is available"


def drop_items(folder: Path, missing: Collection[str], record: dict, form: AtomicFormat) -> None:
    """Remove the items ``missing`` from the imported dataset in ``folder``, and what is no longer in the k-core without them.

    The result is the same as filtering the raw files without these items, because the k-core of a subset is contained in the
    k-core of the whole. Encoded features of the larger catalogue are removed; all other files are kept.

    Args:
        folder: the dataset folder.
        missing: the items to remove.
        record: the new entry ``images`` of the manifest.
        form: format of the dataset.

    Raises:
        UserError: if no interactions are left.
    """
    name, old_manifest = folder.name, manifest.require(folder)
    interactions, items = (atomic.read_table(folder / f"{name}.{kind}", form) for kind in ("inter", "item"))
    user, item = f"{form.user}:token", f"{form.item}:token"
    user_numbers, item_numbers = (pd.factorize(interactions[column])[0] for column in (user, item))
    missing, core = set(missing), old_manifest["options"]["core"]
    rows = np.arange(len(interactions), dtype=np.float64)  # rows of a user are in time order, so row numbers can serve as times
    filtering = Filtering(Interactions(user_numbers, item_numbers, rows))
    filtering.keep(STEP, ~interactions[item].isin(missing).to_numpy())
    if core is not None:
        filtering.keep_core(core)
    left = interactions.iloc[filtering.left.times.astype(np.int64)]
    if left.empty:
        raise UserError(
            f"no interactions of {folder} are left without the {len(missing)} items whose image is unavailable; set "
            "missing_images: mean to keep them, or see images_failed.json for the reasons"
        )
    items = items[items[item].isin(left[item]) if core is not None else ~items[item].isin(missing)]
    with replace_folder(folder, overwrite=True) as new:
        kept = set(items[item])
        _link_unchanged(folder, new, {path for path in items["image:token"] if path})
        atomic.write_table(new / f"{name}.inter", left, form)
        atomic.write_table(new / f"{name}.item", items, form)
        urls = read_json_object(folder / URLS)
        write_urls(new / URLS, ((token, item_urls) for token, item_urls in urls.items() if token in kept))
        counts = {"users": left[user].nunique(), "items": len(items), "interactions": len(left)}
        steps = [*old_manifest["steps"], *(step._asdict() for step in filtering.steps[1:])]
        manifest.save(new, {**old_manifest, "steps": steps, "counts": counts, "images": record,
                            "files": manifest.fingerprints(new, old_manifest["files"])})


def _link_unchanged(folder: Path, new: Path, images: Collection[str]) -> None:
    """Link the files of ``folder`` that are not written again into the folder ``new``; of the images, only ``images``."""
    rewritten = {f"{folder.name}.inter", f"{folder.name}.item", URLS, manifest.FILE}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = path.relative_to(folder)
        top = relative.parts[0]
        encoded = top == features.FOLDER and manifest_file(path.with_name(f"{path.name.split('.')[0]}.npy")).exists()
        hidden = any(part.startswith(".") for part in relative.parts)
        if str(relative) in rewritten or encoded or hidden or top == IMAGES and relative.as_posix() not in images:
            continue
        (new / relative).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, new / relative)
        except OSError:  # a file system without hard links
            shutil.copy2(path, new / relative)
