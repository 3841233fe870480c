"""The exact top k by branch and bound over a trie: only prefixes that may lead to one of the k best items are decoded.

A conditional log-probability is at most 0, so log P of a prefix is an upper bound for every item below it. A narrow beam
search finds k items; prefixes that score below the k-th of them are pruned. The others are expanded, level by level, until
none is left.

Shapes: B users, P packed prefixes (of all users, ordered by user), C candidates of a user, L levels.
"""
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from recbole_macrec.generation.decoding.causal_decoder import AnyTrieDecoder
from recbole_macrec.generation.decoding.eligible import blocked_nodes
from recbole_macrec.generation.decoding.prior import with_prior
from recbole_macrec.generation.decoding.search import Ranking, best_of, first_best
from recbole_macrec.generation.network.memory import (
    AnyMemory,
    Past,
    RowLayout,
    SourceHeads,
    packed_layouts,
)

WIDENING = 2  # the second round expands 2 times as many prefixes per level as the first, the third 4 times as many as that, ...


class Prefixes(NamedTuple):
    """Packed prefixes of equal length."""

    user: torch.Tensor  # int64 [P], ascending
    node: torch.Tensor  # int64 [P], node of the trie
    score: torch.Tensor  # float32 [P], log P
    parent: torch.Tensor  # int64 [P], the row of the parent among the expanded prefixes

    def take(self, index: torch.Tensor) -> "Prefixes":
        return Prefixes(*(column.index_select(0, index) for column in self))

    @classmethod
    def merged(cls, batches: Sequence["Prefixes"]) -> "Prefixes":
        if len(batches) == 1:
            return batches[0]
        joined = cls(*(torch.cat(column) for column in zip(*batches)))
        return joined.take(joined.user.argsort(stable=True))


class UserOrder(NamedTuple):
    """The order of the decoded users, grouped by their number of prefixes."""

    source: list[list[SourceHeads]]  # layer -> group of users
    groups: list[int]  # users of each group
    users: np.ndarray  # int64, the users in this order
    rank: torch.Tensor  # int64 [B], index of each user in ``users``


class CertifiedSearch:
    """Search in one modality for B users. Decoded prefixes are cached, so later calls decode only new ones.

    The log-probability of an ID is the sum over its levels, added in their order as in
    :func:`~recbole_macrec.generation.decoding.exact.exact_scores`. Each prefix is decoded once, so bounds and scores agree
    exactly. They equal those of a full traversal up to rounding.

    Args:
        memory: the encoded histories.
        excluded: int64 [B, S], items to leave out, padded with 0.
        limit: maximum number of prefixes expanded for a user. Users who need more are in :attr:`exceeded`, without valid
            result.
        resumable: keep pruned prefixes, which a second call of :meth:`top` and :meth:`scores` need.
    """

    def __init__(
        self, decoder: AnyTrieDecoder, memory: AnyMemory, excluded: torch.Tensor | None, limit: int, resumable: bool = False
    ):
        self.decoder, self.trie, self.users = decoder, decoder.trie, memory.users
        self.limit, self.resumable, device = limit, resumable, memory.device
        self.groups = [users for users, _ in memory.groups]
        all_users = torch.arange(self.users, device=device)
        self._all_users = self._order = UserOrder(decoder.read(memory), self.groups, np.arange(self.users), all_users)
        self.expanded = np.zeros(self.users, dtype=np.int64)
        self.exceeded = np.zeros(self.users, dtype=bool)
        self.active = torch.ones(self.users, dtype=torch.bool, device=device)  # users within the limit
        self._pending: list[list[Prefixes]] = [[] for _ in range(self.trie.levels + 1)]  # by length; the longest are IDs
        self._cache: list[list] = []  # position -> layer -> keys and values of the expanded prefixes
        self._cache_rows: list[torch.Tensor] = []  # position -> int64 [position, n_expanded], their rows at earlier positions
        self._blocked = None
        if excluded is not None:
            nodes = enumerate(blocked_nodes(self.trie, excluded))
            self._blocked = [self._keys(level, blocked).flatten() for level, blocked in nodes]
        zeros = torch.zeros_like(all_users)
        self._expand(0, Prefixes(all_users, zeros, zeros.float(), zeros))

    # -- results -----------------------------------------------------------------------------------------------------

    def top(self, k: int | torch.Tensor, raw_ids: torch.Tensor | None = None) -> tuple[Ranking, torch.Tensor]:
        """Find the exact best ``k`` items of every user, and the score of the last one.

        Args:
            k: one number for all users, or int64 [B].
            raw_ids: int64 [n_items], equal for items of one raw ID, which count once; a list may then be longer than k.

        Returns:
            The ranking; and float32 [B], an upper bound for the scores of all other items, -inf for users with fewer items.
        """
        k = torch.as_tensor(k, device=self.active.device).expand(self.users)
        (max_count,), widening = on_host(k.max()), WIDENING
        while True:
            ranking, last = first_best(self._found(), k, raw_ids)
            if not self._expand_eligible(lambda _, batch: batch.score / self.trie.levels >= last[batch.user], max_count):
                return ranking, last
            max_count, widening = max_count * widening, widening * WIDENING

    def scores(self, items: torch.Tensor) -> torch.Tensor:
        """Scores of items [B, C] of the trie, see :meth:`Trie.item_scores`; -inf for the padding 0."""
        exists, nodes = items > 0, self.trie.nodes(items)
        selected = true_indices(exists.flatten())
        required = [self._keys(level, node).flatten()[selected].sort().values for level, node in enumerate(nodes)]
        self._expand_eligible(
            lambda length, batch: isin_sorted(self._keys(length - 1, batch.node, batch.user), required[length - 1])
        )
        ids, last = self._ids(), self.trie.levels - 1
        if ids is None:
            return torch.full(items.shape, -torch.inf, device=items.device)
        keys, order = self._keys(last, ids.node, ids.user).sort()
        found = torch.searchsorted(keys, self._keys(last, nodes[last])).clamp(max=len(keys) - 1)
        exists = exists & (keys[found] == self._keys(last, nodes[last]))  # False for users over the limit
        scores = self.trie.item_scores(ids.score[order[found]], self.trie.positions(items))
        return scores.masked_fill(~exists, -torch.inf)

    # -- search ------------------------------------------------------------------------------------------------------

    def _keys(self, level: int, node: torch.Tensor, user: torch.Tensor | None = None) -> torch.Tensor:
        """Combine user and node of ``level`` (at L a position in ``items``) in one integer; by default row i is user i."""
        if user is None:
            user = torch.arange(self.users, device=node.device).unsqueeze(1)
        size = self.trie.size(level) if level < self.trie.levels else len(self.trie.items)
        return user * (size + 1) + node

    def _expand_eligible(self, eligible: Callable[[int, Prefixes], torch.Tensor], max_count: int | None = None) -> bool:
        """Expand eligible prefixes and their eligible children, from short to long. Returns whether there were any.

        Args:
            eligible: (length, prefixes) -> bool [P].
            max_count: only the best ``max_count`` prefixes of each length and user.
        """
        lengths = range(1, self.trie.levels)
        pending = [batch.user[true_indices(eligible(length, batch))] for length in lengths for batch in self._pending[length]]
        counts = (
            np.array(on_host(self._per_user(torch.cat(pending)) * self.active))
            if pending
            else np.zeros(self.users, dtype=np.int64)
        )
        if not np.any(counts):
            return False
        self._order = self._user_order(counts if max_count is None else np.minimum(counts, max_count))
        for length in lengths:
            self._expand(length, self._pop_eligible(length, eligible, max_count))
        return True

    def _user_order(self, counts: np.ndarray) -> UserOrder:
        """Group users with similar numbers of prefixes, which saves padding; users without prefixes are left out."""
        group, size = np.repeat(np.arange(len(self.groups)), self.groups), np.frexp(counts)[1]
        (users,) = np.nonzero(counts)
        users = users[np.lexsort((size[users], group[users]))]
        kind = group[users] * 64 + size[users]
        begins = np.flatnonzero(np.diff(kind, prepend=-1))
        parts, groups = np.split(users, begins[1:]), group[users[begins]]
        if len(users) == self.users and len(parts) == len(self.groups):
            return self._all_users
        device, starts = self.active.device, np.cumsum([0, *self.groups])
        index = [torch.from_numpy(part - starts[g]).to(device) for g, part in zip(groups, parts)]
        source = [[layer[g].of(chosen) for g, chosen in zip(groups, index)] for layer in self._all_users.source]
        rank = np.zeros(self.users, dtype=np.int64)
        rank[users] = np.arange(len(users))
        return UserOrder(source, [len(part) for part in parts], users, torch.from_numpy(rank).to(device))

    def _pop_eligible(self, length: int, eligible: Callable, max_count: int | None) -> Prefixes | None:
        """Remove the eligible prefixes from the pending ones and return them."""
        parts, batches, self._pending[length] = [], self._pending[length], []
        for batch in batches:
            mask = eligible(length, batch) & self.active[batch.user]
            parts.append(batch.take(true_indices(mask)))
            if self.resumable:
                self._add_pending(length, batch.take(true_indices(~mask)))
        chosen = Prefixes.merged(parts) if parts else None
        if chosen is None or not len(chosen.user):
            return None
        layout = self._layout(chosen.user)
        if max_count is None or layout.width <= max_count:
            return chosen
        best = unpacked(layout, chosen.score, self.users, -torch.inf).topk(max_count, sorted=False).indices
        best += layout.width * torch.arange(self.users, device=best.device).unsqueeze(1)
        mask = torch.zeros(self.users * layout.width, dtype=torch.bool, device=best.device)
        mask = mask.index_fill_(0, best.flatten(), True)[layout.slots]
        self._add_pending(length, chosen.take(true_indices(~mask)))
        return chosen.take(true_indices(mask))

    def _add_pending(self, length: int, prefixes: Prefixes) -> None:
        if len(prefixes.user):
            self._pending[length].append(prefixes)

    def _per_user(self, user: torch.Tensor) -> torch.Tensor:
        """Number of entries of each user, int64 [B]; ``bincount`` would wait for the device."""
        return torch.zeros_like(self.active, dtype=torch.long).index_add_(0, user, torch.ones_like(user))

    def _layout(self, user: torch.Tensor) -> RowLayout:
        """Return the layout of packed rows of all users."""
        return packed_layouts([self.users], on_host(self._per_user(user)), user)[0]

    def _expand(self, level: int, prefixes: Prefixes | None) -> None:
        """Decode prefixes of ``level`` codes and add their children to the pending prefixes."""
        if prefixes is None:
            return
        counts = np.array(on_host(self._per_user(prefixes.user)))
        over = self.expanded + counts > self.limit
        if over.any():
            self.exceeded |= over
            self.active &= ~torch.from_numpy(over).to(self.active.device)
            prefixes, counts = prefixes.take(true_indices(self.active[prefixes.user])), np.where(over, 0, counts)
            if not counts.any():
                return
        self.expanded += counts
        source, groups, users, rank = self._order
        rank, order = rank[prefixes.user].sort(stable=True)
        ordered = prefixes.take(order)
        past, rows = self.decoder.empty_past(), []
        if level:
            rows = [*self._cache_rows[level - 1].index_select(1, ordered.parent), ordered.parent]
            past = Past([list(layer) for layer in zip(*self._cache[:level])], rows)
        layouts = packed_layouts(groups, counts[users].tolist(), rank)
        log_probs, present = self.decoder.step(level, ordered.node, source, past, layouts)  # [P, K]
        inverse = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
        row = inverse + self._store(level, present, rows)
        self._add_pending(level + 1, self._children(level, prefixes, log_probs.index_select(0, inverse), row))

    def _store(self, level: int, present: list, earlier_rows: list[torch.Tensor]) -> int:
        """Cache the keys and values of expanded prefixes of ``level`` codes. Returns how many were cached before."""
        if level == self.trie.levels - 1:
            return 0
        rows = (
            torch.stack(earlier_rows)
            if earlier_rows
            else torch.zeros(0, self.users, dtype=torch.long, device=self.active.device)
        )
        if level == len(self._cache_rows):
            self._cache.append(present)
            self._cache_rows.append(rows)
            return 0
        earlier = self._cache_rows[level].shape[1]
        pairs = zip(self._cache[level], present)
        self._cache[level] = [tuple(torch.cat(parts) for parts in zip(old, new)) for old, new in pairs]
        self._cache_rows[level] = torch.cat([self._cache_rows[level], rows], dim=1)
        return earlier

    def _children(self, level: int, prefixes: Prefixes, log_probs: torch.Tensor, rows: torch.Tensor) -> Prefixes:
        if level:
            start, count = self.trie.spans(level - 1, prefixes.node)
        else:
            start, count = prefixes.node, torch.full_like(prefixes.node, self.trie.size(0))
        row, node = concatenated_ranges(start, count)
        user = prefixes.user[row]
        if self._blocked is not None:
            allowed = true_indices(~isin_sorted(self._keys(level, node, user), self._blocked[level]))
            row, node, user = row[allowed], node[allowed], user[allowed]
        code_log_probs = log_probs.flatten().index_select(0, row * log_probs.shape[1] + self.trie.code(level)[node])
        if self.trie.has_prior:
            code_log_probs = with_prior(code_log_probs, self.trie.prior(level)[node])
        return Prefixes(user, node, prefixes.score[row] + code_log_probs, rows[row])

    def _ids(self) -> Prefixes | None:
        """All complete IDs scored so far."""
        if self._pending[-1]:
            self._pending[-1] = [Prefixes.merged(self._pending[-1])]
        return self._pending[-1][0] if self._pending[-1] else None

    def _found(self) -> Ranking:
        """All items scored so far, best first, equal scores in item order."""
        ids, last = self._ids(), self.trie.levels
        if ids is None:
            empty = torch.zeros(self.users, 1, device=self.active.device)
            return Ranking(empty.long(), empty - torch.inf)
        row, position = concatenated_ranges(*self.trie.spans(last - 1, ids.node))
        user = ids.user[row]
        if self._blocked is not None:
            allowed = true_indices(~isin_sorted(self._keys(last, position, user), self._blocked[last]))
            row, position, user = row[allowed], position[allowed], user[allowed]
        layout = self._layout(user)
        items = unpacked(layout, self.trie.items[position].long(), self.users, 0)
        scores = unpacked(layout, self.trie.item_scores(ids.score[row], position), self.users, -torch.inf)
        items, order = items.sort(dim=1)
        return best_of(items, scores.gather(1, order), items.shape[1])


def concatenated_ranges(start: torch.Tensor, count: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Concatenate ranges; returns the index of the range of each entry, and the entry.

    Example: starts (7, 2) and counts (2, 3) give (0, 0, 1, 1, 1) and (7, 8, 2, 3, 4).
    """
    (total,) = on_host(count.sum())
    ranges = torch.arange(len(count), device=count.device)
    row = torch.repeat_interleave(ranges, count, output_size=total)
    return row, (start + count - count.cumsum(0))[row] + torch.arange(total, device=count.device)


def unpacked(layout: RowLayout, values: torch.Tensor, users: int, filler: float) -> torch.Tensor:
    """Unpack values [P] to [B, width], at least one column."""
    if layout.slots is None:
        return values.view(users, -1)
    grid = values.new_full((users * max(1, layout.width),), filler)
    return grid.index_copy_(0, layout.slots, values).view(users, -1)


def isin_sorted(keys: torch.Tensor, ascending: torch.Tensor) -> torch.Tensor:
    """Whether ``keys`` [P] occur in the sorted tensor ``ascending``; bool [P]."""
    if not len(ascending):
        return torch.zeros_like(keys, dtype=torch.bool)
    return ascending[torch.searchsorted(ascending, keys).clamp(max=len(ascending) - 1)] == keys


def true_indices(mask: torch.Tensor) -> torch.Tensor:
    """Indices where ``mask`` [P] is true."""
    return mask.nonzero().squeeze(1)


def on_host(values: torch.Tensor) -> list[int]:
    """Copy integers or booleans to a flat list; on a GPU each call waits for the device."""
    return values.cpu().flatten().tolist()
