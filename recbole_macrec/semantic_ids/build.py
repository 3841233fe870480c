"""Build semantic IDs from item features or from published files."""
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from recbole_macrec.data.features import duplicates
from recbole_macrec.data.id_files import read_published
from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.bundle import (
    bundle_inputs,
    bundle_name,
    check_expected,
    item_counts,
    locked,
    read_bundle,
    write_bundle,
)
from recbole_macrec.semantic_ids.codes import LearntCodes, SemanticIDs
from recbole_macrec.semantic_ids.collisions import RESOLUTIONS, Geometry, resolve
from recbole_macrec.semantic_ids.collisions.reassign import check_free_ids
from recbole_macrec.semantic_ids.order import token_order, token_ranks, user_order
from recbole_macrec.semantic_ids.quantizers import QUANTIZERS
from recbole_macrec.semantic_ids.quantizers.base import Execution
from recbole_macrec.semantic_ids.quantizers.represent import represent_and_learn
from recbole_macrec.semantic_ids.rows import FeatureRows, Features, select_rows
from recbole_macrec.semantic_ids.settings import SemanticIDSettings
from recbole_macrec.semantic_ids.statistics import code_statistics
from recbole_macrec.utils.blocks import non_finite_rows
from recbole_macrec.utils.distributed import ALONE, Group

logger = logging.getLogger(__name__)


def build_semantic_ids(features: Mapping[str, Features], item_tokens: Sequence[str], settings: SemanticIDSettings,
                       folder: Path, execution: Execution = Execution(), interactions: csr_matrix | None = None,
                       user_tokens: Sequence[str] | None = None, expected: str | None = None,
                       helpers: Callable[[], Group] = lambda: ALONE) -> SemanticIDs:
    """Read the semantic IDs of all items from their bundle in ``folder``, or learn and write them.

    They are learnt in the order of the tokens, so the order of ``item_tokens`` and of the users has no effect.

    Args:
        features: modality -> [N, F_m], row i belongs to ``item_tokens[i]``; no padding row. Memory maps that do not fit
            into memory are read in parts. Empty for quantizers that read no features.
        item_tokens: the N items.
        settings: options of the semantic IDs.
        folder: contains one bundle per (features, settings, seed); created if missing.
        execution: how the IDs are learnt; its group comes from ``helpers``.
        interactions: number of interactions of user u with item i in the training part, [U, N]; for graphs and popularity.
        user_tokens: tokens of the U users, padding first; None if the order of the rows of ``interactions`` is fixed.
        expected: name of the bundle that a checkpoint was trained on.
        helpers: called before IDs are learnt that several processes can learn together; returns these processes, of which the
            others call :func:`represent_and_learn` with the same features, in the order of the tokens.

    Raises:
        UserError: for invalid features, options that do not fit them, a damaged bundle, or if the IDs would not be those of
            ``expected``.
    """
    item_tokens, folder = tuple(item_tokens), Path(folder)
    features = _checked_features(features, item_tokens, settings)
    order, users = token_order(item_tokens), None
    if interactions is not None:
        users = np.arange(interactions.shape[0]) if user_tokens is None else user_order(user_tokens)
        interactions = _checked_interactions(interactions, users, order)
        users = np.argsort(users)
    features = {m: select_rows(x, order) for m, x in features.items()}
    sorted_tokens = sorted(item_tokens)
    inputs = bundle_inputs(features, sorted_tokens, settings, interactions)
    if expected is not None:
        check_expected(folder, inputs, sorted_tokens, expected)
    with locked(folder, bundle_name(inputs)) as path:
        if path.exists():
            logger.info("Semantic IDs: %s", path)
            ids = read_bundle(path)
        else:
            state_folder = folder / f".unfinished-{path.name}"
            group = helpers() if settings.trains_in_processes else execution.group
            execution = execution._replace(group=group, state_folder=state_folder)
            learnt = represent_and_learn(features, interactions, settings, execution)
            ids = _learnt_ids(learnt, features, sorted_tokens, settings, interactions)
            ids = replace(ids, bundles=dict.fromkeys(ids.modalities, path))
            weights = {m: part.weights for m, part in learnt.modalities.items()}
            write_bundle(path, ids, settings, weights, learnt.history, inputs)
            shutil.rmtree(state_folder, ignore_errors=True)
            logger.info("Semantic IDs written to %s", path)
    return ids.reordered(token_ranks(item_tokens), users)


def _learnt_ids(learnt: LearntCodes, features: Mapping[str, Features], item_tokens: Sequence[str], settings: SemanticIDSettings,
                interactions: csr_matrix | None) -> SemanticIDs:
    """Resolve the collisions of learnt codes, and compute their statistics."""
    raw = {m: part.codes for m, part in learnt.modalities.items()}
    quantizer = QUANTIZERS[settings.quantizer]()
    raw_sizes = {m: quantizer.sizes(codes, settings) for m, codes in raw.items()}
    geometry = {m: part.geometry for m, part in learnt.modalities.items()}
    codes, sizes = _resolve_collisions(raw, raw_sizes, geometry, settings, interactions)
    content = {m: features[m] for m in settings.read_modalities}
    statistics = {m: code_statistics(part.codes, raw_sizes[m], codes[m], content, settings.semantic_id_seed,
                                     part.reconstruction_error) for m, part in learnt.modalities.items()}
    return SemanticIDs(tuple(item_tokens), codes, sizes, raw, statistics, graph=learnt.graph)


def published_semantic_ids(files: dict[str, Path], item_tokens: Sequence[str], settings: SemanticIDSettings,
                           interactions: csr_matrix | None = None) -> SemanticIDs:
    """Read published semantic IDs, one JSON file per modality and tokenization, and resolve collisions in token order.

    The codebook size of a level is ``codebook_size``, or larger if the file contains larger codes.

    Raises:
        UserError: a file does not contain an ID for every item.
    """
    _check_tokens(tuple(item_tokens))
    order, ranks = token_order(item_tokens), token_ranks(item_tokens)
    item_tokens = sorted(item_tokens)
    interactions = None if interactions is None else interactions[:, order]
    raw = {m: read_published(path, item_tokens) for m, path in files.items()}
    raw_sizes = {m: tuple(max(settings.codebook_size, int(top) + 1) for top in codes.max(0))
                 for m, codes in raw.items()}
    codes, sizes = _resolve_collisions(raw, raw_sizes, dict.fromkeys(raw), settings, interactions)
    statistics = {m: code_statistics(raw[m], raw_sizes[m], codes[m]) for m in raw}
    return SemanticIDs(tuple(item_tokens), codes, sizes, raw, statistics).reordered(ranks)


def _resolve_collisions(raw: dict[str, np.ndarray], sizes: dict[str, tuple[int, ...]], geometry: dict[str, Geometry | None],
                        settings: SemanticIDSettings, interactions: csr_matrix | None) -> tuple[dict, dict]:
    """Resolve collisions; returns IDs and their codebook sizes, both by modality."""
    counts = None if interactions is None else item_counts(interactions)
    resolved = {m: resolve(settings.collision, raw[m], sizes[m], geometry[m], counts, settings.semantic_id_seed) for m in raw}
    return {m: r.codes for m, r in resolved.items()}, {m: r.sizes for m, r in resolved.items()}


def _checked_features(features: Mapping[str, Features], item_tokens: tuple[str, ...],
                      settings: SemanticIDSettings) -> dict[str, Features]:
    """Features that ``settings`` need as float32; raises a UserError if they are invalid."""
    _check_tokens(item_tokens)
    items = len(item_tokens)
    missing = [m for m in settings.read_modalities if m not in features]
    if missing:
        raise UserError(f"No features of modality '{missing[0]}', only of {sorted(features)}; import them, or "
                        "change modalities.")
    if settings.joins_modalities and len(settings.modalities) < 2:
        raise UserError(f"quantizer = {settings.quantizer} needs at least two modalities, but modalities = "
                        f"{list(settings.modalities)}; add one, or set quantizer to rqvae or rq_kmeans.")
    check_enough_items(settings, items)
    names = (*settings.read_modalities, *settings.auxiliary_features)
    return {name: _checked_matrix(name, features[name], item_tokens) for name in names}


def check_enough_items(settings: SemanticIDSettings, items: int) -> None:
    """Raise a UserError if there are fewer ``items`` than codewords or pseudo-labels, or more than different IDs."""
    if not settings.reads_interactions:  # otherwise the sizes depend on the interactions
        if settings.codebook_size > items:
            raise UserError(f"codebook_size = {settings.codebook_size}, but there are only {items} items; lower "
                            "codebook_size.")
        if RESOLUTIONS[settings.collision].needs_free_ids:
            check_free_ids(items, (settings.codebook_size,) * settings.codebook_levels)
    if settings.uses_pseudo_labels and settings.pseudo_labels > items:
        raise UserError(f"pseudo_labels = {settings.pseudo_labels}, but there are only {items} items; lower "
                        "pseudo_labels, to about a tenth of the items.")


def _checked_matrix(modality: str, x: Features, item_tokens: tuple[str, ...]) -> Features:
    if not isinstance(x, FeatureRows):
        x = np.asarray(x)
    if len(x.shape) != 2 or x.shape[1] == 0 or not np.issubdtype(x.dtype, np.number):
        raise UserError(f"Features of modality '{modality}' have shape {x.shape} and type {x.dtype}; expected a row "
                        "of numbers per item.")
    if len(x) != len(item_tokens):
        raise UserError(f"Features of modality '{modality}' have {len(x)} rows, but there are {len(item_tokens)} "
                        "items; give one row per item.")
    if not isinstance(x, FeatureRows):
        with np.errstate(over="ignore"):  # overflow of float32 is reported below
            x = np.ascontiguousarray(x, dtype=np.float32)
    bad = non_finite_rows(x)
    if len(bad):
        raise UserError(f"Features of modality '{modality}' are NaN or infinite for {len(bad)} of {len(x)} items, "
                        f"e.g. {[item_tokens[i] for i in bad[:5]]}; correct the feature file.")
    return x


def _checked_interactions(interactions: csr_matrix, users: np.ndarray, items: np.ndarray) -> csr_matrix:
    """Rows ``users`` and columns ``items`` of the matrix, in canonical CSR format."""
    if interactions.shape[1] != len(items):
        raise ValueError(f"interactions has {interactions.shape[1]} items, but item_tokens has {len(items)}")
    checked = csr_matrix(interactions, copy=True)[users][:, items]
    checked.sum_duplicates()
    checked.eliminate_zeros()
    checked.sort_indices()
    return checked


def _check_tokens(item_tokens: tuple[str, ...]) -> None:
    if not item_tokens:
        raise UserError("There are no items; check the .inter and .item files.")
    if len(set(item_tokens)) < len(item_tokens):
        raise UserError(f"Item '{duplicates(item_tokens)[0]}' is listed twice; give every item one row.")
