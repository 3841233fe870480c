"""A trie over semantic IDs as flat tensors: children are ranges, so a million items fit and a step needs no Python.

Legend: N items, L levels, n_l nodes of level l.
"""
import numpy as np
import torch
from torch import nn

CODES = 2**24  # more than a codebook has


class Trie(nn.Module):
    """All semantic IDs of a catalogue, level by level.

    The nodes of level l are the distinct prefixes of l + 1 codes in lexicographic order. The children of node i of
    level l are the nodes ``first[l][i] .. first[l][i + 1] - 1`` of level l + 1; those of a leaf are positions in
    ``items``. For the IDs (0,1), (0,2), (3,1): level 0 has the codes [0, 3] and first [0, 2, 3]; level 1 has the codes
    [1, 2, 1], first [0, 1, 2, 3] and items in that order.

    Args:
        codes: int array [N, L]; equal rows share a leaf, whose items keep the order they came in.
        items: int array [N], the item number of each row.
        prior: float array [N, L] of :func:`prior_log_probs`; None where every row was trained on.
    """

    def __init__(self, codes: np.ndarray, items: np.ndarray, prior: np.ndarray | None = None):
        super().__init__()
        n, self.levels = codes.shape
        order = np.lexsort(codes.T[::-1])  # stable, so items of one ID stay in item order
        rows = codes[order]
        starts_node = np.zeros(n, dtype=bool)  # does sorted row i begin a new prefix?
        starts_node[:1] = True
        begins = []
        for level in range(self.levels):
            starts_node[1:] |= rows[1:, level] != rows[:-1, level]
            begins.append(np.flatnonzero(starts_node))
        self.widths: list[int] = [len(begins[0])]  # most children of any node: of the root, then level by level
        self._first: list[np.ndarray] = []  # the same as first[level], for reading without waiting for a device
        for level, begin in enumerate(begins):
            below = begins[level + 1] if level + 1 < self.levels else np.arange(n)
            first = np.append(np.searchsorted(below, begin), len(below))
            self._first.append(first)
            self.widths.append(int(np.diff(first).max()))
            self._keep(f"code_{level}", rows[begin, level])
            self._keep(f"first_{level}", first)
            if prior is not None:
                self.register_buffer(f"prior_{level}", torch.from_numpy(prior[order[begin], level]), persistent=False)
        self.has_prior = prior is not None
        self._keep("items", np.asarray(items)[order])

    def _keep(self, name: str, values: np.ndarray) -> None:
        self.register_buffer(name, torch.from_numpy(values.astype(np.int32)), persistent=False)

    def code(self, level: int) -> torch.Tensor:
        """The code of every node of ``level``, int32 [n_l]."""
        return getattr(self, f"code_{level}")

    def below(self, level: int, node: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Children of nodes of one level.

        Args:
            node: int64 [...], nodes of ``level``.

        Returns:
            Indices [..., C] into level + 1 (into ``items`` for leaves), C being ``widths[level + 1]``, and a mask
            [..., C] that says which of them exist. Indices that do not exist are clamped to the node's first child.
        """
        start, count = (x.unsqueeze(-1) for x in self.spans(level, node))
        offset = torch.arange(self.widths[level + 1], device=node.device)
        exists = offset < count
        return torch.where(exists, start + offset, start), exists

    def spans(self, level: int, node: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first child and the number of children of nodes of ``level``, int64 [...] each."""
        first = getattr(self, f"first_{level}")
        start = first[node].long()
        return start, first[node + 1].long() - start

    def prior(self, level: int) -> torch.Tensor:
        """log P(code | prefix) of the nodes of ``level`` that the network knows nothing of, NaN for the others; [n_l]."""
        return getattr(self, f"prior_{level}")

    def above(self, level: int, node: torch.Tensor) -> torch.Tensor:
        """The nodes of ``level`` whose children are the given nodes of level + 1 (positions in ``items`` for leaves)."""
        return torch.searchsorted(getattr(self, f"first_{level}").long(), node, right=True) - 1

    def path(self, level: int, node: torch.Tensor) -> torch.Tensor:
        """The codes that lead to nodes [n] of ``level``, int64 [n, level + 1]."""
        codes = [self.code(level)[node]]
        for upper in reversed(range(level)):
            node = self.above(upper, node)
            codes.insert(0, self.code(upper)[node])
        return torch.stack(codes, dim=1).long()

    def nodes(self, items: torch.Tensor) -> list[torch.Tensor]:
        """Of every level, the nodes on the paths to items [...] of the trie, int64 [...] each."""
        ordered, position = self.items.long().sort()
        node = position[torch.searchsorted(ordered, items).clamp(max=len(ordered) - 1)]
        nodes = []
        for level in reversed(range(self.levels)):
            node = self.above(level, node)
            nodes.insert(0, node)
        return nodes

    def child(self, level: int, node: torch.Tensor | None, code: torch.Tensor) -> torch.Tensor:
        """The nodes of ``level`` that codes lead to, -1 where there is none.

        Args:
            node: int64 [n], nodes of level - 1, -1 for none; None at level 0.
            code: int64 [n].
        """
        codes = self.code(level).long()
        if level == 0:
            keys, wanted = codes, code.long()
        else:
            parent = torch.repeat_interleave(self.counts(level - 1, range(self.size(level - 1))), output_size=len(codes))
            keys, wanted = parent * CODES + codes, torch.where(node < 0, -1, node * CODES + code)
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return torch.where(keys[place] == wanted, place, -1)

    def log_normaliser(self, level: int, node: torch.Tensor | None, logits: torch.Tensor) -> torch.Tensor:
        """Logarithm of the sum of exp(logits) over the codes of ``level`` that continue a prefix.

        Args:
            node: int64 [n], nodes of level - 1, the prefixes; None at level 0.
            logits: [n, K], of all codes of the level.

        Returns:
            [n]; -inf where nothing continues the prefix.
        """
        if level == 0:
            return logits.index_select(1, self.code(0).long()).logsumexp(1)
        children, exists = self.below(level - 1, node)  # [n, C]
        codes = self.code(level)[children.clamp(max=self.size(level) - 1)].long()
        return logits.gather(1, codes).masked_fill(~exists, -torch.inf).logsumexp(1)

    def size(self, level: int) -> int:
        """Nodes of ``level``."""
        return len(self.code(level))

    def counts(self, level: int, nodes: range) -> torch.Tensor:
        """How many children consecutive nodes of ``level`` have, int64 [nodes]; for leaves, how many items."""
        return getattr(self, f"first_{level}")[nodes.start : nodes.stop + 1].long().diff()

    def descendants(self, level: int, nodes: range) -> range:
        """The children of consecutive nodes of ``level``, which are consecutive too."""
        first = self._first[level]
        return range(int(first[nodes.start]), int(first[nodes.stop]))
