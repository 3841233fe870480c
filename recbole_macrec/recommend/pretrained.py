"""A trained model as a self-contained folder, without dataset, configuration files or pickle.

    FOLDER/
      manifest.json           format, model, options, sizes of the semantic IDs, the quantizer's settings, library
                              versions, checksums of the other files and of this one
      items.json              item tokens in the model's order, and titles
      codes.safetensors       codes.<modality> and raw_codes.<modality>, [N, L] int64; item_counts, [N] int64, if known
      model.safetensors       the weights
      quantizer.safetensors   <modality>/<weight>; absent with published IDs

The folder is written under a temporary name and then renamed. Checksums detect damage and changes, but do not prove who wrote
the files. Only files of these names are opened, whatever the manifest lists, and no code in them is run.
"""
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from recbole_macrec.errors import UserError, is_out_of_memory
from recbole_macrec.recommend.rebuild import SavedOptions, build, ranking_options
from recbole_macrec.semantic_ids import SemanticIDs, SemanticIDSettings
from recbole_macrec.semantic_ids.bundle import quantizer_versions
from recbole_macrec.semantic_ids.frozen import FrozenQuantizer
from recbole_macrec.trainer.checkpoint import check_weights
from recbole_macrec.utils.files import replace_folder

FORMAT = "recbole_macrec model, version 1"
MANIFEST, ITEMS, CODES, MODEL, QUANTIZER = (
    "manifest.json", "items.json", "codes.safetensors", "model.safetensors", "quantizer.safetensors",
)  # fmt: skip

COUNTS = "item_counts"  # in CODES


def write_pretrained(folder: Path, model, titles: dict[str, str], quantizer: FrozenQuantizer | None, overwrite: bool) -> None:
    """Write ``model`` and its items.

    Raises:
        UserError: ``folder`` exists; with ``overwrite``, only if it is not a folder of this format.
    """
    if folder.exists() and not (overwrite and is_pretrained(folder)):
        advice = "choose another one" if overwrite else "choose another one, or replace it with overwrite=True"
        problem = "already exists, and is not a model folder of recbole_macrec" if overwrite else "already exists"
        raise UserError(f"{folder} {problem}; {advice}.")
    ids, name = model.ids_of_items, type(model).__name__
    # safetensors stores no shared memory: tied tables are copied
    state = {weight: value.detach().cpu().clone(memory_format=torch.contiguous_format) for weight, value in
             model.state_dict().items()}
    options = SavedOptions(json.loads(json.dumps(ranking_options(model), default=str)))
    build(name, options, ids, "cpu").load_state_dict(state)  # check that the model can be rebuilt from these options
    codes = {f"codes.{m}": c for m, c in ids.codes.items()} | {f"raw_codes.{m}": c for m, c in ids.raw_codes.items()}
    if ids.item_counts is not None:
        codes[COUNTS] = ids.item_counts
    files = {
        ITEMS: _json({"tokens": ids.item_tokens, "titles": titles}),
        CODES: save({n: torch.from_numpy(np.ascontiguousarray(c, dtype=np.int64)) for n, c in codes.items()}),
        MODEL: save(state),
    }
    if quantizer:
        files[QUANTIZER] = save({n: w.contiguous() for n, w in quantizer.weights.items()})
    manifest = {
        "format": FORMAT,
        "model": name,
        "options": {option: options.get(option) for option in sorted(options.read - {"device"})},
        "modalities": list(ids.modalities),
        "newcomers": ids.n_new_items,
        "sizes": {m: list(sizes) for m, sizes in ids.sizes.items()},
        "statistics": ids.statistics,
        "quantizer": quantizer.settings.identity() if quantizer else None,
        "versions": quantizer_versions(),
        "sha256": {file: _sha256(content) for file, content in files.items()},
    }
    files[MANIFEST] = _json({**manifest, "sha256_of_the_rest": _sha256(_json(manifest))})
    with replace_folder(folder, overwrite) as temporary:
        for file, content in files.items():
            (temporary / file).write_bytes(content)


def read_pretrained(folder: Path, device: torch.device | str):
    """Read a folder of :func:`write_pretrained`.

    Returns:
        The model on ``device``, item token -> title, and the quantizer (None with published IDs).

    Raises:
        UserError: the folder is missing, damaged, changed, or of another format.
    """
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {problem}; give a folder written by save_pretrained.")
    try:
        manifest = _read_manifest(folder)
        content = {file: (folder / file).read_bytes() for file in _files(manifest)}  # read once: checked, then parsed
        changed = [file for file, expected in manifest["sha256"].items() if _sha256(content[file]) != expected]
        if changed:
            raise ValueError(f"{', '.join(changed)} changed since it was written")
        items = json.loads(content[ITEMS])
        ids = _semantic_ids(manifest, tuple(items["tokens"]), load(content[CODES]))
        model = build(manifest["model"], SavedOptions(manifest["options"]), ids, device)
        weights = load(content[MODEL])
        check_weights(weights, MODEL)
        model.load_state_dict(weights)
        quantizer = None
        if QUANTIZER in content:
            quantizer = FrozenQuantizer(SemanticIDSettings.from_identity(manifest["quantizer"]), load(content[QUANTIZER]))
        return model, dict(items["titles"]), quantizer
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError, UserError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join((str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}").split())
        raise UserError(f"{folder} can't be read as a model of recbole_macrec ({reason[:300]}); save it again with "
                        "save_pretrained, or copy it again.") from None


def _read_manifest(folder: Path) -> dict:
    manifest = json.loads((folder / MANIFEST).read_bytes())
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{MANIFEST} is not of the format '{FORMAT}'")
    expected = manifest.pop("sha256_of_the_rest", None)
    if _sha256(_json(manifest)) != expected:
        raise ValueError(f"{MANIFEST} changed since it was written")
    return manifest


def _files(manifest: dict) -> list[str]:
    """Names of the other files; no other file is opened."""
    files = [ITEMS, CODES, MODEL] + ([QUANTIZER] if manifest["quantizer"] is not None else [])
    if sorted(manifest["sha256"]) != sorted(files):
        raise ValueError(f"{MANIFEST} names the files {sorted(manifest['sha256'])}, expected {sorted(files)}")
    return files


def _semantic_ids(manifest: dict, tokens: tuple[str, ...], arrays: dict[str, torch.Tensor]) -> SemanticIDs:
    modalities = manifest["modalities"]
    sizes = {m: tuple(manifest["sizes"][m]) for m in modalities}
    codes, raw_codes = ({m: arrays[f"{kind}.{m}"].numpy() for m in modalities} for kind in ("codes", "raw_codes"))
    if len(set(tokens)) < len(tokens) or not all(isinstance(token, str) for token in tokens):
        raise ValueError(f"{ITEMS} contains an item twice, or a token that is not a str")
    if not isinstance(manifest["newcomers"], int) or not 0 <= manifest["newcomers"] < len(tokens):
        raise ValueError(f"{MANIFEST}: newcomers is {manifest['newcomers']!r}, expected less than the {len(tokens)} items")
    for m in modalities:
        if codes[m].shape != (len(tokens), len(sizes[m])) or len(raw_codes[m]) != len(tokens):
            raise ValueError(f"{CODES} has IDs of shape {codes[m].shape} for {len(tokens)} items of {len(sizes[m])} levels")
        if codes[m].dtype != np.int64 or (codes[m] < 0).any() or (codes[m] >= np.array(sizes[m])).any():
            raise ValueError(f"{CODES} has codes outside the codebooks of '{m}'")
    counts = arrays[COUNTS].numpy() if COUNTS in arrays else None
    if counts is not None and (counts.shape != (len(tokens),) or (counts < 0).any()):
        raise ValueError(f"{CODES} has counts of shape {counts.shape} for {len(tokens)} items, or negative ones")
    return SemanticIDs(
        tokens, codes, sizes, raw_codes, manifest["statistics"], manifest["newcomers"], item_counts=counts
    )


def is_pretrained(folder: Path) -> bool:
    """Whether ``folder`` contains only files of :func:`write_pretrained`."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return MANIFEST in names and names <= {MANIFEST, ITEMS, CODES, MODEL, QUANTIZER}


def _json(value) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode("utf-8")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
