"""Semantic IDs for new items; the IDs of existing items do not change.

Shapes: N items, n new items, F feature width, L levels.
"""
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from recbole_macrec.data.id_files import modality_of
from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.codes import SemanticIDs
from recbole_macrec.semantic_ids.collisions import RESOLUTIONS
from recbole_macrec.semantic_ids.collisions.base import Geometry, quantization_error
from recbole_macrec.semantic_ids.collisions.reassign import Reassign, UsedIDs, count_ids
from recbole_macrec.semantic_ids.frozen import FrozenQuantizer


def with_new_items(ids: SemanticIDs, quantizer: FrozenQuantizer, item_tokens: Sequence[str],
                   features: Mapping[str, np.ndarray]) -> SemanticIDs:
    """Append the IDs of new items to ``ids``; the statistics remain those of the learnt items.

    Args:
        quantizer: the quantizer that learnt ``ids``.
        item_tokens: the n new items.
        features: modality -> [n, F_m] float32.

    Raises:
        UserError: there are not enough free IDs.
    """
    codes, raw_codes = {}, {}
    for m in ids.modalities:
        raw, geometry = quantizer.quantize(m, features[modality_of(m)])
        raw_codes[m] = np.vstack([ids.raw_codes[m], raw])
        new = (
            raw
            if RESOLUTIONS[quantizer.settings.collision].keeps_collisions
            else free_ids(raw, ids.codes[m], ids.sizes[m], geometry)
        )
        codes[m] = np.vstack([ids.codes[m], new])
    counts = None if ids.item_counts is None else np.append(ids.item_counts, np.zeros(len(item_tokens), dtype=np.int64))
    return replace(ids, item_tokens=(*ids.item_tokens, *item_tokens), codes=codes, raw_codes=raw_codes,
                   n_new_items=ids.n_new_items + len(item_tokens), item_counts=counts)


def free_ids(raw: np.ndarray, used: np.ndarray, sizes: tuple[int, ...], geometry: Geometry | None) -> np.ndarray:
    """Assign unused IDs [n, L'] to new items with the codes ``raw`` [n, L].

    An item keeps its own codes if they are unused, and otherwise gets the nearest unused ID as with ``collision: reassign``,
    items near their codewords first; without geometry, codes are tried by number. A level after those of the quantizer (an
    extra token) gets its lowest unused code. If all IDs below a prefix are used, the search continues one level up.

    Args:
        used: IDs [N, L'] of the catalogue.
        sizes: L' codebook sizes.
    """
    if len(raw) + len(used) > count_ids(sizes):
        raise UserError(f"{len(raw)} new items and {len(used)} old ones cannot have different IDs of sizes {list(sizes)}; "
                        "add fewer items, or learn new IDs with a larger codebook_size or codebook_levels.")
    used_ids, squares = UsedIDs(sizes, used), None if geometry is None else geometry.squares()
    codes = np.pad(raw, ((0, 0), (0, len(sizes) - raw.shape[1])))
    for item in np.argsort(quantization_error(raw, geometry), kind="stable"):
        code = codes[item].tolist()
        if code[-1] in used_ids.full_codes(code[:-1]):
            code = Reassign.nearest_free(code, used_ids, geometry, squares, item)
        used_ids.add(code)
        codes[item] = code
    return codes
