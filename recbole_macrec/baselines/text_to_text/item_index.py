"""Item IDs of the text-to-text models: the tokens that represent an item in a text.

Shapes: N items including the padding, L levels.
"""
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids import SemanticIDs
from recbole_macrec.semantic_ids.order import token_order

END = "<end>"  # closes IDs that are shorter than the longest


class ItemIndex(NamedTuple):
    """IDs of all items. The token of code c of level l is named ``names[l][c]``; levels may share tokens."""

    codes: np.ndarray  # int64 [N, L]; row 0 belongs to the padding
    names: list[list[str]]

    @property
    def levels(self) -> int:
        return self.codes.shape[1]

    @property
    def tokens(self) -> list[str]:
        """The distinct names of all levels, in order."""
        return list(dict.fromkeys(name for level in self.names for name in level))

    def fingerprint(self, item_tokens: Sequence[str]) -> str:
        """Hash of the IDs by item token, independent of the order of the items.

        Args:
            item_tokens: the N - 1 item tokens; row i + 1 of ``codes`` belongs to ``item_tokens[i]``.
        """
        digest = hashlib.sha256("\n".join([*sorted(item_tokens), *self.tokens]).encode())
        digest.update(np.ascontiguousarray(self.codes[1:][token_order(item_tokens)]).tobytes())
        return digest.hexdigest()[:16]


def semantic_index(ids: SemanticIDs) -> ItemIndex:
    """Index by the semantic IDs of the only modality of ``ids``; the tokens of level 0 are ``<a_0>``, ``<a_1>`` and so on."""
    modality = ids.modalities[0]
    codes = ids.codes[modality]
    names = [[f"<{chr(ord('a') + level)}_{code}>" for code in range(size)] for level, size in enumerate(ids.sizes[modality])]
    return ItemIndex(np.vstack([np.zeros_like(codes[:1]), codes]), names)


def cluster_index(ids: SemanticIDs) -> ItemIndex:
    """Index by the clusters of ``quantizer: cid``, as P5-CID writes them.

    A cluster is a token named by its path, such as ``<3-7>``; the number of the item within its last cluster is a token that
    all clusters share, such as ``<#12>``. Shorter IDs end with ``<end>``.

    Raises:
        UserError: if items share an ID.
    """
    codes = ids.codes[ids.modalities[0]]
    shift = int(codes[:, 0].min() > 0)  # codes of paths of different lengths are counted from 1, and 0 closes a path
    if len(np.unique(codes, axis=0)) < len(codes):
        raise UserError("item_index is cid, but items share a semantic ID, which clusters never give; set item_index to codes.")
    paths = [np.trim_zeros(row, "b") if shift else row for row in codes.tolist()]
    rows = [_path_names([code - shift for code in path], codes.shape[1]) for path in paths]
    names = [sorted(set(level)) for level in zip(*rows)]
    numbers = [{name: number for number, name in enumerate(level)} for level in names]
    numbered = np.array([[number[name] for number, name in zip(numbers, row)] for row in rows], dtype=np.int64)
    return ItemIndex(np.vstack([np.zeros_like(numbered[:1]), numbered]), names)


def _path_names(path: list[int], levels: int) -> list[str]:
    """Names of the tokens of a path."""
    clusters = ["<" + "-".join(map(str, path[: depth + 1])) + ">" for depth in range(len(path) - 1)]
    return [*clusters, f"<#{path[-1]}>"] + [END] * (levels - len(path))


def digit_index(item_tokens: Sequence[str], seed: int) -> ItemIndex:
    """Index by random numbers, written in digits: P5's plain numbers.

    The numbers are a permutation of the sorted item tokens, and all have the same number of digits. RecBole's item numbers
    follow the order of the interactions, those of validation and test included, so items that follow each other would get
    similar numbers.

    Args:
        item_tokens: the N - 1 item tokens.
    """
    digits = random_digits(item_tokens, seed)
    return ItemIndex(np.vstack([np.zeros_like(digits[:1]), digits]), [list("0123456789")] * digits.shape[1])


def random_digits(tokens: Sequence[str], seed: int) -> np.ndarray:
    """Random distinct numbers of ``tokens``, independent of their order; digits, most significant first, int64 [len(tokens),
    L]."""
    numbers = np.empty(len(tokens), dtype=np.int64)
    numbers[token_order(tokens)] = np.random.default_rng(seed).permutation(len(tokens))
    length = len(str(max(1, len(tokens) - 1)))
    return numbers[:, None] // 10 ** np.arange(length)[::-1] % 10
