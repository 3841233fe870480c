"""Load the features of a dataset's modalities, and encode missing ones from its texts, images or interactions."""
from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from recbole_macrec.data import atomic, features
from recbole_macrec.data.atomic import DEFAULT_FORMAT, AtomicFormat
from recbole_macrec.data.encoders import Encoder, RawItem, create_encoder, encoder_of
from recbole_macrec.data.encoders.base import NAMED, Kind, require_usable
from recbole_macrec.data.encoders.cooccurrence import Cooccurrence
from recbole_macrec.data.encoders.encoded_manifest import (
    cached_content_hash,
    encoded_from_interactions,
    is_imported,
    manifest_file,
    matches,
    read_manifest,
)
from recbole_macrec.data.encoders.pretrained import PretrainedEncoder
from recbole_macrec.data.encoders.shards import Shards
from recbole_macrec.data.features import FeatureTable
from recbole_macrec.errors import UserError
from recbole_macrec.utils.distributed import ALONE, Group
from recbole_macrec.utils.files import atomic_write, lock_folder, remove_unfinished

logger = logging.getLogger(__name__)

TEXT_FIELDS = ("title", "description")
IMAGE_FIELD = "image"
MISSING_OPTIONS = {"text": "missing_texts", "image": "missing_images"}  # kind of content -> option for items without it
EncoderChoice = str | Mapping[str, Any]  # value of the option encoders for one modality
Users = Mapping[str, np.ndarray]  # item token -> numbers of the users with a training interaction with it


def item_features(dataset_folder: Path | str, name: str, modalities: Sequence[str], encoders: Mapping[str, EncoderChoice],
                  text_fields: Sequence[str] = TEXT_FIELDS, image_field: str = IMAGE_FIELD,
                  device: torch.device | str | None = None, show_progress: bool = False,
                  users: Callable[[], Users] | None = None, mean_for: Collection[str] = (),
                  processes: Group = ALONE, form: AtomicFormat = DEFAULT_FORMAT) -> dict[str, FeatureTable]:
    """Return ``{modality: FeatureTable}`` in the order of ``modalities``.

    Imported features are used unchanged. Other modalities are encoded, unless they were encoded before from the same content.

    Args:
        dataset_folder: the dataset folder.
        name: name of the dataset.
        modalities: the modalities to return.
        encoders: modality -> encoder, such as ``{"text": "tfidf", "image": {"model": "openai/clip-vit-large-patch14"}}``.
        text_fields: text columns of ``NAME.item``.
        image_field: column of ``NAME.item`` with image paths.
        device: device of pretrained models.
        show_progress: whether to show progress bars.
        users: returns the users of each item; called for encoders of interactions only.
        mean_for: kinds of content, ``text`` or ``image``: items without it get the mean feature of the other items.
        processes: processes that encode together.
        form: format of ``NAME.item``.

    Raises:
        UserError: if features are missing and cannot be encoded; the message says how to obtain them.
    """
    folder = Path(dataset_folder)
    if not folder.is_dir():
        raise UserError(f"dataset folder {folder} does not exist; import it: {atomic.import_command(folder, name)}")
    if not isinstance(encoders, Mapping):
        raise UserError(f"encoders is {encoders!r}; expected an encoder for each modality, such as {{text: tfidf}}")
    tables = {}
    for modality in modalities:
        features.check_modality(modality)
        chosen = encoder_of(encoders, modality)
        if chosen is not None:
            tables[modality] = encode_missing(folder, name, modality, chosen, text_fields, image_field,
                                              device=device, show_progress=show_progress, users=users,
                                              mean_for=mean_for, processes=processes, form=form)
        elif encoded_from_interactions(folder, modality):
            raise UserError(f"features of modality '{modality}' in {folder} were encoded from the training interactions of an "
                            f"earlier run; set encoders to {{{modality}: {Cooccurrence.name}}} to encode those of this run, or "
                            "leave the modality out of modalities")
        elif modality in features.available_modalities(folder):
            _check_content(folder, name, modality, form, processes)
            tables[modality] = FeatureTable.load(folder, modality)
        else:
            raise UserError(_how_to_get(folder, name, modality, f"encoders names no encoder for '{modality}'"))
    return tables


def encode_missing(dataset_folder: Path | str, name: str, modality: str, chosen: EncoderChoice,
                   text_fields: Sequence[str] = TEXT_FIELDS, image_field: str = IMAGE_FIELD,
                   device: torch.device | str | None = None, show_progress: bool = False,
                   processes: Group = ALONE, users: Callable[[], Users] | None = None,
                   mean_for: Collection[str] = (), form: AtomicFormat = DEFAULT_FORMAT) -> FeatureTable:
    """Return the features of one modality; encode them if they are missing or were encoded from other content.

    Features without a manifest were imported and are never replaced. Pretrained models encode shard by shard, and a killed run
    resumes after the last finished shard. ``processes`` share the shards. If several runs need the same features, one encodes
    them and the others wait. See :func:`item_features` for the arguments.
    """
    folder = Path(dataset_folder)
    npy, _ = features.feature_paths(folder, modality)
    manifest_path = manifest_file(npy)
    if is_imported(folder, modality):
        return FeatureTable.load(folder, modality)
    encoder = create_encoder(chosen, device)
    frame = atomic.read_items(folder, name, form)
    columns: dict[Kind, list[str]] = {}
    if encoder.kind == "interactions":
        items = _items_with_users(frame, encoder, users)
    else:
        columns[encoder.kind] = _columns(frame, folder, name, modality, encoder.kind, text_fields, image_field)
        items = _items_with_content(frame, folder, columns)
    content = cached_content_hash(items, folder, modality, processes.first)
    identity = {"encoder": encoder.name, "settings": encoder.settings, "content_sha256": content}
    if processes.share(npy.exists() and matches(manifest_path, identity)):  # without lock, because the folder may be read-only
        _check_means(manifest_path, items, encoder, mean_for, processes)
        table = FeatureTable.load(folder, modality)
        if processes.share(matches(manifest_path, identity)):  # no other run replaced them meanwhile
            return table
    needed = f"features {npy.name} of its texts or images by this encoder"
    with lock_folder(npy.parent, f".{modality}.lock", needed) if processes.first else nullcontext():
        if processes.first:
            remove_unfinished(npy.parent, f"{modality}.")
        if processes.share(npy.exists() and matches(manifest_path, identity)):  # another run encoded them meanwhile
            _check_means(manifest_path, items, encoder, mean_for, processes)
            return FeatureTable.load(folder, modality)
        _encode(items, encoder, encoder.kind in mean_for, folder, modality, identity, columns, processes, show_progress)
    processes.wait()
    return FeatureTable.load(folder, modality)


def encodable(dataset_folder: Path, name: str, text_fields: Sequence[str], image_field: str,
              form: AtomicFormat = DEFAULT_FORMAT) -> set[str]:
    """Return which of ``text`` and ``image`` can be encoded from the columns of ``NAME.item``."""
    if not (dataset_folder / f"{name}.item").is_file():
        return set()
    columns = set(atomic.read_items(dataset_folder, name, form))
    return {modality for modality, fields in (("text", text_fields), ("image", [image_field])) if columns & set(fields)}


def _check_content(folder: Path, name: str, modality: str, form: AtomicFormat, processes: Group) -> None:
    """Raise UserError if features were encoded from other texts or images than the dataset has now."""
    manifest = manifest_file(features.feature_paths(folder, modality)[0])
    record = read_manifest(manifest)
    columns = record.get("columns")
    if not columns:  # imported, or encoded by an earlier version
        return
    ((kind, names),) = columns.items()
    frame = atomic.read_items(folder, name, form)
    same = set(names) <= set(frame) and record["content_sha256"] == cached_content_hash(
        _items_with_content(frame, folder, columns), folder, modality, processes.first)
    if not processes.share(same):
        raise UserError(f"features of modality '{modality}' were encoded by {record['encoder']} from other {kind}s than those "
                        f"of {folder / name}.item; name an encoder of '{modality}' in encoders to encode these")


def _items_with_users(frame: pd.DataFrame, encoder: Encoder, users: Callable[[], Users] | None) -> list[RawItem]:
    if users is None:
        raise UserError(f"encoder {encoder.name} reads the training interactions, which exist only in a run; choose "
                        "another encoder here, or set this one in the option encoders of a run")
    users_of, no_user = users(), np.empty(0, dtype=np.int64)
    return [RawItem(token, users=users_of.get(token, no_user)) for token in sorted(frame["item_id"])]


def _columns(frame: pd.DataFrame, folder: Path, name: str, modality: str, kind: Kind, text_fields: Sequence[str],
             image_field: str) -> list[str]:
    """Return the columns to encode; raise UserError if there are none."""
    if kind == "text":
        present = [field for field in text_fields if field in frame]
        others = ", ".join(column for column in frame if column not in ("item_id", image_field, *present)) or "none"
        if not present:
            why = (f"{name}.item has no column {' or '.join(text_fields) or '(text_fields is empty)'} to encode (--text_fields "
                   f"chooses among its columns: {others})")
            raise UserError(_how_to_get(folder, name, modality, why))
        absent = [field for field in text_fields if field not in frame]
        if absent and tuple(text_fields) != TEXT_FIELDS:  # of the default columns, a dataset may lack one
            logger.warning(f"{name}.item has no column {' or '.join(absent)}, which text_fields names: texts are read only "
                           f"from {', '.join(present)} (other columns: {others})")
        return present
    if image_field not in frame:
        raise UserError(_how_to_get(folder, name, modality, f"{name}.item has no column {image_field} to encode"))
    return [image_field]


def _items_with_content(frame: pd.DataFrame, folder: Path, columns: Mapping[Kind, Sequence[str]]) -> list[RawItem]:
    """Return the items with their texts or images, sorted, as features must not depend on the order of the rows.

    Args:
        columns: kind of content -> its columns, of one kind.
    """
    ((kind, names),) = columns.items()
    rows = zip(frame["item_id"], *(frame[column] for column in names))
    if kind == "text":
        items = [RawItem(token, tuple(texts)) for token, *texts in rows]
    else:
        items = [RawItem(token, image=folder / path if path else None) for token, path in rows]
    return sorted(items, key=lambda item: item.token)


def _encode(items: Sequence[RawItem], encoder: Encoder, allow_unusable: bool, folder: Path, modality: str,
            identity: dict[str, Any], columns: Mapping[Kind, Sequence[str]], processes: Group,
            show_progress: bool) -> None:
    """Encode ``items`` with all ``processes``; the first one writes the features and their manifest.

    Args:
        identity: entries of the manifest by which later runs recognise the features.
        columns: kind of the encoded content -> its columns in the ``.item`` file, for the manifest.
    """
    npy, _ = features.feature_paths(folder, modality)
    usable = _usable(items, encoder, allow_unusable)
    shards = None
    if isinstance(encoder, PretrainedEncoder):
        if processes.first and encoder.slow_warning:
            logger.warning(encoder.slow_warning)
        shards = Shards(npy.with_name(f".{modality}.shards"), identity, encoder, usable)
        shards.encode(processes, show_progress)
        processes.wait()
    if not processes.first:
        return
    matrix = shards.join() if shards else encoder.encode(usable)
    details = dict(encoder.details)
    if len(usable) < len(items):
        matrix, details["mean_features"] = _with_means(matrix, usable, items), len(items) - len(usable)
    # Features with a manifest were encoded, not imported, and are complete if its content matches: write an empty one first.
    manifest_path = manifest_file(npy)
    manifest_path.write_text("{}")
    FeatureTable(tuple(item.token for item in items), matrix).save(folder, modality)
    with atomic_write(manifest_path) as path:
        path.write_text(json.dumps({**identity, "columns": columns, "dimensions": matrix.shape[1], **details}, indent=1))
    if shards:
        shards.remove()


def _usable(items: Sequence[RawItem], encoder: Encoder, allow_unusable: bool) -> Sequence[RawItem]:
    """Return the items that ``encoder`` can encode.

    Raises:
        UserError: naming the other items, unless ``allow_unusable`` and some items are usable.
    """
    unusable = encoder.unusable(items)
    usable = [item for item in items if item.token not in unusable]
    if not (allow_unusable and usable):
        require_usable(encoder.kind, unusable)
    elif unusable:
        reasons = "; ".join(f"'{token}': {reason}" for token, reason in list(unusable.items())[:NAMED])
        logger.warning(f"{len(unusable)} of {len(items)} items get the mean {encoder.kind} feature of the others ({reasons}"
                       f"{'; ...' if len(unusable) > NAMED else ''})")
    return usable


def _check_means(manifest: Path, items: Sequence[RawItem], encoder: Encoder, mean_for: Collection[str],
                 processes: Group) -> None:
    """Raise UserError naming the items with mean features in the encoded features, unless ``mean_for`` allows them."""
    if encoder.kind not in mean_for and processes.share("mean_features" in read_manifest(manifest)):
        require_usable(encoder.kind, encoder.unusable(items))


def _with_means(matrix: np.ndarray, usable: Sequence[RawItem], items: Sequence[RawItem]) -> np.ndarray:
    """Return [len(items), d]: for each item its row of ``matrix`` [len(usable), d], or the mean of all rows."""
    row = {item.token: i for i, item in enumerate(usable)}
    filled = np.vstack([matrix, matrix.mean(axis=0, dtype=np.float64).astype(np.float32)])
    return filled[[row.get(item.token, len(matrix)) for item in items]]


def _how_to_get(folder: Path, name: str, modality: str, why: str) -> str:
    """Return the message that features of ``modality`` are missing; ``why`` is the reason why they cannot be encoded."""
    npy, txt = features.feature_paths(folder, modality)
    found = ", ".join(features.available_modalities(folder)) or "none"
    state = "was encoded from other columns" if npy.exists() else f"is missing (existing features: {found})"
    return (
        f"modality '{modality}' of dataset {name} has no features for these options: {npy} {state} and {why}; "
        f"import features ({atomic.import_command(folder, name, modality)}) or put {npy.name} and {txt.name} there"
    )
