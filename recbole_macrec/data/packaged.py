"""The dataset in RecBole's package, in whose folder nothing is written."""
import shutil
from pathlib import Path

from recbole_macrec.config.options import PACKAGED_DATASET
from recbole_macrec.data import DATA_PATH
from recbole_macrec.utils.files import atomic_write
from recbole_macrec.utils.requirements import recbole_folder


def item_folder(folder: Path, name: str) -> Path:
    """Return the folder of the features and semantic IDs of a dataset: its own ``folder``.

    For the dataset in RecBole's package it is ``dataset/NAME``, with a copy of its items.
    """
    if name != PACKAGED_DATASET:
        return folder
    own, items = Path(DATA_PATH) / name, f"{name}.item"
    if not (own / items).exists():
        own.mkdir(parents=True, exist_ok=True)
        with atomic_write(own / items) as fresh:
            shutil.copyfile(recbole_folder() / "dataset_example" / name / items, fresh)
    return own
