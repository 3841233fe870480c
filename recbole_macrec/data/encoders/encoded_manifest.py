"""Manifests of encoded features: encoder, settings and a hash of the content, by which later runs recognise the features.

Features without a manifest were imported.
"""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recbole_macrec.data import features
from recbole_macrec.data.encoders import RawItem, reads_interactions
from recbole_macrec.utils.files import atomic_write, is_read_only


def manifest_file(npy: Path) -> Path:
    """Return the path of the manifest of encoded features: encoder, settings, content hash, model, versions."""
    return npy.with_suffix(".encoded.json")


def is_imported(dataset_folder: Path, modality: str) -> bool:
    """Return whether there are features of ``modality`` that were imported, not encoded."""
    npy, _ = features.feature_paths(dataset_folder, modality)
    return npy.exists() and not manifest_file(npy).exists()


def encoded_from_interactions(dataset_folder: Path, modality: str) -> bool:
    """Return whether the features of ``modality`` were encoded from training interactions, which depend on the split."""
    npy, _ = features.feature_paths(dataset_folder, modality)
    return npy.exists() and reads_interactions(read_manifest(manifest_file(npy)).get("encoder"))


def matches(manifest: Path, identity: dict) -> bool:
    """Return whether the manifest has all entries of ``identity``; its other entries, such as versions, may differ."""
    record = read_manifest(manifest)
    return {key: record.get(key) for key in identity} == identity


def read_manifest(manifest: Path) -> dict:
    """Return the manifest, {} if it is missing or unreadable."""
    try:
        record = json.loads(manifest.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def cached_content_hash(items: Sequence[RawItem], folder: Path, modality: str, write: bool) -> str:
    """Return a hash of the texts, users and images of ``items``: the cached one if no image file has another path, size or
    modification time.

    Images can be gigabytes, so a run whose features exist does not read them. The paths are relative to the dataset ``folder``,
    which can be moved. One process may ``write`` the cache, unless the folder is read-only.
    """
    if not any(item.image for item in items):
        return _content_hash(items)
    cache = features.feature_paths(folder, modality)[0].with_name(f".{modality}.seen.json")
    digest = hashlib.sha256()
    for item in items:
        seen = None
        if item.image is not None and item.image.is_file():
            stat = item.image.stat()
            seen = (os.path.relpath(item.image, folder), stat.st_size, stat.st_mtime_ns)
        digest.update(f"{item.token}\0{seen}\0".encode())
    file_stats = digest.hexdigest()
    if matches(cache, {"seen": file_stats}):
        return json.loads(cache.read_text())["content_sha256"]
    content = _content_hash(items)
    if write:
        try:
            cache.parent.mkdir(exist_ok=True)
            with atomic_write(cache) as path:
                path.write_text(json.dumps({"seen": file_stats, "content_sha256": content}))
        except OSError as error:
            if not is_read_only(error):
                raise
    return content


def _content_hash(items: Sequence[RawItem]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update("\0".join((item.token, *item.texts, "")).encode())
        digest.update(item.users.astype(np.int64).data)
        if item.image is not None and item.image.is_file():
            digest.update(hashlib.sha256(item.image.read_bytes()).digest())
    return digest.hexdigest()
