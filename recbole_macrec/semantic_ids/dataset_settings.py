"""What a configuration wants of a dataset: which modalities, where their semantic IDs come from, and what that takes."""
import logging
from pathlib import Path

from recbole_macrec.data.atomic import AtomicFormat
from recbole_macrec.data.encoders import create_encoder
from recbole_macrec.data.encoders.encode import LACKING, encodable, is_imported
from recbole_macrec.data.features import available
from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids import SemanticIDSettings

FOLDER = "semantic_ids"

logger = logging.getLogger(__name__)


def settings_of(config, folder: Path) -> SemanticIDSettings:
    """The settings of the semantic IDs; without ``modalities`` they are of what the dataset in ``folder`` has."""
    modalities = config["modalities"] or _modalities_there(config, folder)
    if not isinstance(modalities, list | tuple):
        raise UserError(f"modalities must be a list such as ['text', 'image'], but it is {modalities!r}.")
    together = config["quantizer"] == "cross_modal_rqvae" or config["representation"] in ("concatenated", "graph")
    return SemanticIDSettings.from_config(config, list(modalities) if together else _read(config, modalities))


def ids_read(config, settings: SemanticIDSettings) -> list[str]:
    """Which of the IDs the model of ``config`` reads."""
    return _read(config, settings.ids)


def source_of_ids(settings: SemanticIDSettings, folder: Path) -> str:
    """``learn`` or ``published``: what ``semantic_ids`` says, or what there is where it says ``auto``."""
    if settings.semantic_ids != "auto":
        return settings.semantic_ids
    have_features = set(settings.modalities) <= set(available(folder))
    published = not have_features and all(file.is_file() for file in published_files(settings, folder).values())
    return "published" if published else "learn"


def published_files(settings: SemanticIDSettings, folder: Path) -> dict[str, Path]:
    """Where IDs that others published lie."""
    return {name: folder / FOLDER / f"{name}.json" for name in settings.ids}


def wants_images(config, folder: Path) -> bool:
    """Whether the semantic IDs of ``config`` are learnt from images that are still to be encoded."""
    settings = settings_of(config, folder)
    if source_of_ids(settings, folder) == "published":
        return False
    chosen = [(config["encoders"] or {}).get(m) for m in settings.modalities if not is_imported(folder, m)]
    return any(create_encoder(encoder, device="cpu").kind == "image" for encoder in chosen if encoder is not None)


def mean_for(config) -> list[str]:
    """The kinds of content that an item may lack, and then has the mean feature of the others."""
    return [kind for kind, option in LACKING.items() if config[option] == "mean"]


def _read(config, names) -> list[str]:
    return list(names)[: config["max_modalities"]]


def _modalities_there(config, folder: Path) -> list[str]:
    """The modalities that the folder has features, IDs or raw content of: text, image, then others by name."""
    files = {*available(folder), *(path.stem for path in (folder / FOLDER).glob("*.json"))}
    there = files | encodable(folder, folder.name, config["text_fields"] or [], config["image_field"] or "image",
                              AtomicFormat.of(config))
    if not there:
        raise UserError(f"{folder} has neither features nor semantic IDs nor texts and images to encode; import some, or name "
                        "modalities.")
    chosen = sorted(there, key=lambda modality: (modality != "text", modality != "image", modality))
    logger.info(f"modalities is not set: {chosen}, which {folder} has")
    return chosen
