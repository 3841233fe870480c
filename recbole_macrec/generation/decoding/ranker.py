"""Ranks the items of a catalogue for a batch of users, in every modality and by the fusion of the modalities.

Shapes: B users, n users ranked together, G items of a user, S excluded items of a user, R ranked items.
"""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from recbole_macrec.config.schema.base import Positive, as_list, option
from recbole_macrec.config.schema.ranking import SearchOptions
from recbole_macrec.errors import UserError
from recbole_macrec.generation.decoding.candidates import candidate_scores
from recbole_macrec.generation.decoding.causal_decoder import AnyTrieDecoder, CausalTrieDecoder
from recbole_macrec.generation.decoding.certified import certified_rankings
from recbole_macrec.generation.decoding.eligible import Eligible
from recbole_macrec.generation.decoding.exact import exact_rankings
from recbole_macrec.generation.decoding.fusion import fuse_official, fuse_scores
from recbole_macrec.generation.decoding.search import Ranking, beam_search, best_of
from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.generation.decoding.trie_decoder import TrieDecoder
from recbole_macrec.generation.decoding.weighted import fused_scores
from recbole_macrec.generation.id_table import IDTable
from recbole_macrec.generation.network.decoder_only import DecoderOnly
from recbole_macrec.generation.network.memory import AnyMemory
from recbole_macrec.generation.network.transformer import Transformer
from recbole_macrec.generation.network.windows import Histories
from recbole_macrec.generation.vocabulary import Vocabulary
from recbole_macrec.utils.cpu_threads import map_in_threads
from recbole_macrec.utils.device_budget import DeviceBudget, count_that_fits
from recbole_macrec.utils.sorted_rows import distinct

# float32 numbers per user and item in ranking and evaluation
NUMBERS_PER_SCORE = {"beam": 4, "certified": 4, "fused": 12, "exact": 24}


class RankingSettings(SearchOptions):
    """Options of a ranking.

    ``num_beams`` is also the length of the lists that ``fusion: official`` fuses, and the number of candidates of the dense
    head.
    """

    ranked_tokenizations: Positive = option(1, "Tokenizations of each modality; their scores are combined by the mean")
    top: Positive = option(10, "Number of items that a certified ranking must contain, the largest topk")

    @classmethod
    def from_config(cls, config: Mapping, tokenizations: int) -> "RankingSettings":
        """Read the options of a model; ``ranked_tokenizations: None`` is ``tokenizations``, the number that it has."""
        return cls(
            **{name: config[name] for name in SearchOptions.model_fields},
            ranked_tokenizations=config["ranked_tokenizations"] or tokenizations,
            top=max(as_list(config["topk"]), default=1),
        )

    def changed(self, options: Mapping, tokenizations: int) -> "RankingSettings":
        """These settings with other values, for a model with this number of tokenizations.

        Raises:
            UserError: for an unknown name or a wrong value.
        """
        settings = RankingSettings(**{**dict(self), **options})
        if (ranked := settings.ranked_tokenizations) > tokenizations:
            raise UserError(
                f"ranked_tokenizations is {ranked}; expected 1 to {tokenizations}, the number that the model has."
            )
        return settings

    def for_modalities(self, count: int) -> "RankingSettings":
        """The settings for a model of ``count`` modalities: the mean fuses several tokenizations of a single one.

        Raises:
            UserError: ``fusion`` is ``official``, and several tokenizations of several modalities are ranked.
        """
        if self.ranked_tokenizations == 1:
            return self
        if count == 1:
            return RankingSettings(**{**dict(self), "fusion": "mean"})
        if self.fusion == "official":
            raise UserError(
                f"{self.ranked_tokenizations} tokenizations are ranked and fusion is official, a rule for one ranking per "
                "modality; set fusion to lse or mean."
            )
        return self

    def options(self) -> dict:
        """The options from which :meth:`from_config` reads these settings."""
        options = dict(self)
        top = options.pop("top")
        return options | {"topk": [top]}


@dataclass(frozen=True)
class DenseScores:
    """Scores of the dense head, for ``decode: fused``.

    Attributes:
        log_probs: encoded histories of n users by modality -> log-probabilities [n, n_items] of all items; -inf for the
            padding.
        share: weight of these scores; that of the generative ones is 1 - share.
    """

    log_probs: Callable[[Mapping[str, AnyMemory]], torch.Tensor]
    share: torch.Tensor

    def fuse(self, generative: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """Weighted sum of both scores of candidates [n, G]."""
        return fused_scores(torch.stack([generative, dense]), torch.stack([1 - self.share, self.share]))


@dataclass(frozen=True)
class Ranker:
    """Ranks items by the probability of their IDs.

    Attributes:
        network, vocabulary: of the model.
        tables: modality -> IDs of all items.
        softmax_tries: modality -> trie of the trained items if the softmax of a level is over the codes that continue a prefix,
            None if it is over all codes of the level.
        encode: histories -> modality -> the encoded histories.
        options: options of the ranking.
        budget: amounts of work that the device gets at once.
        dense: required by ``decode: fused``.
    """

    network: Transformer | DecoderOnly
    vocabulary: Vocabulary
    tables: Mapping[str, IDTable]
    softmax_tries: Mapping[str, Trie | None]
    encode: Callable[[Histories], Mapping[str, AnyMemory]]
    options: RankingSettings
    budget: DeviceBudget
    dense: DenseScores | None = None

    @property
    def n_items(self) -> int:
        """Number of items, including the padding."""
        return len(next(iter(self.tables.values())).codes)

    def all_items(self, excluded: torch.Tensor | None = None) -> Eligible:
        """All items except the ``excluded`` ones, int64 [B, S], padded with 0. Metrics by ID need ``top`` distinct IDs."""
        o = self.options
        tries = {m: table.trie for m, table in self.tables.items()}
        raw_ids = {m: table.raw_id for m, table in self.tables.items()}
        return Eligible(tries, max(o.num_beams, o.top), excluded, o.top, raw_ids)

    def users_per_part(self, beams: int, device: torch.device) -> int:
        """Number of users ranked together with ``beams`` beams."""
        o = self.options
        certified = o.decode == "certified"
        if (users := self.budget.ranked_users) is not None:
            fit = users * o.num_beams // max(o.num_beams, beams)
            if certified and self.budget.certified_prefixes is not None:
                fit = self.budget.certified_prefixes // o.certified_rows
            return max(1, min(users, fit))
        if certified:
            beams = o.certified_rows * len(self.tables)
        s, tries = self.network.settings, [table.trie for table in self.tables.values()]
        levels, children = max(trie.levels for trie in tries), max(max(trie.widths[1:]) for trie in tries)
        numbers = 2 * s.decoder_layers * levels * s.num_heads * s.d_kv + s.d_ff + 6 * children  # per beam
        scores = NUMBERS_PER_SCORE["fused"] * self.n_items if o.decode == "fused" else 0
        return count_that_fits(numbers * beams + scores, device)

    def rank(self, histories: Histories, eligible: Eligible, parts: Sequence[torch.Tensor]) -> dict[str, Ranking]:
        """Rank the eligible items for B users.

        Args:
            parts: rows of the users ranked together; shorter histories first.

        Returns:
            modality -> Ranking, and ``fused`` -> Ranking; rows as in ``histories``. With ``decode: exact`` a ranking contains
            every item, with ``beam`` all items of the IDs that are found, with ``certified`` the first ``eligible.top`` items.
            With ``fusion: official`` and several modalities, ``fused`` combines the first ``eligible.beams`` items of each
            modality. With ``decode: fused``, the rankings ``generative``, ``dense`` and ``fused`` contain the same candidates.
        """
        order = torch.argsort(torch.cat(list(parts))).to(histories.items.device)
        visits = len(order) * (self.n_items if self.options.decode == "exact" else eligible.beams)
        decoders = {m: self.decoder(m, eligible.tries[m], visits) for m in self.tables}

        def rank_part(rows: torch.Tensor) -> dict[str, Ranking]:
            part = histories.select(rows)
            return self.rank_memories(decoders, self.encode(part), eligible.select(rows))

        ranked = list(map_in_threads(rank_part, parts[::-1], histories.items.device))[::-1]  # longest first
        return {name: Ranking.joined([part[name] for part in ranked], order) for name in ranked[0]}

    def rank_memories(
        self, decoders: Mapping[str, AnyTrieDecoder], memories: Mapping[str, AnyMemory], eligible: Eligible
    ) -> dict[str, Ranking]:
        """Rank the eligible items for n users whose histories are encoded; see :meth:`rank`. All arguments are by modality."""
        o = self.options
        if o.decode in ("exact", "certified"):
            rank = exact_rankings if o.decode == "exact" else partial(certified_rankings, max_prefixes=o.certified_rows)
            return rank(
                decoders, memories, eligible, self.n_items, o.fusion, traversal_rows=self.budget.traversal_rows,
                tokenizations=o.ranked_tokenizations,
            )  # fmt: skip
        rankings = {m: beam_search(decoders[m], memory, eligible.beams, eligible.excluded) for m, memory in memories.items()}
        if o.decode == "fused":
            return rankings | self._rank_candidates(rankings, decoders, memories, eligible)
        fused = next(iter(rankings.values()))
        if len(rankings) > 1 and o.fusion == "official":
            lists = [ranking.first(eligible.beams) for ranking in rankings.values()]
            fused = fuse_official(lists, self.n_items)
        elif len(rankings) > 1:
            candidates = distinct(torch.cat([ranking.items for ranking in rankings.values()], dim=1))
            scores = self._generative_scores(decoders, memories, candidates)
            fused = best_of(candidates, scores, candidates.shape[1])  # equal scores in item order
        return rankings | {"fused": fused}

    def _rank_candidates(
        self,
        beams: Mapping[str, Ranking],
        decoders: Mapping[str, AnyTrieDecoder],
        memories: Mapping[str, AnyMemory],
        eligible: Eligible,
    ) -> dict[str, Ranking]:
        """Rank the items of ``beams`` and the best ``eligible.beams`` items of the dense head by the generative, the dense and
        the fused score."""
        dense_of_all = self.dense_scores.log_probs(memories)  # [n, n_items]
        allowed = torch.full_like(dense_of_all, -torch.inf)
        items = next(iter(eligible.tries.values())).items.long()
        allowed[:, items] = dense_of_all[:, items]
        if eligible.excluded is not None:
            allowed.scatter_(1, eligible.excluded, -torch.inf)
        best = allowed.topk(min(eligible.beams, self.n_items - 1))
        lists = [*(ranking.items for ranking in beams.values()), best.indices.masked_fill(best.values.isneginf(), 0)]
        candidates = distinct(torch.cat(lists, dim=1))  # in item order, so that equal scores are ranked in it
        generative = self._generative_scores(decoders, memories, candidates)
        dense = dense_of_all.gather(1, candidates)
        scores = {"generative": generative, "dense": dense, "fused": self.dense_scores.fuse(generative, dense)}
        return {name: best_of(candidates, own, candidates.shape[1]) for name, own in scores.items()}

    def fused_again(self, rankings: Mapping[str, Ranking]) -> dict[str, Ranking]:
        """Add the fused one to the other ``rankings``, which :meth:`rank` found with ``decode: fused`` and any weight of the
        dense scores; the weight has no effect on the candidates."""
        generative, dense = (rankings[name].by_item() for name in ("generative", "dense"))
        fused = self.dense_scores.fuse(generative.scores, dense.scores)
        return {**rankings, "fused": best_of(generative.items, fused, fused.shape[1])}

    @property
    def dense_scores(self) -> DenseScores:
        if self.dense is None:
            raise UserError(
                "decode is fused, which needs a model trained with dense_head: True; train one, or choose another decode."
            )
        return self.dense

    def decoder(self, modality: str, trie: Trie, visits: int) -> AnyTrieDecoder:
        """Create the decoder of a search; ``visits`` is the expected number of prefixes of a level to score."""
        trained = self.softmax_tries[modality]
        if isinstance(self.network, DecoderOnly):
            return CausalTrieDecoder(self.network, self.vocabulary, modality, trie, trained)
        return TrieDecoder(self.network, self.vocabulary, modality, trie, visits, trained)

    def item_scores(self, histories: Histories, items: torch.Tensor, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Exact scores of given items [B, G], fused over the modalities; see :func:`fuse_scores`.

        The score of an item in a modality is its log-probability divided by the length of its ID. With ``decode: fused`` it is
        fused with the dense score.

        Args:
            parts: as in :meth:`rank`.
        """
        decoders = {m: self.decoder(m, table.trie, items.numel()) for m, table in self.tables.items()}

        def part_scores(rows: torch.Tensor) -> torch.Tensor:
            part, candidates = histories.select(rows), items[rows.to(items.device)]
            memories = self.encode(part)
            generative = self._generative_scores(decoders, memories, candidates)
            if self.options.decode != "fused":
                return generative
            return self.dense_scores.fuse(generative, self.dense_scores.log_probs(memories).gather(1, candidates))

        longest_first = parts[::-1]
        scores = torch.cat(list(map_in_threads(part_scores, longest_first, histories.items.device)))
        return scores[torch.argsort(torch.cat(list(longest_first))).to(scores.device)]

    def _generative_scores(
        self, decoders: Mapping[str, AnyTrieDecoder], memories: Mapping[str, AnyMemory], items: torch.Tensor
    ) -> torch.Tensor:
        """Exact scores of items [n, G], fused over the modalities."""
        scores = [candidate_scores(decoder, memories[m], items) for m, decoder in decoders.items()]
        levels = [table.levels for table in self.tables.values()]
        return fuse_scores(self.options.fusion, scores, levels, self.options.ranked_tokenizations)


def max_users_in_memory(n_items: int, decode: str, device: torch.device) -> int:
    """Number of users whose scores of ``n_items`` fit into the usable part of the free memory of ``device``; at least 1."""
    return count_that_fits(NUMBERS_PER_SCORE[decode] * n_items, device)
