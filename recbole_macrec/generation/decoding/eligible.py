"""Which items may be ranked: those of a trie, less what a user must not get.

Legend: B users, S items kept from a user, L levels, n_l nodes of level l.
"""
from typing import NamedTuple

import torch

from recbole_macrec.generation.decoding.trie import Trie


class Eligible(NamedTuple):
    """What a search may find."""

    tries: dict[str, Trie]  # modality -> the items, the same in every modality
    beams: int  # of a beam search, in each modality
    excluded: torch.Tensor | None = None  # int64 [B, S], items that a user must not get, filled up with 0
    top: int = 10  # items of a certified ranking
    same: dict[str, torch.Tensor] | None = None  # modality -> int64 [n_items]; in ``top`` items with equal entries count once

    def rows(self, rows: torch.Tensor) -> "Eligible":
        """For some of the users."""
        return self if self.excluded is None else self._replace(excluded=self.excluded[rows.to(self.excluded.device)])

    def same_as(self, name: str) -> torch.Tensor | None:
        """``same`` of a modality, or of the fused ranking, which takes the first one's."""
        return None if self.same is None else self.same.get(name, next(iter(self.same.values())))


def blocked_nodes(trie: Trie, excluded: torch.Tensor) -> list[torch.Tensor]:
    """Nodes below which a user finds nothing but excluded items.

    Args:
        excluded: int64 [B, S], items in any order; those that the trie lacks, 0 among them, don't matter.

    Returns:
        For every level, and at last for positions in ``trie.items``: int64 [B, S], sorted, filled up with the number of
        nodes (of items) there.
    """
    items, position = trie.items.long().sort()
    place = torch.searchsorted(items, excluded).clamp(max=len(items) - 1)
    nodes = torch.where(items[place] == excluded, position[place], len(items)).sort(dim=1).values
    blocked = [firsts(nodes, torch.ones_like(nodes, dtype=torch.bool), len(items))]
    for level in reversed(range(trie.levels)):
        size = trie.size(level)
        children = torch.cat([trie.counts(level, range(size)), torch.zeros(1, dtype=torch.long, device=nodes.device)])
        parents = trie.above(level, blocked[0])  # sorted as its children are
        gone = torch.searchsorted(parents, parents, right=True) - torch.searchsorted(parents, parents)
        blocked.insert(0, firsts(parents, gone == children[parents], size))
    return blocked


def firsts(nodes: torch.Tensor, keep: torch.Tensor, none: int) -> torch.Tensor:
    """Sorted nodes [B, S], each once and only where ``keep`` says so, filled up with ``none``."""
    fresh = torch.ones_like(keep)
    fresh[:, 1:] = nodes[:, 1:] != nodes[:, :-1]
    return nodes.masked_fill(~(keep & fresh), none).sort(dim=1).values


def is_blocked(blocked: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
    """Whether nodes [B, ...] of a level are among a user's ``blocked`` [B, S] ones; bool [B, ...]."""
    flat = nodes.flatten(1).contiguous()
    place = torch.searchsorted(blocked, flat).clamp(max=blocked.shape[1] - 1)
    return (blocked.gather(1, place) == flat).view(nodes.shape)
