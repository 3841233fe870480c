"""Prepare the dataset of a model before RecBole loads it."""
from functools import partial
from pathlib import Path

from recbole.config import Config

from recbole_macrec.config.registry import is_ours
from recbole_macrec.data.atomic import AtomicFormat
from recbole_macrec.data.columns import check_columns
from recbole_macrec.data.encoders import pretrained_options
from recbole_macrec.data.fetch.prepare import fetch_dataset
from recbole_macrec.semantic_ids.dataset_settings import encodes_images, learns_from_images, modalities_of
from recbole_macrec.utils.distributed import current_group


def reads_semantic_ids(config: Config) -> bool:
    """Whether the model of ``config`` needs semantic IDs."""
    return is_ours(config.model_class) and config.model_class.reads_semantic_ids(config)


def reads_features(config: Config) -> bool:
    """Whether the model of ``config`` reads item features itself, besides those of semantic IDs."""
    return is_ours(config.model_class) and config.model_class.reads_features(config)


def reads_images(config: Config, folder: Path) -> bool:
    """Whether the model of ``config`` needs the images of the dataset in ``folder``, which have not been encoded yet."""
    if reads_features(config):
        return encodes_images(config, modalities_of(config, folder, with_ids=False), folder)
    return reads_semantic_ids(config) and learns_from_images(config, folder)


def prepare_dataset(config: Config) -> None:
    """Download and prepare the dataset of ``config`` if it has a ``source``. Existing files are kept.

    Images are downloaded only if the model reads them or its semantic IDs need them. Of several processes the first one does
    the work.

    Raises:
        UserError: a file cannot be downloaded; the message names the files to provide and their folders.
    """
    if not config["source"] or config["benchmark_filename"]:
        return
    folder = Path(config["data_path"])
    check_columns(config, folder, folder.name)
    for chosen in (config["encoders"] or {}).values():
        if chosen is not None:
            pretrained_options(chosen)  # a wrong name is an error before the download
    work = partial(
        fetch_dataset,
        folder,
        config["source"],
        partial(reads_images, config, folder),
        config["missing_images"] or "drop",
        bool(config["show_progress"]),
        AtomicFormat.from_config(config),
    )
    current_group().by_first(work, "prepares the dataset")
