"""Rankings, and beam search over a trie of semantic IDs.

Shapes: B users, R ranked items, W beams, L levels, K codes of a level, C children of a node.
"""
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from recbole_macrec.generation.decoding.decoder import Decoder, Encoded
from recbole_macrec.generation.decoding.eligible import blocked_nodes, is_blocked
from recbole_macrec.generation.decoding.prior import with_prior
from recbole_macrec.utils.sorted_rows import starts_run


class Ranking(NamedTuple):
    """The best items of every user, best first."""

    items: torch.Tensor  # int64 [B, R], padded with 0
    scores: torch.Tensor  # float32 [B, R], -inf at the padding

    def widened(self, width: int) -> "Ranking":
        """Pad to at least ``width`` columns."""
        missing = (0, max(0, width - self.items.shape[1]))
        return Ranking(F.pad(self.items, missing), F.pad(self.scores, missing, value=-torch.inf))

    def first(self, count: int) -> "Ranking":
        """The first ``count`` columns."""
        return Ranking(self.items[:, :count].contiguous(), self.scores[:, :count].contiguous())

    @classmethod
    def joined(cls, parts: Sequence["Ranking"], order: torch.Tensor) -> "Ranking":
        """Join the rows of ``parts``, then select the rows ``order``; int64 [B]."""
        width = max(part.items.shape[1] for part in parts)
        return cls(*(torch.cat(column)[order] for column in zip(*(part.widened(width) for part in parts))))

    def by_item(self) -> "Ranking":
        """The same items in ascending order, after the padding."""
        items, order = self.items.sort(dim=1)
        return Ranking(items, self.scores.gather(1, order))

    def to(self, device: torch.device | str) -> "Ranking":
        """Copy to another device."""
        return Ranking(self.items.to(device), self.scores.to(device))

    def replaced(self, users: Sequence[int], other: "Ranking") -> "Ranking":
        """Replace the rows of ``users`` by those of ``other``."""
        width = max(self.items.shape[1], other.items.shape[1])
        index = torch.as_tensor(users, device=self.items.device)
        columns = zip(self.widened(width), other.widened(width))
        return Ranking(*(mine.index_copy(0, index, theirs) for mine, theirs in columns))


def beam_search(decoder: Decoder[Encoded], memory: Encoded, beams: int, excluded: torch.Tensor | None = None) -> Ranking:
    """Find the most probable IDs of the catalogue for every user by beam search.

    A step scores only the children of the current prefixes, so every ID found exists in the catalogue. The score of an item
    is :meth:`Trie.item_scores`; equal scores are ranked in item order.

    Args:
        memory: the encoded histories of B users.
        beams: W, the number of IDs that are found if there are as many.
        excluded: int64 [B, S], items to leave out, padded with 0.

    Returns:
        All items of these IDs.
    """
    trie, users, device = decoder.trie, memory.users, memory.device
    node = torch.zeros(users, 1, dtype=torch.long, device=device)  # [B, W]
    children = torch.arange(trie.widths[0], device=device).expand(users, 1, -1)  # [B, W, C]
    exists = torch.ones_like(children, dtype=torch.bool)
    scores = torch.zeros(users, 1, device=device)
    source, past = decoder.read(memory), decoder.empty_past()
    blocked = None if excluded is None else blocked_nodes(trie, excluded)
    for level in range(trie.levels):
        if blocked:
            exists = exists & ~is_blocked(blocked[level], children)
        log_probs, present = decoder.step(level, node, source, past)  # [B, W, K]
        code = trie.code(level)[children].long()  # [B, W, C]
        log_probs = log_probs.gather(-1, code)  # [B, W, C]
        if trie.has_prior:
            log_probs = with_prior(log_probs, trie.prior(level)[children])
        candidates = (scores.unsqueeze(-1) + log_probs).masked_fill(~exists, -torch.inf)
        groups, width = candidates.shape[1:]
        scores, best = candidates.flatten(1).topk(min(beams, candidates[0].numel()), dim=-1)  # [B, W]
        node = children.flatten(1).gather(1, best)
        past = past.extended(present, best // width, groups)
        children, exists = trie.children_of(level, node)
    if blocked:
        exists = exists & ~is_blocked(blocked[-1], children)
    items = trie.items[children].long()  # [B, W, C], C items of one ID
    scores = trie.item_scores(scores.unsqueeze(-1), children).expand_as(items).masked_fill(~exists, -torch.inf)
    items, order = items.masked_fill(scores.isneginf(), 0).flatten(1).sort(dim=1)
    return best_of(items, scores.flatten(1).gather(1, order), items.shape[1])


def best_of(items: torch.Tensor, scores: torch.Tensor, count: int) -> Ranking:
    """Rank the ``count`` best of [B, R] scored items; equal scores keep their order."""
    scores, order = scores.sort(dim=-1, descending=True, stable=True)
    return Ranking(items.gather(1, order), scores).first(count)


def first_best(ranking: Ranking, k: torch.Tensor, raw_ids: torch.Tensor | None = None) -> tuple[Ranking, torch.Tensor]:
    """Cut a ranking after its k-th item; also returns the score of that item.

    Args:
        k: int64 [B].
        raw_ids: int64 [n_items], equal for items of one raw ID, which count once, at the first of them.

    Returns:
        The ranking, as wide as the longest list; and float32 [B], -inf for users with fewer than k items.
    """
    exists = ranking.scores.isfinite()
    counted = exists if raw_ids is None else exists & first_of_each(raw_ids[ranking.items].masked_fill(~exists, -2))
    place, k = counted.cumsum(1), k.unsqueeze(1)
    kth = ranking.scores.masked_fill(place < k, -torch.inf).amax(1)
    keep = exists & ((place < k) | (counted & (place == k)))
    width = max(1, int(keep.sum(1).max()))
    items, scores = ranking.items.masked_fill(~keep, 0), ranking.scores.masked_fill(~keep, -torch.inf)
    return Ranking(items, scores).first(width), kth


def first_of_each(ids: torch.Tensor) -> torch.Tensor:
    """Whether each entry of [B, R] is the first with its value in its row; bool [B, R]."""
    ordered, order = ids.sort(dim=1, stable=True)
    first = starts_run(ordered)
    return torch.zeros_like(first).scatter_(1, order, first)
