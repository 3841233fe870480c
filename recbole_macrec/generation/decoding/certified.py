"""The exact top k by branch and bound over a trie: only prefixes that may lead to one of the k best items are decoded.

No conditional log-probability is above 0, so log P of a prefix bounds every item below it. A narrow beam finds k items;
prefixes below the k-th of them cannot matter. The others are expanded, level by level, until none is left. With several
modalities the fused top k comes from the modalities' lists by the threshold algorithm (Fagin, Lotem and Naor, "Optimal
aggregation algorithms for middleware", 2003).

Legend: B users, P packed prefixes (of all users, one user after the other), C candidates of a user, R ranked items, L levels.
"""
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from recbole_macrec.generation.decoding.eligible import Eligible, blocked_nodes
from recbole_macrec.generation.decoding.exact import exact_rankings
from recbole_macrec.generation.decoding.fusion import fuse_official, fuse_scores
from recbole_macrec.generation.decoding.prior import with_prior
from recbole_macrec.generation.decoding.search import Ranking, best_of, first_best
from recbole_macrec.generation.decoding.trie_decoder import TrieDecoder
from recbole_macrec.generation.network.memory import (
    Layout,
    Memory,
    Past,
    SourceHeads,
    packed_layouts,
)

WIDENING = 2  # how many times more prefixes of a level the second round expands; the third 4 times more than that, and so on
SLACK = 1e-5  # relative rounding error of fused scores


class Prefixes(NamedTuple):
    """Packed prefixes of equal length."""

    user: torch.Tensor  # int64 [P], ascending
    node: torch.Tensor  # int64 [P], in the trie
    score: torch.Tensor  # float32 [P], log P
    parent: torch.Tensor  # int64 [P], the row of the prefix one code shorter among the expanded ones

    def take(self, index: torch.Tensor) -> "Prefixes":
        return Prefixes(*(column.index_select(0, index) for column in self))

    @classmethod
    def merged(cls, batches: Sequence["Prefixes"]) -> "Prefixes":
        if len(batches) == 1:
            return batches[0]
        joined = cls(*(torch.cat(column) for column in zip(*batches)))
        return joined.take(joined.user.argsort(stable=True))


class Seating(NamedTuple):
    """The order in which some of the users stand before the decoder."""

    source: list[list[SourceHeads]]  # layer -> group of users
    groups: list[int]  # users of each group
    users: np.ndarray  # int64, in this order
    seat: torch.Tensor  # int64 [B], the place of each user in it


class CertifiedSearch:
    """Search of one modality for B users. It keeps what it has decoded, so later calls decode only what is new.

    A score is the sum of the levels' log-probabilities over L, added in the order of the levels as in
    :func:`~recbole_macrec.generation.decoding.exact.exact_scores`. Each prefix is decoded once, so all bounds and scores
    come from one computation. They equal those of the whole walk up to rounding.

    Args:
        memory: the encoded histories.
        excluded: int64 [B, S], items that a user must not get, filled up with 0.
        limit: most prefixes expanded for a user. Users who need more are in :attr:`exceeded` and have no valid result.
        resumable: keep prefixes below the bound; needed for a second :meth:`top` and for :meth:`scores`.
    """

    def __init__(
        self, decoder: TrieDecoder, memory: Memory, excluded: torch.Tensor | None, limit: int, resumable: bool = False
    ):
        self.decoder, self.trie, self.users = decoder, decoder.trie, memory.users
        self.limit, self.resumable, device = limit, resumable, memory.device
        self.groups = [users for users, _ in memory.groups]
        every = torch.arange(self.users, device=device)
        self.everybody = self.seating = Seating(decoder.read(memory), self.groups, np.arange(self.users), every)
        self.expanded = np.zeros(self.users, dtype=np.int64)
        self.exceeded = np.zeros(self.users, dtype=bool)
        self.live = torch.ones(self.users, dtype=torch.bool, device=device)  # the users who have not exceeded the limit
        self._waiting: list[list[Prefixes]] = [[] for _ in range(self.trie.levels + 1)]  # by length; the longest are IDs
        self._present: list[list] = []  # position -> layer -> keys and values of its expanded prefixes
        self._rows: list[torch.Tensor] = []  # position -> int64 [position, expanded], their rows at earlier positions
        self._blocked = None
        if excluded is not None:
            nodes = enumerate(blocked_nodes(self.trie, excluded))
            self._blocked = [self._keys(level, blocked).flatten() for level, blocked in nodes]
        zeros = torch.zeros_like(every)
        self._expand(0, Prefixes(every, zeros, zeros.float(), zeros))

    # -- requests ----------------------------------------------------------------------------------------------------

    def top(self, k: int | torch.Tensor, same: torch.Tensor | None = None) -> tuple[Ranking, torch.Tensor]:
        """The best ``k`` items of every user as the whole walk finds them, and the score of the last.

        Args:
            k: for all users, or int64 [B].
            same: int64 [n_items]; items with equal entries count once, so a list may be longer than k.

        Returns:
            The ranking; float32 [B], no other item scores above it: -inf for users who have fewer items.
        """
        k = torch.as_tensor(k, device=self.live.device).expand(self.users)
        most, widening = on_host(k.max()), WIDENING
        while True:
            ranking, last = first_best(self._found(), k, same)
            if not self._round(lambda _, waiting: waiting.score / self.trie.levels >= last[waiting.user], most):
                return ranking, last
            most, widening = most * widening, widening * WIDENING

    def scores(self, items: torch.Tensor) -> torch.Tensor:
        """log P(ID | history) / L of items [B, C] of the trie, -inf where there is none (0)."""
        exists, nodes = items > 0, self.trie.nodes(items)
        there = places(exists.flatten())
        wanted = [self._keys(level, node).flatten()[there].sort().values for level, node in enumerate(nodes)]
        self._round(lambda length, waiting: is_among(self._keys(length - 1, waiting.node, waiting.user), wanted[length - 1]))
        ids, last = self._ids(), self.trie.levels - 1
        if ids is None:
            return torch.full(items.shape, -torch.inf, device=items.device)
        keys, order = self._keys(last, ids.node, ids.user).sort()
        found = torch.searchsorted(keys, self._keys(last, nodes[last])).clamp(max=len(keys) - 1)
        exists = exists & (keys[found] == self._keys(last, nodes[last]))  # not of users who exceeded the limit
        return (ids.score[order[found]] / self.trie.levels).masked_fill(~exists, -torch.inf)

    # -- work --------------------------------------------------------------------------------------------------------

    def _keys(self, level: int, node: torch.Tensor, user: torch.Tensor | None = None) -> torch.Tensor:
        """A number for a user and a node of ``level``, at L a position in ``items``; by default the users in order."""
        if user is None:
            user = torch.arange(self.users, device=node.device).unsqueeze(1)
        size = self.trie.size(level) if level < self.trie.levels else len(self.trie.items)
        return user * (size + 1) + node

    def _round(self, eligible: Callable[[int, Prefixes], torch.Tensor], most: int | None = None) -> bool:
        """Expand the eligible prefixes, shorter ones first, and those that this uncovers. Returns whether there were any.

        Args:
            eligible: (length, prefixes) -> bool [P].
            most: only the best ``most`` prefixes of each length and user.
        """
        lengths = range(1, self.trie.levels)
        waiting = [batch.user[places(eligible(length, batch))] for length in lengths for batch in self._waiting[length]]
        counts = np.array(on_host(self._per_user(torch.cat(waiting)) * self.live)) if waiting else 0
        if not np.any(counts):
            return False
        self.seating = self._seating(counts if most is None else np.minimum(counts, most))
        for length in lengths:
            self._expand(length, self._chosen(length, eligible, most))
        return True

    def _seating(self, counts: np.ndarray) -> Seating:
        """Users with about equally many prefixes together, so that little padding is computed; those with none left out."""
        group, size = np.repeat(np.arange(len(self.groups)), self.groups), np.frexp(counts)[1]
        (users,) = np.nonzero(counts)
        users = users[np.lexsort((size[users], group[users]))]
        kind = group[users] * 64 + size[users]
        begins = np.flatnonzero(np.diff(kind, prepend=-1))
        parts, groups = np.split(users, begins[1:]), group[users[begins]]
        if len(users) == self.users and len(parts) == len(self.groups):
            return self.everybody
        device, starts = self.live.device, np.cumsum([0, *self.groups])
        index = [torch.from_numpy(part - starts[g]).to(device) for g, part in zip(groups, parts)]
        source = [[layer[g].of(chosen) for g, chosen in zip(groups, index)] for layer in self.everybody.source]
        seat = np.zeros(self.users, dtype=np.int64)
        seat[users] = np.arange(len(users))
        return Seating(source, [len(part) for part in parts], users, torch.from_numpy(seat).to(device))

    def _chosen(self, length: int, eligible: Callable, most: int | None) -> Prefixes | None:
        """Take the eligible prefixes from the waiting ones."""
        chosen, batches, self._waiting[length] = [], self._waiting[length], []
        for batch in batches:
            mask = eligible(length, batch) & self.live[batch.user]
            chosen.append(batch.take(places(mask)))
            if self.resumable:
                self._wait(length, batch.take(places(~mask)))
        chosen = Prefixes.merged(chosen) if chosen else None
        if not chosen or not len(chosen.user):
            return None
        layout = self._layout(chosen.user)
        if most is None or layout.width <= most:
            return chosen
        best = padded(layout, chosen.score, self.users, -torch.inf).topk(most, sorted=False).indices
        best += layout.width * torch.arange(self.users, device=best.device).unsqueeze(1)
        mask = torch.zeros(self.users * layout.width, dtype=torch.bool, device=best.device)
        mask = mask.index_fill_(0, best.flatten(), True)[layout.slots]
        self._wait(length, chosen.take(places(~mask)))
        return chosen.take(places(mask))

    def _wait(self, length: int, prefixes: Prefixes) -> None:
        if len(prefixes.user):
            self._waiting[length].append(prefixes)

    def _per_user(self, user: torch.Tensor) -> torch.Tensor:
        """How often each user occurs, int64 [B]; ``bincount`` would wait for the device."""
        return torch.zeros_like(self.live, dtype=torch.long).index_add_(0, user, torch.ones_like(user))

    def _layout(self, user: torch.Tensor) -> Layout:
        """The layout of packed rows of all users."""
        return packed_layouts([self.users], on_host(self._per_user(user)), user)[0]

    def _expand(self, level: int, prefixes: Prefixes | None) -> None:
        """Decode prefixes of ``level`` codes; their children wait."""
        if prefixes is None:
            return
        counts = np.array(on_host(self._per_user(prefixes.user)))
        over = self.expanded + counts > self.limit
        if over.any():
            self.exceeded |= over
            self.live &= ~torch.from_numpy(over).to(self.live.device)
            prefixes, counts = prefixes.take(places(self.live[prefixes.user])), np.where(over, 0, counts)
            if not counts.any():
                return
        self.expanded += counts
        source, groups, users, seat = self.seating
        seat, order = seat[prefixes.user].sort(stable=True)
        seated = prefixes.take(order)
        past, rows = self.decoder.before(), []
        if level:
            rows = [*self._rows[level - 1].index_select(1, seated.parent), seated.parent]
            past = Past([list(layer) for layer in zip(*self._present[:level])], rows)
        layouts = packed_layouts(groups, counts[users].tolist(), seat)
        log_probs, present = self.decoder.step(level, seated.node, source, past, layouts)  # [P, K]
        back = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
        row = back + self._remember(level, present, rows)
        self._wait(level + 1, self._children(level, prefixes, log_probs.index_select(0, back), row))

    def _remember(self, level: int, present: list, rows: list[torch.Tensor]) -> int:
        """Keep what later positions read of expanded prefixes of ``level`` codes. Returns the number of earlier ones."""
        if level == self.trie.levels - 1:
            return 0
        rows = torch.stack(rows) if rows else torch.zeros(0, self.users, dtype=torch.long, device=self.live.device)
        if level == len(self._rows):
            self._present.append(present)
            self._rows.append(rows)
            return 0
        earlier = self._rows[level].shape[1]
        pairs = zip(self._present[level], present)
        self._present[level] = [tuple(torch.cat(parts) for parts in zip(old, new)) for old, new in pairs]
        self._rows[level] = torch.cat([self._rows[level], rows], dim=1)
        return earlier

    def _children(self, level: int, prefixes: Prefixes, log_probs: torch.Tensor, rows: torch.Tensor) -> Prefixes:
        if level:
            start, count = self.trie.spans(level - 1, prefixes.node)
        else:
            start, count = prefixes.node, torch.full_like(prefixes.node, self.trie.size(0))
        row, node = spread(start, count)
        user = prefixes.user[row]
        if self._blocked is not None:
            free = places(~is_among(self._keys(level, node, user), self._blocked[level]))
            row, node, user = row[free], node[free], user[free]
        here = log_probs.flatten().index_select(0, row * log_probs.shape[1] + self.trie.code(level)[node])
        if self.trie.has_prior:
            here = with_prior(here, self.trie.prior(level)[node])
        return Prefixes(user, node, prefixes.score[row] + here, rows[row])

    def _ids(self) -> Prefixes | None:
        """All complete IDs scored so far."""
        if self._waiting[-1]:
            self._waiting[-1] = [Prefixes.merged(self._waiting[-1])]
        return self._waiting[-1][0] if self._waiting[-1] else None

    def _found(self) -> Ranking:
        """All items scored so far, best first, equal scores in item order."""
        ids, last = self._ids(), self.trie.levels
        if ids is None:
            nothing = torch.zeros(self.users, 1, device=self.live.device)
            return Ranking(nothing.long(), nothing - torch.inf)
        row, position = spread(*self.trie.spans(last - 1, ids.node))
        user = ids.user[row]
        if self._blocked is not None:
            free = places(~is_among(self._keys(last, position, user), self._blocked[last]))
            row, position, user = row[free], position[free], user[free]
        layout = self._layout(user)
        items = padded(layout, self.trie.items[position].long(), self.users, 0)
        scores = padded(layout, ids.score[row] / last, self.users, -torch.inf)
        items, order = items.sort(dim=1)
        return best_of(items, scores.gather(1, order), items.shape[1])


def certified_rankings(
    decoders: Mapping[str, TrieDecoder],
    memories: Mapping[str, Memory],
    eligible: Eligible,
    n_items: int,
    rule: str,
    limit: int,
    rows: int,
) -> dict[str, Ranking]:
    """The first ``eligible.top`` items of :func:`~recbole_macrec.generation.decoding.exact.exact_rankings`.

    With ``rule: official`` the fused ranking is all of the released rule's, on the best ``eligible.beams`` items of each
    modality.

    Args:
        decoders, memories: of each modality.
        n_items: items of the catalogue, padding included.
        rule: fusion of the modalities.
        limit: most prefixes of a modality expanded for a user; the whole trie is walked for users who need more.
        rows: most (user, prefix) pairs decoded at once in whole walks.

    Returns:
        modality -> Ranking, and ``fused`` -> Ranking.
    """
    several = len(memories) > 1
    searches = {m: CertifiedSearch(decoders[m], memory, eligible.excluded, limit, several) for m, memory in memories.items()}
    rankings = {m: search.top(eligible.top, eligible.same_as(m))[0] for m, search in searches.items()}
    if not several:
        (rankings["fused"],) = rankings.values()
    elif rule == "official":
        rankings["fused"] = fuse_official([search.top(eligible.beams)[0] for search in searches.values()], n_items)
    else:
        rankings["fused"] = fused_top(list(searches.values()), rule, eligible.top, eligible.same_as("fused"))
    (exceeded,) = np.nonzero(np.any([search.exceeded for search in searches.values()], axis=0))
    if len(exceeded):
        walked = exact_rankings(decoders, memories, eligible, n_items, rule, rows, exceeded.tolist())
        for name, ranking in walked.items():
            if not (several and name == "fused" and rule == "official"):
                ranking, _ = first_best(ranking, ranking.items.new_full((len(exceeded),), eligible.top), eligible.same_as(name))
            rankings[name] = rankings[name].replaced(exceeded, ranking)
    return rankings


def fused_top(searches: Sequence[CertifiedSearch], rule: str, k: int, same: torch.Tensor | None = None) -> Ranking:
    """The best ``k`` items by :func:`~recbole_macrec.generation.decoding.fusion.fuse_scores`, by the threshold algorithm.

    No item outside the modalities' lists scores above the fusion of the lists' last scores. Lists of users whose k-th item
    is not above it are doubled.

    Args:
        searches: resumable, of all modalities.
        same: as in :meth:`CertifiedSearch.top`.
    """
    levels = [search.trie.levels for search in searches]
    wanted = torch.full_like(searches[0].live, k, dtype=torch.long)
    lengths = wanted.clone()
    while True:
        lists, last = zip(*(search.top(lengths) for search in searches))
        candidates = distinct(torch.cat([ranking.items for ranking in lists], dim=1))
        scores = fuse_scores(rule, [search.scores(candidates) for search in searches], levels)
        found = best_of(candidates, scores.masked_fill(candidates == 0, -torch.inf), candidates.shape[1])
        ranking, bound = first_best(found, wanted, same)
        threshold = fuse_scores(rule, last, levels)
        complete = torch.stack(last).isneginf().any(0) | (bound > threshold + SLACK * threshold.abs())
        for search in searches:
            complete |= ~search.live
        if on_host(complete.all()):
            return ranking
        lengths = torch.where(complete, lengths, 2 * lengths)


def distinct(items: torch.Tensor) -> torch.Tensor:
    """Items [B, C] in ascending order, each once, with 0 for the others."""
    items = items.sort(dim=1).values
    items[:, 1:] = items[:, 1:].masked_fill(items[:, 1:] == items[:, :-1], 0)
    return items.sort(dim=1).values


def spread(start: torch.Tensor, count: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ranges one after the other: which range an entry belongs to, and the entry.

    Example: starts (7, 2) and counts (2, 3) give (0, 0, 1, 1, 1) and (7, 8, 2, 3, 4).
    """
    total = on_host(count.sum())
    every = torch.arange(len(count), device=count.device)
    row = torch.repeat_interleave(every, count, output_size=total)
    return row, (start + count - count.cumsum(0))[row] + torch.arange(total, device=count.device)


def padded(layout: Layout, values: torch.Tensor, users: int, filler: float) -> torch.Tensor:
    """Packed values [P] as [B, width], at least one wide."""
    grid = values.new_full((users * max(1, layout.width),), filler)
    return grid.index_copy_(0, layout.slots, values).view(users, -1)


def is_among(keys: torch.Tensor, ascending: torch.Tensor) -> torch.Tensor:
    """Whether ``keys`` [P] are among others; bool [P]."""
    if not len(ascending):
        return torch.zeros_like(keys, dtype=torch.bool)
    return ascending[torch.searchsorted(ascending, keys).clamp(max=len(ascending) - 1)] == keys


def places(mask: torch.Tensor) -> torch.Tensor:
    """Where ``mask`` [P] is true."""
    return mask.nonzero().squeeze(1)


def on_host(values: torch.Tensor) -> list | int | bool:
    """Integers or booleans as Python's; on a GPU this waits for the device, once a call."""
    return values.cpu().tolist()
