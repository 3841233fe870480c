"""``missing_images: drop``: a dataset as it would be if the items without an image had never been in its catalogue."""
from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_macrec.data import atomic, features
from recbole_macrec.data.atomic import DEFAULT_FORMAT, AtomicFormat
from recbole_macrec.data.encoders.encode import manifest_file
from recbole_macrec.data.importers.raw import manifest
from recbole_macrec.data.importers.raw.catalogue import IMAGES, URLS, write_urls
from recbole_macrec.data.importers.raw.filtering import Filtering, Interactions
from recbole_macrec.data.importers.sources import read_json_object
from recbole_macrec.errors import UserError
from recbole_macrec.utils.files import new_folder

STEP = "items whose image could be had"


def drop_items(folder: Path, missing: Collection[str], record: dict, form: AtomicFormat = DEFAULT_FORMAT) -> None:
    """Take the items ``missing`` and what falls out of the k-core with them out of the imported dataset in ``folder``.

    Since the k-core of a part lies within the k-core of the whole, this leaves what filtering the raw files without those
    items would leave: it does not matter that images were asked for after the filter. Features that were encoded for the
    larger catalogue go, all else stays. ``record`` becomes ``images`` in the manifest.

    Raises:
        UserError: when nothing would be left.
    """
    name, made = folder.name, manifest.read(folder)
    interactions, items = (atomic.read_table(folder / f"{name}.{kind}", form) for kind in ("inter", "item"))
    user, item = f"{form.user}:token", f"{form.item}:token"
    numbers = [pd.factorize(interactions[column])[0] for column in (user, item)]
    gone, core = set(missing), made["options"]["core"]
    rows = np.arange(len(interactions), dtype=np.float64)  # a user's rows are in time order, so their numbers can stand for times
    filtering = Filtering(Interactions(*numbers, rows))
    filtering.keep(STEP, ~interactions[item].isin(gone).to_numpy())
    if core is not None:
        filtering.keep_core(core)
    left = interactions.iloc[filtering.left.times.astype(np.int64)]
    if left.empty:
        raise UserError(f"no interactions of {folder} are left without the {len(gone)} items whose image can't be had; set "
                        "missing_images: mean to keep them, or see images_failed.json for what to mend")
    stays = items[item].isin(left[item]) if core is not None else ~items[item].isin(gone)
    items = items[stays]
    with new_folder(folder, overwrite=True) as fresh:
        kept = set(items[item])
        _link_rest(folder, fresh, {place for place in items["image:token"] if place})
        atomic.write_table(fresh / f"{name}.inter", left, form)
        atomic.write_table(fresh / f"{name}.item", items, form)
        urls = read_json_object(folder / URLS)
        write_urls(fresh / URLS, ((token, of_item) for token, of_item in urls.items() if token in kept))
        counts = {"users": left[user].nunique(), "items": len(items), "interactions": len(left)}
        steps = [*made["steps"], *(step._asdict() for step in filtering.steps[1:])]
        manifest.save(fresh, {**made, "steps": steps, "counts": counts, "images": record,
                              "files": manifest.fingerprints(fresh, made["files"])})


def _link_rest(folder: Path, fresh: Path, images: Collection[str]) -> None:
    """Give ``fresh`` the files of ``folder`` that need not be written again; of the images, only ``images``."""
    written = {f"{folder.name}.inter", f"{folder.name}.item", URLS, manifest.FILE}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        place = path.relative_to(folder)
        top = place.parts[0]
        encoded = top == features.FOLDER and manifest_file(path.with_name(f"{path.name.split('.')[0]}.npy")).exists()
        hidden = any(part.startswith(".") for part in place.parts)
        if str(place) in written or encoded or hidden or top == IMAGES and place.as_posix() not in images:
            continue
        (fresh / place).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, fresh / place)
        except OSError:  # a file system without links
            shutil.copy2(path, fresh / place)
