"""Semantic-ID settings of a configuration for its dataset: modalities, and source of the IDs."""
import logging
from collections.abc import Iterable
from pathlib import Path

from recbole_macrec.data.atomic import AtomicFormat
from recbole_macrec.data.encoders import create_encoder
from recbole_macrec.data.encoders.encode import MISSING_OPTIONS, encodable, is_imported
from recbole_macrec.data.features import available_modalities
from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids import SemanticIDSettings
from recbole_macrec.semantic_ids.quantizers import QUANTIZERS

FOLDER = "semantic_ids"

logger = logging.getLogger(__name__)


def settings_of(config, folder: Path) -> SemanticIDSettings:
    """Settings of the semantic IDs; if ``modalities`` is not set, of all modalities of the dataset in ``folder``."""
    modalities = config["modalities"] or _available_modalities(config, folder)
    if not isinstance(modalities, list | tuple):
        raise UserError(f"modalities is {modalities!r}; expected a list, e.g. ['text', 'image'].")
    quantizer = QUANTIZERS.get(config["quantizer"])  # None for an unset or unknown name
    needs_all = (quantizer is not None and quantizer.joins_modalities) or config["representation"] in ("concatenated", "graph")
    return SemanticIDSettings.from_config(config, list(modalities) if needs_all else _read(config, modalities))


def ids_read(config, settings: SemanticIDSettings) -> list[str]:
    """Names of the IDs that the model of ``config`` reads."""
    return _read(config, settings.ids)


def source_of_ids(settings: SemanticIDSettings, folder: Path) -> str:
    """``learn`` or ``published``: the option ``semantic_ids``; for ``auto`` it depends on the files in ``folder``."""
    if settings.semantic_ids != "auto":
        return settings.semantic_ids
    has_features = set(settings.modalities) <= set(available_modalities(folder))
    published = not has_features and all(file.is_file() for file in published_files(settings, folder).values())
    return "published" if published else "learn"


def published_files(settings: SemanticIDSettings, folder: Path) -> dict[str, Path]:
    """Paths of published IDs, by name."""
    return {name: folder / FOLDER / f"{name}.json" for name in settings.ids}


def wants_images(config, folder: Path) -> bool:
    """Whether the semantic IDs of ``config`` are learnt from images that have not been encoded yet."""
    settings = settings_of(config, folder)
    if source_of_ids(settings, folder) == "published":
        return False
    return encodes_images(config, settings.modalities, folder)


def mean_for(config) -> list[str]:
    """Kinds of content for which an item without content gets the mean feature of the other items."""
    return [kind for kind, option in MISSING_OPTIONS.items() if config[option] == "mean"]


def _read(config, names) -> list[str]:
    return list(names)[: config["max_modalities"]]


def modalities_with_features(config, folder: Path) -> list[str]:
    """Modalities with features or raw content in ``folder``: text, image, then others by name.

    Raises:
        UserError: if there are none.
    """
    return _in_order(_with_features(config, folder), folder, "neither features nor")


def encodes_images(config, modalities: Iterable[str], folder: Path) -> bool:
    """Whether one of ``modalities`` is encoded from images."""
    chosen = [(config["encoders"] or {}).get(m) for m in modalities if not is_imported(folder, m)]
    return any(create_encoder(encoder, device="cpu").kind == "image" for encoder in chosen if encoder is not None)


def _available_modalities(config, folder: Path) -> list[str]:
    """Modalities with features, IDs or raw content in the folder: text, image, then others by name."""
    found = _with_features(config, folder) | {path.stem for path in (folder / FOLDER).glob("*.json")}
    return _in_order(found, folder, "neither features nor semantic IDs nor")


def _with_features(config, folder: Path) -> set[str]:
    content = encodable(folder, folder.name, config["text_fields"] or [], config["image_field"] or "image",
                        AtomicFormat.from_config(config))
    return {*available_modalities(folder), *content}


def _in_order(found: set[str], folder: Path, lacking: str) -> list[str]:
    if not found:
        raise UserError(f"{folder} has {lacking} texts and images to encode; import some, or set modalities.")
    chosen = sorted(found, key=lambda modality: (modality != "text", modality != "image", modality))
    logger.info(f"modalities is not set; using {chosen}, found in {folder}")
    return chosen
