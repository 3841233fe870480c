"""Features for modalities of a dataset folder: those that lie there, else encoded from its texts and images."""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import FileLock

from recbole_macrec.data import atomic, features
from recbole_macrec.data.encoders import Encoder, RawItem, create_encoder
from recbole_macrec.data.features import FeatureTable
from recbole_macrec.errors import UserError

TEXT_FIELDS = ("title", "description")
IMAGE_FIELD = "image"


def item_features(dataset_folder: Path | str, name: str, modalities: Sequence[str], encoders: Mapping[str, str],
                  text_fields: Sequence[str] = TEXT_FIELDS, image_field: str = IMAGE_FIELD) -> dict[str, FeatureTable]:
    """Return ``{modality: FeatureTable}`` in the order of ``modalities``.

    Imported features are taken as they are. A modality that ``encoders`` gives an encoder, such as
    ``{"text": "tfidf", "image": "pixels"}``, is encoded from ``NAME.item`` unless that was done before from the same
    content. UserError says which file is missing and how to get it.
    """
    folder = Path(dataset_folder)
    if not folder.is_dir():
        raise UserError(f"dataset folder {folder} does not exist; import it: {atomic.import_command(folder, name)}")
    tables = {}
    for modality in modalities:
        features.check_modality(modality)
        if modality in encoders:
            tables[modality] = encode_missing(folder, name, modality, encoders[modality], text_fields, image_field)
        elif modality in features.available(folder):
            tables[modality] = FeatureTable.load(folder, modality)
        else:
            raise UserError(_how_to_get(folder, name, modality, f"encoders names no encoder for '{modality}'"))
    return tables


def encode_missing(dataset_folder: Path | str, name: str, modality: str, encoder_name: str,
                   text_fields: Sequence[str] = TEXT_FIELDS, image_field: str = IMAGE_FIELD) -> FeatureTable:
    """Return the features of one modality, encoding them if they are absent or were encoded from other content.

    Features without a manifest beside them were imported, and are never encoded anew. One process encodes, others wait.
    """
    folder = Path(dataset_folder)
    npy, _ = features.paths(folder, modality)
    manifest_path = npy.with_suffix(".encoded.json")
    if npy.exists() and not manifest_path.exists():
        return FeatureTable.load(folder, modality)
    encoder = create_encoder(encoder_name)
    items = _raw_items(folder, name, modality, encoder, text_fields, image_field)
    manifest = {"encoder": encoder.name, "settings": encoder.settings, "content_sha256": _content_hash(items)}
    npy.parent.mkdir(exist_ok=True)
    with FileLock(npy.with_name(f".{modality}.lock")):
        if npy.exists() and _read_manifest(manifest_path) == manifest:
            return FeatureTable.load(folder, modality)
        table = FeatureTable(tuple(item.token for item in items), encoder.encode(items))
        # The manifest's presence says "encoded here" and its content "complete": an empty one goes first.
        manifest_path.write_text("{}")
        table.save(folder, modality)
        fresh = manifest_path.with_name(f".{manifest_path.name}.{os.getpid()}")
        fresh.write_text(json.dumps(manifest, indent=1))
        os.replace(fresh, manifest_path)
    return table


def _raw_items(folder: Path, name: str, modality: str, encoder: Encoder, text_fields: Sequence[str],
               image_field: str) -> list[RawItem]:
    frame = atomic.read_items(folder, name)
    if encoder.kind == "text":
        present = [field for field in text_fields if field in frame]
        if not present:
            why = f"{name}.item has no column {' or '.join(text_fields) or '(text_fields is empty)'} to encode"
            raise UserError(_how_to_get(folder, name, modality, why))
        texts = frame[present].agg(" ".join, axis=1)
        return [RawItem(token, text=text.strip()) for token, text in zip(frame["item_id"], texts)]
    if image_field not in frame:
        raise UserError(_how_to_get(folder, name, modality, f"{name}.item has no column {image_field} to encode"))
    return [RawItem(token, image=folder / path if path else None)
            for token, path in zip(frame["item_id"], frame[image_field])]


def _content_hash(items: Sequence[RawItem]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{item.token}\0{item.text}\0".encode())
        if item.image is not None and item.image.is_file():
            digest.update(hashlib.sha256(item.image.read_bytes()).digest())
    return digest.hexdigest()


def _read_manifest(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _how_to_get(folder: Path, name: str, modality: str, why: str) -> str:
    npy, txt = features.paths(folder, modality)
    found = ", ".join(features.available(folder)) or "none"
    return (f"modality '{modality}' of dataset {name} has no features: {npy} is missing (features there: {found}) and {why}; "
            f"import features ({atomic.import_command(folder, name, modality)}) or put {npy.name} and {txt.name} there")
