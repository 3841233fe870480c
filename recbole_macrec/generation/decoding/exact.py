"""The log-probability of every item for every user: the exact ranking that beam search approximates.

Shapes: B users, C prefixes decoded together, K codes of a level.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from recbole_macrec.generation.decoding.causal_decoder import AnyTrieDecoder
from recbole_macrec.generation.decoding.eligible import Eligible
from recbole_macrec.generation.decoding.fusion import fuse_official, fuse_scores
from recbole_macrec.generation.decoding.prior import with_prior
from recbole_macrec.generation.decoding.search import Ranking
from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.generation.network.memory import AnyMemory, Past
from recbole_macrec.utils.device_budget import DeviceBudget


def exact_scores(
    decoder: AnyTrieDecoder, memory: AnyMemory, n_items: int, traversal_rows: int | None = None,
    users: Sequence[int] | None = None
) -> torch.Tensor:
    """Score of every item; see :meth:`Trie.item_scores`.

    Every prefix of the trie is decoded once per user, so the cost depends on the number of inner nodes of the trie, not on
    items times levels.

    Args:
        memory: the encoded histories of B users.
        n_items: number of items, including the padding.
        traversal_rows: maximum number of (user, prefix) pairs decoded at once, by default that of the device's budget.
        users: the users to score, ascending; None for all.

    Returns:
        float32 [B, n_items], one row for each of ``users``; -inf for padding and for items outside the trie.
    """
    trie, device = decoder.trie, memory.device
    traversal_rows = traversal_rows or DeviceBudget.of(device).traversal_rows
    users = range(memory.users) if users is None else users
    scores = torch.full((len(users), n_items), -torch.inf, device=device)
    last = trie.levels - 1
    leaf = torch.repeat_interleave(trie.counts(last), output_size=len(trie.items))  # of each item
    n_users = max(1, traversal_rows // trie.size(last))
    source, first_user, begin = decoder.read(memory), 0, 0
    for group, (size, _) in enumerate(memory.groups):
        group_users = torch.tensor([u - first_user for u in users if first_user <= u < first_user + size], device=device)
        first_user += size
        for chosen in group_users.split(n_users) if len(group_users) else ():
            heads, n = [[layer[group].of(chosen)] for layer in source], len(chosen)

            def step(level: int, nodes: torch.Tensor, past: Past):
                return decoder.step(level, nodes.expand(n, -1), heads, past)

            past, root = decoder.empty_past(), range(1)
            leaves = leaf_scores(trie, step, traversal_rows // n, torch.zeros(n, 1, device=device), past, 0, root)
            of_items = trie.item_scores(torch.cat(list(leaves), dim=1)[:, leaf], torch.arange(len(leaf), device=device))
            scores[begin : begin + n, trie.items.long()] = of_items
            begin += n
    return scores


def leaf_scores(
    trie: Trie, step: Callable, chunk: int, scores: torch.Tensor, past: Past, level: int, nodes: range
) -> Iterator[torch.Tensor]:
    """Score all leaves of a trie depth first, in chunks of prefixes of a level.

    Args:
        step: (level, prefixes [C], past) -> result of :meth:`TrieDecoder.step`.
        chunk: maximum number of prefixes decoded together.
        scores: log P [B, C] of the prefixes.
        past: keys and values of the earlier positions.
        nodes: the prefixes, consecutive nodes of level - 1; at level 0 the root.

    Yields:
        log P [B, ...] of leaves, in the order of the trie.
    """
    device = scores.device
    log_probs, present = step(level, torch.arange(nodes.start, nodes.stop, device=device), past)  # [B, C, K]
    child_nodes = trie.child_range(level - 1, nodes) if level else range(trie.size(0))
    children = torch.arange(child_nodes.start, child_nodes.stop, device=device)
    parent = trie.parent_of(level - 1, children) - nodes.start if level else torch.zeros_like(children)  # index of the prefix
    step_scores = log_probs[:, parent, trie.code(level)[children].long()]  # [B, children]
    if trie.has_prior:
        step_scores = with_prior(step_scores, trie.prior(level)[children])
    scores = scores[:, parent] + step_scores
    if level == trie.levels - 1:
        yield scores
        return
    for begin in range(0, len(children), chunk):
        part = slice(begin, begin + chunk)
        extended = past.extended(present, parent[part].expand(len(scores), -1), len(nodes))
        yield from leaf_scores(trie, step, chunk, scores[:, part], extended, level + 1, child_nodes[part])


def exact_rankings(
    decoders: Mapping[str, AnyTrieDecoder],
    memories: Mapping[str, AnyMemory],
    eligible: Eligible,
    n_items: int,
    rule: str,
    traversal_rows: int,
    users: Sequence[int] | None = None,
    tokenizations: int = 1,
) -> dict[str, Ranking]:
    """Rank all items in every modality, and fuse the rankings.

    The rankings are fused by :func:`fuse_scores`, or with ``rule: official`` by :func:`fuse_official` on the best
    ``eligible.beams`` items of each modality.

    Args:
        decoders, memories: by modality.
        n_items, users: see :func:`exact_scores`.
        traversal_rows: see :func:`exact_scores`.
        rule: fusion of the modalities.
        tokenizations: number of tokenizations of each modality.

    Returns:
        modality -> Ranking, and ``fused`` -> Ranking.
    """
    scores = {m: exact_scores(decoders[m], memory, n_items, traversal_rows, users) for m, memory in memories.items()}
    if eligible.excluded is not None:
        excluded = eligible.excluded if users is None else eligible.excluded[list(users)]
        scores = {m: matrix.scatter_(1, excluded, -torch.inf) for m, matrix in scores.items()}
    rankings = {m: ranking_of(matrix) for m, matrix in scores.items()}
    if len(rankings) == 1:
        return rankings | {"fused": next(iter(rankings.values()))}
    if rule == "official":
        lists = [ranking.first(eligible.beams) for ranking in rankings.values()]
        return rankings | {"fused": fuse_official(lists, n_items)}
    levels = [decoders[m].trie.levels for m in memories]
    return rankings | {"fused": ranking_of(fuse_scores(rule, list(scores.values()), levels, tokenizations))}


def ranking_of(scores: torch.Tensor) -> Ranking:
    """Rank all items of a score matrix [B, n_items]; equal scores in item order, column 0 is the padding."""
    scores, order = scores[:, 1:].sort(dim=1, descending=True, stable=True)
    return Ranking((order + 1).masked_fill(scores.isneginf(), 0), scores)
