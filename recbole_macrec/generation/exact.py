"""The log-probability of every item for every user: the true full ranking, to which beam search is the fast way.

Legend: B users, C prefixes worked on at once, N rows of the score matrix's items, D model width.
"""
from collections.abc import Iterator

import torch

from recbole_macrec.generation.memory import Memory, Past, SourceHeads
from recbole_macrec.generation.prior import with_prior
from recbole_macrec.generation.search import Ranking, level_log_probs
from recbole_macrec.generation.transformer import Transformer
from recbole_macrec.generation.trie import Trie
from recbole_macrec.generation.vocabulary import Vocabulary


def exact_scores(
    network: Transformer,
    vocabulary: Vocabulary,
    modality: str,
    trie: Trie,
    memory: Memory,
    n_items: int,
    rows: int = 4096,
) -> torch.Tensor:
    """log P(ID | history) / L of every item.

    Every prefix of the trie goes through the decoder once a user, whatever the number of items below it, so the work
    is that of the trie's inner nodes and not of items times levels.

    Args:
        memory: the encoded histories of B users.
        n_items: items of the catalogue, padding included.
        rows: most (user, prefix) pairs decoded at once; bounds memory, changes nothing else.

    Returns:
        float32 [B, n_items], -inf for padding and for items outside the trie.
    """
    device = memory.hidden.device
    scores = torch.full((memory.users, n_items), -torch.inf, device=device)
    last = trie.levels - 1
    leaf = torch.repeat_interleave(trie.counts(last, range(trie.size(last))))  # of every position in trie.items
    at_once = max(1, rows // trie.size(last))
    source, begin = network.source_heads(memory), 0
    for group, (users, _) in enumerate(memory.groups):
        for first in range(0, users, at_once):
            n = min(at_once, users - first)
            heads = [[heads_of_users(layer[group], slice(first, first + n))] for layer in source]
            tokens = torch.full((n, 1), vocabulary.start[modality], device=device)
            past = Past.empty(len(network.decoder))
            hidden, present = network.step(tokens, heads, past)

            def step(level: int, codes: torch.Tensor, past: Past):
                tokens = (vocabulary.offsets[modality][level] + codes).expand(n, -1)
                return network.step(tokens, heads, past)

            def log_probs(level: int, hidden: torch.Tensor):
                return level_log_probs(network, vocabulary, modality, level, hidden)

            root = torch.zeros(n, 1, device=device)
            leaves = torch.cat(list(walk(trie, step, log_probs, rows // n, root, hidden, past, present)), dim=1)
            scores[begin : begin + n, trie.items.long()] = leaves[:, leaf] / trie.levels
            begin += n
    return scores


def heads_of_users(heads: SourceHeads, users: slice) -> SourceHeads:
    return SourceHeads(heads.keys[:, users], heads.values[:, users], None if heads.mask is None else heads.mask[users])


def walk(
    trie: Trie, step, log_probs, at_once: int, scores, hidden, past, present, level=0, nodes=None, parent=None
) -> Iterator[torch.Tensor]:
    """Depth first through the trie, ``at_once`` prefixes of a level together.

    Args:
        step: (level, codes [C], past) -> what Transformer.step returns for the prefixes that end in these codes.
        log_probs: (level, hidden) -> log P(code | prefix) [B, C, K].
        scores, hidden, present: log P [B, C] of the prefixes above and what ``step`` returned for them.
        past: what it was given.
        nodes: range of nodes of ``level`` to score.
        parent: int64 [nodes], which of the prefixes above each continues.

    Yields:
        log P [B, ...] of leaves, in the order of the trie.
    """
    if nodes is None:
        nodes = range(trie.size(0))
        parent = torch.zeros(len(nodes), dtype=torch.long, device=hidden.device)
    codes = trie.code(level)[nodes.start : nodes.stop].long()
    here = log_probs(level, hidden)[:, parent, codes]  # [B, nodes]
    if trie.has_prior:
        here = with_prior(here, trie.prior(level)[nodes.start : nodes.stop])
    scores = scores[:, parent] + here
    if level == trie.levels - 1:
        yield scores
        return
    for begin in range(0, len(nodes), at_once):
        part = slice(begin, begin + at_once)
        grown = past.then(present, parent[part].unsqueeze(0)).trimmed()
        below_hidden, below_present = step(level, codes[part], grown)
        below = trie.descendants(level, nodes[part])
        children = torch.repeat_interleave(trie.counts(level, nodes[part]))
        yield from walk(
            trie, step, log_probs, at_once, scores[:, part], below_hidden, grown, below_present, level + 1, below, children
        )


def ranking_of(scores: torch.Tensor) -> Ranking:
    """All items of a score matrix [B, n_items], best first, equal scores in item order; column 0 is padding."""
    scores, order = scores[:, 1:].sort(dim=1, descending=True, stable=True)
    return Ranking((order + 1).masked_fill(scores.isneginf(), 0), scores)
