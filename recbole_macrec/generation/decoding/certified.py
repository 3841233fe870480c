"""Certified rankings: the first items of the exact ones, from a search in each modality.

With several modalities, the fused top k is computed from the modalities' rankings by the threshold algorithm (Fagin, Lotem and
Naor, "Optimal aggregation algorithms for middleware", 2003).

Shapes: B users, C candidates of a user.
"""
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from recbole_macrec.generation.decoding.causal_decoder import AnyTrieDecoder
from recbole_macrec.generation.decoding.certified_search import CertifiedSearch, on_host
from recbole_macrec.generation.decoding.eligible import Eligible
from recbole_macrec.generation.decoding.exact import exact_rankings
from recbole_macrec.generation.decoding.fusion import fuse_official, fuse_scores
from recbole_macrec.generation.decoding.search import Ranking, best_of, first_best
from recbole_macrec.generation.network.memory import AnyMemory
from recbole_macrec.utils.sorted_rows import distinct

SLACK = 1e-5  # allowed relative rounding error of fused scores


def certified_rankings(
    decoders: Mapping[str, AnyTrieDecoder],
    memories: Mapping[str, AnyMemory],
    eligible: Eligible,
    n_items: int,
    rule: str,
    max_prefixes: int,
    traversal_rows: int,
    tokenizations: int = 1,
) -> dict[str, Ranking]:
    """The first ``eligible.top`` items of :func:`~recbole_macrec.generation.decoding.exact.exact_rankings`.

    With ``rule: official`` and several modalities, the fused ranking contains all items that :func:`fuse_official` ranks, from
    the best ``eligible.beams`` items of each modality.

    Args:
        decoders, memories: by modality.
        n_items: number of items, including the padding.
        rule: fusion of the modalities.
        max_prefixes: maximum number of prefixes of a modality expanded for a user. For users who need more the trie is
            traversed.
        traversal_rows: maximum number of (user, prefix) pairs decoded at once in a full traversal.
        tokenizations: number of tokenizations of each modality.

    Returns:
        modality -> Ranking, and ``fused`` -> Ranking.
    """
    several = len(memories) > 1
    searches = {
        m: CertifiedSearch(decoders[m], memory, eligible.excluded, max_prefixes, several) for m, memory in memories.items()
    }
    rankings = {m: search.top(eligible.top, eligible.raw_ids_of(m))[0] for m, search in searches.items()}
    if not several:
        (rankings["fused"],) = rankings.values()
    elif rule == "official":
        rankings["fused"] = fuse_official([search.top(eligible.beams)[0] for search in searches.values()], n_items)
    else:
        rankings["fused"] = fused_top(list(searches.values()), rule, eligible.top, eligible.raw_ids_of("fused"), tokenizations)
    (exceeded,) = np.nonzero(np.any([search.exceeded for search in searches.values()], axis=0))
    if len(exceeded):
        users = exceeded.tolist()
        exact = exact_rankings(decoders, memories, eligible, n_items, rule, traversal_rows, users, tokenizations)
        for name, ranking in exact.items():
            if not (several and name == "fused" and rule == "official"):
                n_top = ranking.items.new_full((len(exceeded),), eligible.top)
                ranking, _ = first_best(ranking, n_top, eligible.raw_ids_of(name))
            rankings[name] = rankings[name].replaced(users, ranking)
    return rankings


def fused_top(
    searches: Sequence[CertifiedSearch], rule: str, k: int, raw_ids: torch.Tensor | None = None, tokenizations: int = 1
) -> Ranking:
    """The best ``k`` items by :func:`~recbole_macrec.generation.decoding.fusion.fuse_scores`, by the threshold algorithm.

    The fusion of the lists' last scores is an upper bound for all items outside the lists. For users whose k-th item does not
    exceed it, the lists are doubled.

    Args:
        searches: one resumable search per modality and tokenization.
        raw_ids: as in :meth:`CertifiedSearch.top`.
        tokenizations: number of tokenizations of each modality.
    """
    levels = [search.trie.levels for search in searches]
    n_top = torch.full_like(searches[0].active, k, dtype=torch.long)
    lengths = n_top.clone()
    while True:
        lists, last = zip(*(search.top(lengths) for search in searches))
        candidates = distinct(torch.cat([ranking.items for ranking in lists], dim=1))
        scores = fuse_scores(rule, [search.scores(candidates) for search in searches], levels, tokenizations)
        found = best_of(candidates, scores.masked_fill(candidates == 0, -torch.inf), candidates.shape[1])
        ranking, bound = first_best(found, n_top, raw_ids)
        threshold = fuse_scores(rule, last, levels, tokenizations)
        complete = torch.stack(last).isneginf().any(0) | (bound > threshold + SLACK * threshold.abs())
        for search in searches:
            complete |= ~search.active
        if all(on_host(complete.all())):
            return ranking
        lengths = torch.where(complete, lengths, 2 * lengths)
