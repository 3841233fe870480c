"""Exact scores of given candidates of each user.

Shapes: B users, C candidates of a user, G distinct prefixes of a level, K codes of a level, L levels.
"""
import torch

from recbole_macrec.generation.decoding.decoder import Decoder, Encoded
from recbole_macrec.generation.decoding.prior import with_prior
from recbole_macrec.utils.sorted_rows import first_of_runs


def candidate_scores(decoder: Decoder[Encoded], memory: Encoded, items: torch.Tensor) -> torch.Tensor:
    """Scores of given items; see :meth:`Trie.item_scores`.

    Every distinct prefix of a user's candidates is decoded once, so candidates that share prefixes share their cost.

    Args:
        memory: the encoded histories of B users.
        items: int64 [B, C], items of the decoder's trie; 0 for none.

    Returns:
        float32 [B, C]; -inf where there is no item.
    """
    trie, known = decoder.trie, items > 0
    items = torch.where(known, items, items.amax(1, keepdim=True).clamp(min=1))  # an item of the user's candidates
    paths = trie.nodes(items)  # nodes of each level, [B, C] each
    source, past = decoder.read(memory), decoder.empty_past()
    prefixes = torch.zeros(len(items), 1, dtype=torch.long, device=items.device)  # [B, G], nodes of level - 1
    place = torch.zeros_like(items)  # of each candidate's prefix in ``prefixes``
    scores = torch.zeros(items.shape, device=items.device)
    for level, nodes in enumerate(paths):
        log_probs, present = decoder.step(level, prefixes, source, past)  # [B, G, K]
        width = log_probs.shape[2]
        own = log_probs.flatten(1).gather(1, place * width + trie.code(level)[nodes].long())
        scores += with_prior(own, trie.prior(level)[nodes]) if trie.has_prior else own
        if level == trie.levels - 1:
            break
        children = distinct_of_each_row(nodes, trie.size(level))
        parent = torch.searchsorted(prefixes, trie.parent_of(level - 1, children)) if level else torch.zeros_like(children)
        past = past.extended(present, parent, prefixes.shape[1])
        prefixes, place = children, torch.searchsorted(children, nodes)
    return trie.item_scores(scores, trie.positions(items)).masked_fill(~known, -torch.inf)


def distinct_of_each_row(nodes: torch.Tensor, size: int) -> torch.Tensor:
    """Distinct nodes [B, G] of each row of ``nodes`` [B, C], ascending; shorter rows repeat their last node.

    Args:
        size: number of nodes of the level.
    """
    ordered = nodes.sort(dim=1).values
    distinct = first_of_runs(ordered, size)  # padded with ``size``
    count = (distinct < size).sum(1, keepdim=True)
    distinct = distinct[:, : int(count.max())]
    return torch.where(distinct < size, distinct, distinct.gather(1, count - 1)).contiguous()
