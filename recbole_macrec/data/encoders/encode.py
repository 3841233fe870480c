"""Load the features of a dataset's modalities, and encode missing ones from its texts, images or interactions."""
from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from recbole_macrec.config.options import import_command
from recbole_macrec.data import features
from recbole_macrec.data.encoders import Encoder, RawItem, create_encoder, encoder_of
from recbole_macrec.data.encoders.base import NAMED, Kind, require_usable
from recbole_macrec.data.encoders.content import ItemContent
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
from recbole_macrec.utils.files import atomic_write, lock_folder, remove_temporary_files

logger = logging.getLogger(__name__)

MISSING_OPTIONS = {"text": "missing_texts", "image": "missing_images"}  # kind of content -> option for items without it
EncoderChoice = str | Mapping[str, Any]  # value of the option encoders for one modality


class Encoding(NamedTuple):
    """How missing features are encoded.

    Attributes:
        mean_for: kinds of content, ``text`` or ``image``: items without it get the mean feature of the other items.
        device: device of pretrained models; None for the GPU if there is one, else the CPU.
        show_progress: whether to show progress bars.
        processes: processes that encode together.
    """

    mean_for: Collection[str] = ()
    device: torch.device | str | None = None
    show_progress: bool = False
    processes: Group = ALONE


def load_or_encode(
    content: ItemContent, modalities: Sequence[str], encoders: Mapping[str, EncoderChoice], encoding: Encoding = Encoding()
) -> dict[str, FeatureTable]:
    """Return ``{modality: FeatureTable}`` in the order of ``modalities``.

    Imported features are used unchanged. Other modalities are encoded, unless they were encoded before from the same content.

    Args:
        modalities: the modalities to return.
        encoders: modality -> encoder, such as ``{"text": "tfidf", "image": {"model": "openai/clip-vit-large-patch14"}}``.

    Raises:
        UserError: if features are missing and cannot be encoded; the message says how to obtain them.
    """
    folder = content.folder
    if not folder.is_dir():
        raise UserError(f"dataset folder {folder} does not exist; import it: {import_command(folder, content.name)}")
    if not isinstance(encoders, Mapping):
        raise UserError(f"encoders is {encoders!r}; expected an encoder for each modality, such as {{text: tfidf}}")
    tables = {}
    for modality in modalities:
        features.check_modality(modality)
        chosen = encoder_of(encoders, modality)
        if chosen is not None:
            tables[modality] = encode_missing(content, modality, chosen, encoding)
        elif encoded_from_interactions(folder, modality):
            raise UserError(f"features of modality '{modality}' in {folder} were encoded from the training interactions of an "
                            f"earlier run; set encoders to {{{modality}: {Cooccurrence.name}}} to encode those of this run, or "
                            "leave the modality out of modalities")
        elif modality in features.available_modalities(folder):
            _check_content(content, modality, encoding.processes)
            tables[modality] = FeatureTable.load(folder, modality)
        else:
            raise content.unavailable(modality, f"encoders names no encoder for '{modality}'")
    return tables


def encode_missing(
    content: ItemContent, modality: str, chosen: EncoderChoice, encoding: Encoding = Encoding()
) -> FeatureTable:
    """Return the features of one modality; encode them if they are missing or were encoded from other content.

    Features without a manifest were imported and are never replaced. Pretrained models encode shard by shard, and a killed run
    resumes after the last finished shard. Several processes share the shards. If several runs need the same features, one
    encodes them and the others wait. See :func:`load_or_encode` for the arguments.
    """
    folder, processes = content.folder, encoding.processes
    npy, _ = features.feature_paths(folder, modality)
    manifest_path = manifest_file(npy)
    if is_imported(folder, modality):
        return FeatureTable.load(folder, modality)
    encoder = create_encoder(chosen, encoding.device)
    frame = content.read()
    columns: dict[Kind, list[str]] = {}
    if encoder.kind == "interactions":
        items = content.items_with_users(frame, encoder)
    else:
        columns[encoder.kind] = content.columns(frame, encoder.kind, modality)
        items = content.items(frame, encoder.kind, columns[encoder.kind])
    content_hash = cached_content_hash(items, folder, modality, processes.first)
    identity = {"encoder": encoder.name, "settings": encoder.settings, "content_sha256": content_hash}
    if processes.share(npy.exists() and matches(manifest_path, identity)):  # without lock, because the folder may be read-only
        _check_means(manifest_path, items, encoder, encoding)
        table = FeatureTable.load(folder, modality)
        if processes.share(matches(manifest_path, identity)):  # no other run replaced them meanwhile
            return table
    needed = f"features {npy.name} of its texts or images by this encoder"
    with lock_folder(npy.parent, f".{modality}.lock", needed) if processes.first else nullcontext():
        if processes.first:
            remove_temporary_files(npy.parent, f"{modality}.")
        if processes.share(npy.exists() and matches(manifest_path, identity)):  # another run encoded them meanwhile
            _check_means(manifest_path, items, encoder, encoding)
            return FeatureTable.load(folder, modality)
        _encode(items, encoder, npy, identity, columns, encoding)
    processes.wait()
    return FeatureTable.load(folder, modality)


def _check_content(content: ItemContent, modality: str, processes: Group) -> None:
    """Raise UserError if features were encoded from other texts or images than the dataset has now."""
    folder = content.folder
    record = read_manifest(manifest_file(features.feature_paths(folder, modality)[0]))
    columns = record.get("columns")
    if not columns:  # imported, or encoded by an earlier version
        return
    ((kind, names),) = columns.items()
    frame = content.read()
    same = set(names) <= set(frame) and record["content_sha256"] == cached_content_hash(
        content.items(frame, kind, names), folder, modality, processes.first)
    if not processes.share(same):
        raise UserError(f"features of modality '{modality}' were encoded by {record['encoder']} from other {kind}s than those "
                        f"of {folder / content.name}.item; name an encoder of '{modality}' in encoders to encode these")


def _encode(items: Sequence[RawItem], encoder: Encoder, npy: Path, identity: dict[str, Any],
            columns: Mapping[Kind, Sequence[str]], encoding: Encoding) -> None:
    """Encode ``items`` with all ``processes``; the first one writes the features and their manifest.

    Args:
        npy: the file of the features.
        identity: entries of the manifest by which later runs recognise the features.
        columns: kind of the encoded content -> its columns in the ``.item`` file, for the manifest.
    """
    processes, modality = encoding.processes, npy.stem
    usable = _usable(items, encoder, encoder.kind in encoding.mean_for)
    shards = None
    if isinstance(encoder, PretrainedEncoder):
        if processes.first and encoder.slow_warning:
            logger.warning(encoder.slow_warning)
        shards = Shards(npy.with_name(f".{modality}.shards"), identity, encoder, usable)
        shards.encode(processes, encoding.show_progress)
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
    FeatureTable(tuple(item.token for item in items), matrix).save(npy.parents[1], modality)
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


def _check_means(manifest: Path, items: Sequence[RawItem], encoder: Encoder, encoding: Encoding) -> None:
    """Raise UserError naming the items with mean features in the encoded features, unless ``encoding`` allows them."""
    if encoder.kind not in encoding.mean_for and encoding.processes.share("mean_features" in read_manifest(manifest)):
        require_usable(encoder.kind, encoder.unusable(items))


def _with_means(matrix: np.ndarray, usable: Sequence[RawItem], items: Sequence[RawItem]) -> np.ndarray:
    """Return [len(items), d]: for each item its row of ``matrix`` [len(usable), d], or the mean of all rows."""
    row = {item.token: i for i, item in enumerate(usable)}
    filled = np.vstack([matrix, matrix.mean(axis=0, dtype=np.float64).astype(np.float32)])
    return filled[[row.get(item.token, len(matrix)) for item in items]]
