"""Prepares the dataset that a model needs before RecBole loads it."""
from functools import partial
from pathlib import Path

from recbole.config import Config

from recbole_macrec.config.registry import is_ours
from recbole_macrec.data.atomic import AtomicFormat
from recbole_macrec.data.fetch.prepare import prepare as prepare_dataset
from recbole_macrec.data.loading import check_columns
from recbole_macrec.semantic_ids.dataset_settings import wants_images
from recbole_macrec.utils.distributed import current


def reads_semantic_ids(config: Config) -> bool:
    """Whether the model of ``config`` needs the items' semantic IDs."""
    return is_ours(config.model_class) and config.model_class.reads_semantic_ids(config)


def prepare(config: Config) -> None:
    """Bring the dataset of ``config`` here if it has a ``source``: its interactions, and images where the model's
    semantic IDs need them. What is there already is left as it is. Of several processes the first one does it.

    Raises:
        UserError: saying which files to bring, and where to, when they can't be had.
    """
    if not config["source"] or config["benchmark_filename"]:
        return
    folder = Path(config["data_path"])
    check_columns(config, folder, folder.name)
    work = partial(
        prepare_dataset,
        folder,
        config["source"],
        lambda: reads_semantic_ids(config) and wants_images(config, folder),
        config["missing_images"] or "drop",
        bool(config["show_progress"]),
        AtomicFormat.of(config),
    )
    current().by_first(work, "prepares the dataset")
