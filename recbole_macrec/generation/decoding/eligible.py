"""Items that may be ranked: those of a trie without the excluded items of each user.

Shapes: B users, S excluded items of a user, L levels, n_l nodes of level l.
"""
from typing import NamedTuple

import torch

from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.utils.sorted_rows import first_of_runs


class Eligible(NamedTuple):
    """Items that a search may return."""

    tries: dict[str, Trie]  # modality -> trie of the items, which are the same in every modality
    beams: int  # beams of a beam search in each modality
    excluded: torch.Tensor | None = None  # int64 [B, S], items to leave out, padded with 0
    top: int = 10  # number of items in a certified ranking
    # modality -> int64 [n_items], equal for items of one raw ID: ``top`` then counts these IDs, not items
    raw_ids: dict[str, torch.Tensor] | None = None

    def select(self, rows: torch.Tensor) -> "Eligible":
        """The items that may be ranked for the users in ``rows``."""
        return self if self.excluded is None else self._replace(excluded=self.excluded[rows.to(self.excluded.device)])

    def raw_ids_of(self, name: str) -> torch.Tensor | None:
        """``raw_ids`` of a modality; for the fused ranking that of the first modality."""
        return None if self.raw_ids is None else self.raw_ids.get(name, next(iter(self.raw_ids.values())))


def blocked_nodes(trie: Trie, excluded: torch.Tensor) -> list[torch.Tensor]:
    """Find the nodes below which all items are excluded.

    Args:
        excluded: int64 [B, S], items in any order; 0 and items outside the trie are ignored.

    Returns:
        For every level, and finally for positions in ``trie.items``: int64 [B, S], sorted, padded with the number of nodes
        (of items).
    """
    position, n_items = trie.positions(excluded), len(trie.items)
    nodes = torch.where(trie.items[position] == excluded, position, n_items).sort(dim=1).values
    blocked = [first_of_runs(nodes, n_items)]
    for level in reversed(range(trie.levels)):
        size = trie.size(level)
        children = torch.cat([trie.counts(level), torch.zeros(1, dtype=torch.long, device=nodes.device)])
        parents = trie.parent_of(level, blocked[0])  # sorted, as the children are
        n_blocked = torch.searchsorted(parents, parents, right=True) - torch.searchsorted(parents, parents)
        blocked.insert(0, first_of_runs(parents.masked_fill(n_blocked < children[parents], size), size))
    return blocked


def is_blocked(blocked: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
    """Whether nodes [B, ...] of a level are in the user's ``blocked`` [B, S]; bool [B, ...]."""
    flat = nodes.flatten(1).contiguous()
    place = torch.searchsorted(blocked, flat).clamp(max=blocked.shape[1] - 1)
    return (blocked.gather(1, place) == flat).view(nodes.shape)
