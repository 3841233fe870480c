"""Semantic IDs for new items beside those of a catalogue, which stay as they are.

Axes: N items, n new items, F feature width, L levels.
"""
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.codes import SemanticIDs
from recbole_macrec.semantic_ids.collisions.base import Geometry, quantization_error
from recbole_macrec.semantic_ids.collisions.resolve import Reassign, TakenIDs, ids_below
from recbole_macrec.semantic_ids.frozen import FrozenQuantizer


def with_new_items(ids: SemanticIDs, quantizer: FrozenQuantizer, item_tokens: Sequence[str],
                   features: Mapping[str, np.ndarray]) -> SemanticIDs:
    """``ids`` followed by those of ``item_tokens``; all statistics stay those of the learnt items.

    Args:
        features: modality -> [n, F_m] float32.

    Raises:
        UserError: when no ID is free.
    """
    codes, raw_codes = {}, {}
    for m in ids.modalities:
        raw, geometry = quantizer.quantize(m, features[m])
        raw_codes[m] = np.vstack([ids.raw_codes[m], raw])
        new = raw if quantizer.settings.collision == "keep" else free_ids(raw, ids.codes[m], ids.sizes[m], geometry)
        codes[m] = np.vstack([ids.codes[m], new])
    return replace(ids, item_tokens=(*ids.item_tokens, *item_tokens), codes=codes, raw_codes=raw_codes,
                   newcomers=ids.newcomers + len(item_tokens))


def free_ids(raw: np.ndarray, taken: np.ndarray, sizes: tuple[int, ...], geometry: Geometry) -> np.ndarray:
    """IDs [n, L'] that nobody has, of new items with the codes ``raw`` [n, L].

    An item takes its own codes where they are free, and else the nearest free ID as ``collision: reassign`` does, items
    near their codewords first. A level behind the quantizer's (an extra token) takes its lowest free code; under
    codes whose tokens are all taken there is no room, and the search goes on in the level above.

    Args:
        taken: IDs [N, L'] of the catalogue; sizes: L' codebook sizes.
    """
    if len(raw) + len(taken) > ids_below(sizes):
        raise UserError(f"{len(raw)} new items and {len(taken)} old ones cannot have different IDs of sizes {list(sizes)}: "
                        "add fewer, or learn new IDs with a larger codebook_size or codebook_levels.")
    books, squares = TakenIDs(sizes, taken), geometry.squares()
    codes = np.pad(raw, ((0, 0), (0, len(sizes) - raw.shape[1])))
    for item in np.argsort(quantization_error(raw, geometry), kind="stable"):
        codes[item] = Reassign.nearest_free(codes[item].tolist(), books, geometry, squares, item)
        books.add(codes[item].tolist())
    return codes
