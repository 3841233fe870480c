"""Item vectors from an embedding of each item and the embeddings of its semantic codes, to score the whole catalogue.

Shapes: N items including the padding, C codes of an item in all modalities, D model width.
"""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recbole_macrec.semantic_ids import SemanticIDs
from recbole_macrec.utils.device_budget import DeviceBudget

MAX_SCORES = 2**26  # maximum number of scores in one forward pass: 256 MB
STD = 0.02  # standard deviation of the initial embeddings


def numbered_codes(ids: SemanticIDs) -> tuple[np.ndarray, int]:
    """Number the codes of all levels and modalities consecutively.

    With two modalities of one level and 4 codes each, the codes of the second modality are numbered from 4.

    Returns:
        int64 [N, C], row 0 for the padding; and the number of codes.
    """
    levels = [size for modality in ids.modalities for size in ids.sizes[modality]]
    offsets = np.cumsum([0, *levels])
    codes = np.hstack([ids.codes[modality] for modality in ids.modalities]) + offsets[:-1]
    return np.vstack([offsets[:-1], codes]), int(offsets[-1])


def item_embedding(count: int, width: int) -> nn.Embedding:
    """Embeddings [count, D] of items."""
    items = nn.Embedding(count, width)
    nn.init.normal_(items.weight, std=STD)
    return items


def code_embedding(ids: SemanticIDs, width: int) -> tuple[np.ndarray, nn.Embedding]:
    """The codes of the items, see :func:`numbered_codes`, and embeddings of all codes."""
    item_codes, count = numbered_codes(ids)
    codes = nn.Embedding(count, width)
    nn.init.normal_(codes.weight, std=STD / item_codes.shape[1] ** 0.5)  # STD for the sum of an item's codes
    return item_codes, codes


def item_vectors(items: torch.Tensor, item_codes: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """The embedding of each item plus the sum of the embeddings of its codes, [N, D].

    Args:
        items: [N', D], N' <= N; further items have no embedding of their own.
        item_codes: int64 [N, C].
        codes: embeddings of the codes.
    """
    return F.pad(items, (0, 0, 0, len(item_codes) - len(items))) + F.embedding_bag(item_codes, codes, mode="sum")


def budget_for_softmax(budget: DeviceBudget, n_items: int, positions: int = 1) -> DeviceBudget:
    """``budget`` with forward passes short enough for a softmax over ``n_items`` items.

    Args:
        positions: minimum number of positions per softmax.
    """
    return replace(budget, pass_positions=min(budget.pass_positions, positions * max(1, MAX_SCORES // n_items)))
