"""Bundles on disk: one folder per (features, settings, seed) with the IDs and their quantizer.

    semantic_ids-<hash>/
      manifest.json         format, settings, library versions, statistics, history, checksums of the other files
      items.json            item tokens in row order, sorted
      codes.safetensors     codes.<modality> and raw_codes.<modality>, [N, L] int64
      quantizer.safetensors <modality>/<weight>: codebooks, encoder, decoder, feature scale
      graph.safetensors     users [U, D], sorted by token, and items [N, D], if a graph was learnt

A bundle is written under a temporary name and then renamed, so a folder with its final name is never incomplete.
"""
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import safetensors
import sklearn
import torch
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix
from torch import Tensor

from recbole_macrec.data.features import format_items
from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.codes import GraphRepresentations, SemanticIDs
from recbole_macrec.semantic_ids.collisions import RESOLUTIONS
from recbole_macrec.semantic_ids.rows import Features
from recbole_macrec.semantic_ids.settings import SemanticIDSettings
from recbole_macrec.utils.blocks import blocks
from recbole_macrec.utils.files import lock_folder, report_full_disk, sha256_of

FORMAT = 3  # increase it when the same features and settings give other IDs, or the files change
PREFIX = "semantic_ids-"
MANIFEST, ITEMS, CODES, WEIGHTS = "manifest.json", "items.json", "codes.safetensors", "quantizer.safetensors"
GRAPH = "graph.safetensors"


def bundle_inputs(features: Mapping[str, Features], item_tokens: Sequence[str], settings: SemanticIDSettings,
                  interactions: csr_matrix | None = None) -> dict[str, str]:
    """Hash every input of the IDs: items, features, options, and training interactions if the settings use them.

    Args:
        features: modality -> [N, F_m], rows sorted by item token.
        item_tokens: sorted.
        interactions: training interactions [U, N], users and items sorted by token.

    Returns:
        Name of the input, as used in messages -> hash.
    """
    inputs = {"items": _sha256(json.dumps(list(item_tokens)).encode())}
    for modality, x in features.items():
        digest = hashlib.sha256(f"{x.dtype} {x.shape}\n".encode())
        for block in blocks(x):
            digest.update(np.ascontiguousarray(block).data)
        inputs[f"features of '{modality}'"] = digest.hexdigest()
    if interactions is not None and (settings.uses_graph or settings.reads_interactions):
        parts = [np.ascontiguousarray(part, dtype=np.int64).tobytes()
                 for part in (interactions.indptr, interactions.indices, interactions.data)]
        inputs["training interactions"] = _sha256(f"{interactions.shape}\n".encode(), *parts)
    elif interactions is not None and RESOLUTIONS[settings.collision].reads_counts:
        inputs["counts of training interactions"] = _sha256(item_counts(interactions).tobytes())
    version = RESOLUTIONS[settings.collision].version
    versions = [FORMAT, version] if version > 1 else [FORMAT]
    return inputs | {"options": _sha256(json.dumps([*versions, settings.identity()]).encode())}


def bundle_name(inputs: dict[str, str]) -> str:
    """Folder name of a bundle, from a hash of its :func:`bundle_inputs`."""
    return PREFIX + _sha256(json.dumps(inputs).encode())[:16]


def check_expected(folder: Path, inputs: dict[str, str], item_tokens: Sequence[str], expected: str) -> None:
    """Check that ``inputs`` give the IDs of the bundle ``expected``, on which a checkpoint was trained.

    Raises:
        UserError: they give other IDs; the message lists the changes if that bundle exists in ``folder``.
    """
    if bundle_name(inputs) == expected:
        return
    changes = _changes(folder / expected, inputs, item_tokens)
    changed = f" (changed since: {', '.join(changes)})" if changes else ""
    raise UserError(f"The checkpoint was trained on the semantic IDs {expected}, but the data of {folder.parent} give "
                    f"{bundle_name(inputs)}{changed}; use the dataset, features and options that it was trained with, "
                    "or train again.")


def _changes(bundle: Path, inputs: dict[str, str], item_tokens: Sequence[str]) -> list[str]:
    """Changes since the inputs of ``bundle``: new and missing items, or names of other inputs; empty if it does not exist."""
    try:
        before = set(json.loads((bundle / ITEMS).read_text(encoding="utf-8")))
        old_inputs = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))["inputs"]
    except (OSError, ValueError, KeyError):
        return []
    new, gone = sorted(set(item_tokens) - before), sorted(before - set(item_tokens))
    items = [f"{format_items(tokens, 'item')} {what}" for tokens, what in ((new, "new"), (gone, "gone")) if tokens]
    return items or [name for name in inputs if inputs[name] != old_inputs.get(name)]


def _sha256(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def item_counts(interactions: csr_matrix) -> np.ndarray:
    """Number of interactions of each item, int64 [N], from interactions [U, N]."""
    return np.asarray(interactions.sum(0), dtype=np.int64).reshape(-1)


@contextmanager
def locked(folder: Path, name: str) -> Iterator[Path]:
    """Hold the lock of a bundle while it is built; yields its path. Removes leftovers of a killed build.

    An existing bundle is complete and needs no lock, so its folder may be read-only.

    Raises:
        UserError: the bundle does not exist and ``folder`` is read-only.
    """
    if (folder / name).exists():
        yield folder / name
        return
    with lock_folder(folder, f"{name}.lock", "semantic IDs for these settings and features"):
        for leftover in folder.glob(f".{name}.*"):  # we hold the lock, so its process has ended
            shutil.rmtree(leftover, ignore_errors=True)
        yield folder / name


def write_bundle(path: Path, ids: SemanticIDs, settings: SemanticIDSettings, weights: dict[str, dict[str, Tensor]],
                 history: list[dict], inputs: dict[str, str]) -> None:
    """Write the bundle ``path``. The caller must hold its lock."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        temporary.chmod(0o755)  # mkdtemp allows access only to the owner
        with report_full_disk(path):
            _write_files(temporary, ids, settings, weights, history, inputs)
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_files(temporary: Path, ids: SemanticIDs, settings: SemanticIDSettings, weights: dict[str, dict[str, Tensor]],
                 history: list[dict], inputs: dict[str, str]) -> None:
    (temporary / ITEMS).write_text(json.dumps(list(ids.item_tokens)), encoding="utf-8")
    arrays = {f"codes.{m}": c for m, c in ids.codes.items()} | {f"raw_codes.{m}": c for m, c in ids.raw_codes.items()}
    save_file({name: np.ascontiguousarray(a, dtype=np.int64) for name, a in arrays.items()}, temporary / CODES)
    save_file({f"{m}/{name}": np.ascontiguousarray(w.numpy()) for m, part in weights.items()
               for name, w in part.items()}, temporary / WEIGHTS)
    if ids.graph is not None:
        save_file(ids.graph._asdict(), temporary / GRAPH)
    files = [name for name in (ITEMS, CODES, WEIGHTS, GRAPH) if (temporary / name).exists()]
    manifest = {
        "format": FORMAT,
        "fingerprint": ids.fingerprint(),
        "modalities": list(ids.modalities),
        "sizes": {m: list(sizes) for m, sizes in ids.sizes.items()},
        "settings": settings.identity(),
        "inputs": inputs,
        "versions": quantizer_versions(),
        "sha256": {name: sha256_of(temporary / name) for name in files},
        "statistics": ids.statistics,
        "history": history,
    }
    (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1, allow_nan=False), encoding="utf-8")


def read_bundle(path: Path) -> SemanticIDs:
    """Read and check a bundle.

    Raises:
        UserError: a file is missing, truncated or changed.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        changed = [name for name, expected in manifest["sha256"].items() if sha256_of(path / name) != expected]
        if changed:
            raise ValueError(f"{', '.join(changed)} changed since it was written")
        arrays = load_file(path / CODES)
        ids = SemanticIDs(
            item_tokens=tuple(json.loads((path / ITEMS).read_text(encoding="utf-8"))),
            codes={m: arrays[f"codes.{m}"] for m in manifest["modalities"]},
            sizes={m: tuple(manifest["sizes"][m]) for m in manifest["modalities"]},
            raw_codes={m: arrays[f"raw_codes.{m}"] for m in manifest["modalities"]},
            statistics=manifest["statistics"],
            graph=GraphRepresentations(**load_file(path / GRAPH)) if GRAPH in manifest["sha256"] else None,
            bundles=dict.fromkeys(manifest["modalities"], path),
        )
        if ids.fingerprint() != manifest["fingerprint"]:
            raise ValueError(f"{MANIFEST} does not belong to {CODES}")
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: the semantic IDs are damaged ({type(error).__name__}: {error}); delete this "
                        "folder to learn them again.") from None
    return ids


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Weights of the quantizer, ``<modality>/<weight>`` -> array."""
    return load_file(path / WEIGHTS)


def read_identity(path: Path) -> dict:
    """Settings of the bundle, as returned by :meth:`SemanticIDSettings.identity`."""
    return json.loads((path / MANIFEST).read_text(encoding="utf-8"))["settings"]


def quantizer_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute and store semantic IDs and models."""
    return {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__,
            "scikit-learn": sklearn.__version__, "safetensors": safetensors.__version__}
