"""A trie of semantic IDs stored as flat tensors: children are ranges, so it scales to a million items without Python loops.

Shapes: N items, L levels, n_l nodes of level l.
"""
import numpy as np
import torch
from torch import nn

from recbole_macrec.utils.modules import add_derived_buffer

KEY_BASE = 2**24  # larger than any codebook


class Trie(nn.Module):
    """All semantic IDs of a catalogue.

    The nodes of level l are the distinct prefixes of l + 1 codes in lexicographic order. The children of node i of
    level l are the nodes ``first[l][i] .. first[l][i + 1] - 1`` of level l + 1; those of a leaf are positions in
    ``items``. For the IDs (0,1), (0,2), (3,1): level 0 has the codes [0, 3] and first [0, 2, 3]; level 1 has the codes
    [1, 2, 1], first [0, 1, 2, 3] and items in that order.

    Args:
        codes: int array [N, L]; equal rows share a leaf, whose items stay in the given order.
        items: int array [N], the item number of each row.
        prior: float array [N, L] of :func:`prior_log_probs`; None if all rows are items of the training.
        log_shares: float array [N] of :func:`log_shares_of_ids`; None if every item of an ID has its whole probability.
    """

    items: torch.Tensor  # int32 [N]
    sorted_items: torch.Tensor  # int64 [N], ``items`` in ascending order
    position: torch.Tensor  # int64 [N], the place of each of ``sorted_items`` in ``items``
    log_shares: torch.Tensor | None  # float32 [N], log P(item | ID) of ``items``

    def __init__(
        self, codes: np.ndarray, items: np.ndarray, prior: np.ndarray | None = None, log_shares: np.ndarray | None = None
    ):
        super().__init__()
        n, self.levels = codes.shape
        order = np.lexsort(codes.T[::-1])  # stable, so items of one ID stay in item order
        rows = codes[order]
        starts_node = np.zeros(n, dtype=bool)  # True if sorted row i starts a new prefix
        starts_node[:1] = True
        node_starts = []
        for level in range(self.levels):
            starts_node[1:] |= rows[1:, level] != rows[:-1, level]
            node_starts.append(np.flatnonzero(starts_node))
        self.widths: list[int] = [len(node_starts[0])]  # maximum number of children of a node: of the root, then for each level
        self._first: list[np.ndarray] = []  # copy of first[level] on the CPU, to read it without waiting for the device
        for level, begin in enumerate(node_starts):
            children = node_starts[level + 1] if level + 1 < self.levels else np.arange(n)
            first = np.append(np.searchsorted(children, begin), len(children))
            self._first.append(first)
            self.widths.append(int(np.diff(first).max()))
            add_derived_buffer(self, f"code_{level}", rows[begin, level].astype(np.int32))
            add_derived_buffer(self, f"first_{level}", first.astype(np.int32))
            if prior is not None:
                add_derived_buffer(self, f"prior_{level}", prior[order[begin], level])
        self.has_prior = prior is not None
        add_derived_buffer(self, "items", np.asarray(items)[order].astype(np.int32))
        sorted_items, position = self.items.long().sort()
        self.register_buffer("sorted_items", sorted_items, persistent=False)
        self.register_buffer("position", position, persistent=False)
        shares = None if log_shares is None else torch.from_numpy(log_shares[order])
        self.register_buffer("log_shares", shares, persistent=False)

    def code(self, level: int) -> torch.Tensor:
        """Code of every node of ``level``, int32 [n_l]."""
        return getattr(self, f"code_{level}")

    def children_of(self, level: int, node: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Children of nodes of one level.

        Args:
            node: int64 [...], nodes of ``level``.

        Returns:
            Indices [..., C] into level + 1 (into ``items`` for leaves), C being ``widths[level + 1]``, and a mask
            [..., C] of those that exist. The others are set to the node's first child.
        """
        start, count = (x.unsqueeze(-1) for x in self.spans(level, node))
        offset = torch.arange(self.widths[level + 1], device=node.device)
        exists = offset < count
        return torch.where(exists, start + offset, start), exists

    def spans(self, level: int, node: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """First child and number of children of nodes of ``level``, int64 [...] each."""
        first = getattr(self, f"first_{level}")
        start = first[node].long()
        return start, first[node + 1].long() - start

    def prior(self, level: int) -> torch.Tensor:
        """log P(code | prefix) of the nodes of ``level`` without trained items, NaN for the others; [n_l]."""
        return getattr(self, f"prior_{level}")

    def item_scores(self, log_probs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Scores of items, (log P(ID | history) + log P(item | ID)) / L.

        Args:
            log_probs: log P(ID | history) [...] of the items' IDs.
            positions: int64 [...], the items' positions in ``items``; the shapes broadcast.
        """
        if self.log_shares is not None:
            log_probs = log_probs + self.log_shares[positions]
        return log_probs / self.levels

    def parent_of(self, level: int, node: torch.Tensor) -> torch.Tensor:
        """Parents in ``level`` of nodes of level + 1 (of positions in ``items`` for leaves)."""
        return torch.searchsorted(getattr(self, f"first_{level}").long(), node, right=True) - 1

    def path(self, level: int, node: torch.Tensor) -> torch.Tensor:
        """Codes on the paths to nodes [n] of ``level``, int64 [n, level + 1]."""
        codes = [self.code(level)[node]]
        for upper in reversed(range(level)):
            node = self.parent_of(upper, node)
            codes.insert(0, self.code(upper)[node])
        return torch.stack(codes, dim=1).long()

    def positions(self, items: torch.Tensor) -> torch.Tensor:
        """Positions of items [...] of the trie in ``items``, int64 [...]; those of other items are arbitrary."""
        return self.position[torch.searchsorted(self.sorted_items, items).clamp(max=len(self.items) - 1)]

    def nodes(self, items: torch.Tensor) -> list[torch.Tensor]:
        """Nodes on the paths to items [...] of the trie: int64 [...] for each level."""
        node = self.positions(items)
        nodes: list[torch.Tensor] = []
        for level in reversed(range(self.levels)):
            node = self.parent_of(level, node)
            nodes.insert(0, node)
        return nodes

    def child(self, level: int, node: torch.Tensor | None, code: torch.Tensor) -> torch.Tensor:
        """Find the nodes of ``level`` reached by codes, -1 where there is none.

        Args:
            node: int64 [n], nodes of level - 1, -1 for none; None at level 0.
            code: int64 [n].
        """
        codes = self.code(level).long()
        if level == 0:
            keys, query_keys = codes, code.long().contiguous()
        elif node is None:
            raise ValueError(f"node is None at level {level}; expected the nodes of level {level - 1}")
        else:
            parent = torch.repeat_interleave(self.counts(level - 1), output_size=len(codes))
            keys, query_keys = parent * KEY_BASE + codes, torch.where(node < 0, -1, node * KEY_BASE + code)
        place = torch.searchsorted(keys, query_keys).clamp(max=len(keys) - 1)
        return torch.where(keys[place] == query_keys, place, -1)

    def log_normaliser(self, level: int, node: torch.Tensor | None, logits: torch.Tensor) -> torch.Tensor:
        """Log-sum-exp of the logits over the codes of ``level`` that continue a prefix.

        Args:
            node: int64 [n], nodes of level - 1, the prefixes; None at level 0.
            logits: [n, K], for all codes of the level.

        Returns:
            [n]; -inf where no code continues the prefix.
        """
        return self.child_logits(level, node, logits).logsumexp(1)

    def child_logits(self, level: int, node: torch.Tensor | None, logits: torch.Tensor) -> torch.Tensor:
        """The logits of the codes of ``level`` that continue a prefix, [n, C], padded with -inf; see :meth:`log_normaliser`."""
        if level == 0:
            return logits.index_select(1, self.code(0).long())
        if node is None:
            raise ValueError(f"node is None at level {level}; expected the nodes of level {level - 1}")
        children, exists = self.children_of(level - 1, node)  # [n, C]
        codes = self.code(level)[children.clamp(max=self.size(level) - 1)].long()
        return logits.gather(1, codes).masked_fill(~exists, -torch.inf)

    def size(self, level: int) -> int:
        """Number of nodes of ``level``."""
        return len(self.code(level))

    def counts(self, level: int) -> torch.Tensor:
        """Number of children of every node of ``level``, int64 [n_l]; for leaves the number of items."""
        return getattr(self, f"first_{level}").long().diff()

    def child_range(self, level: int, nodes: range) -> range:
        """Children of consecutive nodes of ``level``, which are consecutive as well."""
        first = self._first[level]
        return range(int(first[nodes.start]), int(first[nodes.stop]))
