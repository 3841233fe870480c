"""Histories in which every item is written as one block of codes per modality, in random order (``history: both``).

With the modalities text and image, the history of items a, b may be: a_text, a_image, b_image, b_text. The first block of an
item is predicted from the items before it, and each further block also from the item's earlier blocks. So every prediction
reads all modalities of the history, and the further blocks are an alignment of the modalities with context.

Shapes: B users, N items, M modalities, L levels.
"""
from collections.abc import Mapping, Sequence

import torch

from recbole_macrec.errors import UserError
from recbole_macrec.generation.network.windows import Windows


def check_levels(sizes: Mapping[str, Sequence[int]]) -> None:
    """Check that an item can be written as one block of equal length per modality.

    Args:
        sizes: modality -> codebook size of each level.

    Raises:
        UserError: there is one modality, or the IDs of the modalities have different numbers of codes.
    """
    levels = {m: len(levels) for m, levels in sizes.items()}
    if len(levels) < 2 or len(set(levels.values())) > 1:
        raise UserError(
            "history is both, which needs two or more modalities whose IDs have the same number of codes, but the modalities "
            f"have {levels}; set history to single, or change modalities or collision."
        )


def random_orders(items: torch.Tensor, modalities: int) -> torch.Tensor:
    """A random order of the modalities for every item: int64 [B, N, M], permutations of 0 .. M - 1.

    Args:
        items: int64 [B, N].
    """
    return torch.rand(*items.shape, modalities, device=items.device).argsort(-1)


def interleaved_tokens(tokens: Sequence[torch.Tensor], order: torch.Tensor) -> torch.Tensor:
    """Write every item as M blocks.

    Args:
        tokens: the items' tokens in each modality, M times [B, N, L].
        order: int64 [B, N, M], the modality of each block.

    Returns:
        int64 [B, N * M, L], the blocks in order.
    """
    stacked = torch.stack(list(tokens), dim=2)  # [B, N, M, L]
    index = order.unsqueeze(-1).expand(-1, -1, -1, stacked.shape[3])
    return stacked.gather(2, index).flatten(1, 2)


def block_windows(windows: Windows, modalities: int) -> Windows:
    """The windows with every item repeated once per block; block j of item i is at place i * M + j."""
    items = windows.items.repeat_interleave(modalities, dim=1)
    return Windows(items, windows.length * modalities, windows.first * modalities, windows.users)
