"""Order of the tokens, in which semantic IDs are learnt, hashed and stored, independent of the order of the files.

Shapes: N tokens.
"""
import hashlib
from collections.abc import Sequence

import numpy as np


def token_order(tokens: Sequence[str]) -> np.ndarray:
    """Positions [N] of ``tokens`` sorted by code point, int64.

    Example: ``token_order(["b", "c", "a"])`` is ``[2, 0, 1]``.
    """
    return np.array(sorted(range(len(tokens)), key=tokens.__getitem__), dtype=np.int64)


def token_ranks(tokens: Sequence[str]) -> np.ndarray:
    """Index [N] of each of ``tokens`` in the sorted list, int64: the inverse of :func:`token_order`.

    Example: ``token_ranks(["b", "c", "a"])`` is ``[1, 2, 0]``.
    """
    return np.argsort(token_order(tokens))


def user_order(tokens: Sequence[str]) -> np.ndarray:
    """:func:`token_order` of RecBole's users: the padding, number 0, stays first."""
    return np.concatenate([[0], 1 + token_order(tokens[1:])])


def order_fingerprint(tokens: Sequence[str]) -> str:
    """Hash of ``tokens`` and their order, for checkpoints with a table whose rows are in this order."""
    return hashlib.sha256("\n".join(tokens).encode()).hexdigest()[:16]
