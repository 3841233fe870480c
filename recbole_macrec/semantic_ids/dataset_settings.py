"""Semantic-ID settings of a configuration for its dataset: modalities, and source of the IDs."""
import logging
from collections.abc import Iterable
from pathlib import Path

from recbole_macrec.data.encoders import create_encoder, encoder_of, reads_interactions
from recbole_macrec.data.encoders.content import ItemContent
from recbole_macrec.data.encoders.encode import MISSING_OPTIONS
from recbole_macrec.data.encoders.encoded_manifest import encoded_from_interactions, is_imported
from recbole_macrec.data.features import available_modalities
from recbole_macrec.data.id_files import IDS_FOLDER, modality_of
from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids import SemanticIDSettings
from recbole_macrec.semantic_ids.quantizers import QUANTIZERS, Quantizer

logger = logging.getLogger(__name__)


def settings_of(config, folder: Path) -> SemanticIDSettings:
    """Settings of the semantic IDs; if ``modalities`` is not set, of all modalities of the dataset in ``folder``.

    A quantizer that reads no features needs no modality: without any, the name of the IDs is that of the quantizer.
    """
    quantizer, modalities = _quantizer(config), modalities_of(config, folder)
    needs_all = (quantizer is not None and quantizer.joins_modalities) or config["representation"] in ("concatenated", "graph")
    return SemanticIDSettings.from_config(config, modalities if needs_all else _first_modalities(config, modalities))


def modalities_of(config, folder: Path, with_ids: bool = True) -> list[str]:
    """The option ``modalities``; if it is not set, all modalities of the dataset in ``folder``.

    These have features, raw content or, unless ``with_ids`` is False, published IDs. Text comes first, then image, then others
    by name.

    Raises:
        UserError: there are none, or the option is not a list.
    """
    modalities = config["modalities"] or _found_modalities(config, folder, with_ids)
    if not isinstance(modalities, list | tuple):
        raise UserError(f"modalities is {modalities!r}; expected a list, e.g. ['text', 'image'].")
    return list(modalities)


def read_id_names(config, settings: SemanticIDSettings) -> list[str]:
    """Names of the IDs that the model of ``config`` reads, in all tokenizations."""
    read = _first_modalities(config, settings.ids)
    return [name for name in settings.id_names if modality_of(name) in read]


def published_and_learnt(
    config, settings: SemanticIDSettings, folder: Path
) -> tuple[dict[str, Path], SemanticIDSettings | None]:
    """Which IDs are read from published files, and which are learnt.

    This is the option ``semantic_ids``; for ``auto`` it depends on the imported files in ``folder``, but not on features that
    a run has encoded. Modalities encoded from interactions, which depend on the split, are learnt unless they have a file; a
    single such modality by an RQ-VAE of its own.

    Returns:
        Name of the IDs -> their file; and the settings of the IDs to learn, None if there are none.

    Raises:
        UserError: ``folder`` has fewer published tokenizations of a modality than the option ``tokenizations``.
    """
    computed = [m for m in settings.modalities if _will_read_interactions(config, m, folder)]
    published = [name for name in settings.ids if name not in computed or _published_file(name, folder).is_file()]
    if settings.semantic_ids == "auto":
        has_features = all(is_imported(folder, m) for m in set(settings.read_modalities) - set(computed))
        if has_features or not all(_published_file(name, folder).is_file() for name in published):
            published = []
    if settings.semantic_ids == "learn" or not published:
        return {}, settings
    files = {name: _published_file(name, folder) for name in settings.id_names if modality_of(name) in published}
    for name, file in files.items():
        if name not in published and not file.is_file():
            raise UserError(f"tokenizations is {settings.tokenizations}, but {file} does not exist; import as many published "
                            f"tokenizations of {modality_of(name)} with --semantic_ids, lower tokenizations, or set "
                            "semantic_ids to learn.")
    others = tuple(name for name in settings.ids if name not in published)
    if not others:
        return files, None
    alone = len(others) == 1 and settings.joins_modalities
    return files, settings.replace(modalities=others, quantizer="rqvae" if alone else settings.quantizer)


def unread_published(settings: SemanticIDSettings, folder: Path, published: Iterable[str]) -> list[str]:
    """Names of the IDs that ``semantic_ids: auto`` learns although they also have a published file; those of ``published`` are
    read."""
    names = settings.id_names if settings.semantic_ids == "auto" else ()
    return [name for name in names if name not in published and _published_file(name, folder).is_file()]


def learns_from_images(config, folder: Path) -> bool:
    """Whether the semantic IDs of ``config`` are learnt from images that have not been encoded yet."""
    _, learnt = published_and_learnt(config, settings_of(config, folder), folder)
    return learnt is not None and encodes_images(config, learnt.read_modalities, folder)


def filled_with_mean(config) -> list[str]:
    """Kinds of content for which an item without content gets the mean feature of the other items."""
    return [kind for kind, option in MISSING_OPTIONS.items() if config[option] == "mean"]


def _quantizer(config) -> type[Quantizer] | None:
    """The class of the option ``quantizer``; None for an unset or unknown name."""
    return QUANTIZERS.get(config["quantizer"])


def _first_modalities(config, names) -> list[str]:
    """The first ``max_modalities`` of ``names``, which the model reads."""
    return list(names)[: config["max_modalities"]]


def encodes_images(config, modalities: Iterable[str], folder: Path) -> bool:
    """Whether one of ``modalities`` is encoded from images."""
    chosen = [(config["encoders"] or {}).get(m) for m in modalities if not is_imported(folder, m)]
    return any(create_encoder(encoder, device="cpu").kind == "image" for encoder in chosen if encoder is not None)


def _found_modalities(config, folder: Path, with_ids: bool) -> list[str]:
    """Modalities of the dataset in ``folder``, see :func:`modalities_of`."""
    found = ItemContent.from_config(config, folder, folder.name).encodable()
    found |= {m for m in available_modalities(folder)
              if not (_will_read_interactions(config, m, folder) or encoded_from_interactions(folder, m))}
    if with_ids:
        found |= {modality_of(path.stem) for path in (folder / IDS_FOLDER).glob("*.json")}
        quantizer = _quantizer(config)
        if not found and quantizer is not None and quantizer.reads_interactions:
            return [config["quantizer"]]
    if not found:
        ids = "nor semantic IDs " if with_ids else ""
        raise UserError(f"{folder} has neither features {ids}nor texts and images to encode; import some, name the text "
                        "columns with text_fields, or set modalities.")
    chosen = sorted(found, key=lambda modality: (modality != "text", modality != "image", modality))
    logger.info(f"modalities is not set; using {chosen}, found in {folder}")
    return chosen


def _published_file(name: str, folder: Path) -> Path:
    return folder / IDS_FOLDER / f"{name}.json"


def _will_read_interactions(config, modality: str, folder: Path) -> bool:
    """Whether this run encodes ``modality`` from the training interactions."""
    return reads_interactions(encoder_of(config["encoders"] or {}, modality)) and not is_imported(folder, modality)
