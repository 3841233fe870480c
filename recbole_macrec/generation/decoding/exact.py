"""The log-probability of every item for every user: the true full ranking, to which beam search is the fast way.

Legend: B users, C prefixes worked on at once, K codes of a level.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from recbole_macrec.generation.decoding.eligible import Eligible
from recbole_macrec.generation.decoding.fusion import fuse_official, fuse_scores
from recbole_macrec.generation.decoding.prior import with_prior
from recbole_macrec.generation.decoding.search import Ranking
from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.generation.decoding.trie_decoder import TrieDecoder
from recbole_macrec.generation.network.memory import Memory, Past


def exact_scores(
    decoder: TrieDecoder, memory: Memory, n_items: int, rows: int = 4096, users: Sequence[int] | None = None
) -> torch.Tensor:
    """log P(ID | history) / L of every item.

    Every prefix of the trie goes through the decoder once a user, whatever the number of items below it, so the work
    is that of the trie's inner nodes and not of items times levels.

    Args:
        memory: the encoded histories of B users.
        n_items: items of the catalogue, padding included.
        rows: most (user, prefix) pairs decoded at once; bounds memory, changes nothing else.
        users: ascending; only these of the B users. None for all.

    Returns:
        float32 [B, n_items], one row for each of ``users``; -inf for padding and for items outside the trie.
    """
    trie, device = decoder.trie, memory.device
    users = range(memory.users) if users is None else users
    scores = torch.full((len(users), n_items), -torch.inf, device=device)
    last = trie.levels - 1
    leaf = torch.repeat_interleave(trie.counts(last, range(trie.size(last))), output_size=len(trie.items))  # of each position
    at_once = max(1, rows // trie.size(last))
    source, first_user, begin = decoder.read(memory), 0, 0
    for group, (size, _) in enumerate(memory.groups):
        inside = torch.tensor([u - first_user for u in users if first_user <= u < first_user + size], device=device)
        first_user += size
        for chosen in inside.split(at_once) if len(inside) else ():
            heads, n = [[layer[group].of(chosen)] for layer in source], len(chosen)

            def step(level: int, nodes: torch.Tensor, past: Past):
                return decoder.step(level, nodes.expand(n, -1), heads, past)

            past, root = decoder.before(), range(1)
            leaves = walk(trie, step, rows // n, torch.zeros(n, 1, device=device), past, 0, root)
            scores[begin : begin + n, trie.items.long()] = torch.cat(list(leaves), dim=1)[:, leaf] / trie.levels
            begin += n
    return scores


def walk(
    trie: Trie, step: Callable, at_once: int, scores: torch.Tensor, past: Past, level: int, nodes: range
) -> Iterator[torch.Tensor]:
    """Depth first through the trie, ``at_once`` prefixes of a level together.

    Args:
        step: (level, prefixes [C], past) -> what :meth:`TrieDecoder.step` returns for them.
        scores: log P [B, C] of the prefixes.
        past: the positions before.
        nodes: the prefixes, consecutive nodes of level - 1; at level 0 the root.

    Yields:
        log P [B, ...] of leaves, in the order of the trie.
    """
    device = scores.device
    log_probs, present = step(level, torch.arange(nodes.start, nodes.stop, device=device), past)  # [B, C, K]
    below = trie.descendants(level - 1, nodes) if level else range(trie.size(0))
    children = torch.arange(below.start, below.stop, device=device)
    parent = trie.above(level - 1, children) - nodes.start if level else torch.zeros_like(children)  # among the prefixes
    here = log_probs[:, parent, trie.code(level)[children].long()]  # [B, children]
    if trie.has_prior:
        here = with_prior(here, trie.prior(level)[children])
    scores = scores[:, parent] + here
    if level == trie.levels - 1:
        yield scores
        return
    for begin in range(0, len(children), at_once):
        part = slice(begin, begin + at_once)
        grown = past.then(present, parent[part].expand(len(scores), -1), len(nodes))
        yield from walk(trie, step, at_once, scores[:, part], grown, level + 1, below[part])


def exact_rankings(
    decoders: Mapping[str, TrieDecoder],
    memories: Mapping[str, Memory],
    eligible: Eligible,
    n_items: int,
    rule: str,
    rows: int,
    users: Sequence[int] | None = None,
) -> dict[str, Ranking]:
    """All items by every modality, and fused: by :func:`fuse_scores`, or with ``rule: official`` the released rule on the
    best ``eligible.beams`` items of each modality.

    Args:
        decoders, memories: of each modality.
        n_items, rows, users: see :func:`exact_scores`.
        rule: fusion of the modalities.

    Returns:
        modality -> Ranking, and ``fused`` -> Ranking.
    """
    scores = {m: exact_scores(decoders[m], memory, n_items, rows, users) for m, memory in memories.items()}
    if eligible.excluded is not None:
        some = eligible if users is None else eligible.rows(torch.as_tensor(users, device=eligible.excluded.device))
        scores = {m: matrix.scatter_(1, some.excluded, -torch.inf) for m, matrix in scores.items()}
    rankings = {m: ranking_of(matrix) for m, matrix in scores.items()}
    if rule == "official" and len(rankings) > 1:
        lists = [Ranking(*(column[:, : eligible.beams] for column in ranking)) for ranking in rankings.values()]
        return rankings | {"fused": fuse_official(lists, n_items)}
    levels = [decoders[m].trie.levels for m in memories]
    return rankings | {"fused": ranking_of(fuse_scores(rule, list(scores.values()), levels))}


def ranking_of(scores: torch.Tensor) -> Ranking:
    """All items of a score matrix [B, n_items], best first, equal scores in item order; column 0 is padding."""
    scores, order = scores[:, 1:].sort(dim=1, descending=True, stable=True)
    return Ranking((order + 1).masked_fill(scores.isneginf(), 0), scores)
