"""Base class of the generative models: they learn to generate the next item's semantic ID and rank items by its probability.

Shapes: B users, N items, n targets, L levels, K codes of a level, D model width, P tokens before the first item.
"""
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from recbole.evaluator.register import metric_information

from recbole_macrec.config.registry import models
from recbole_macrec.config.values import as_list, check_choice, check_whole
from recbole_macrec.errors import UserError
from recbole_macrec.generation.decoding.candidates import candidate_scores
from recbole_macrec.generation.decoding.causal_decoder import CausalTrieDecoder
from recbole_macrec.generation.decoding.certified import certified_rankings
from recbole_macrec.generation.decoding.eligible import Eligible
from recbole_macrec.generation.decoding.exact import exact_rankings
from recbole_macrec.generation.decoding.fusion import (
    fuse_official,
    fuse_rescored,
    fuse_scores,
    score_matrix,
)
from recbole_macrec.generation.decoding.prior import prior_log_probs
from recbole_macrec.generation.decoding.search import (
    Ranking,
    beam_search,
    sequence_log_probs,
)
from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.generation.decoding.trie_decoder import TrieDecoder
from recbole_macrec.generation.network.decoder_only import DecoderOnly
from recbole_macrec.generation.network.layers import TransformerSettings
from recbole_macrec.generation.network.memory import CausalMemory, Memory
from recbole_macrec.generation.network.transformer import Transformer
from recbole_macrec.generation.network.windows import Target, Windows
from recbole_macrec.generation.vocabulary import Vocabulary
from recbole_macrec.model.windowed import Histories, WindowedRecommender, in_eval_precision
from recbole_macrec.semantic_ids import SemanticIDs
from recbole_macrec.utils.cpu_threads import map_in_threads
from recbole_macrec.utils.hardware import free_memory


class Task(NamedTuple):
    """Read IDs of the source modality, generate an ID of the target modality."""

    source: str
    target: str


WHOLE_ORDER = ("rec.meanrank", "rec.score")  # data needed by RecBole's metrics over the whole ranking
CERTIFIED_ROWS = 2**17  # maximum number of prefixes that certified ranking keeps on a CPU: 1 GB for 4 layers of width 384
EXCLUDED_ITEMS_FIELD = "excluded_items"  # field of an interaction: int64 [B, S], items that the evaluator masks, padded with 0


class GenerativeRecommender(WindowedRecommender):
    """Base class of the generative models; a subclass defines its training tasks.

    A model trains on ``sequence_tasks`` (history -> next item) and ``item_tasks`` (item -> the same item in another
    modality), and ranks with every modality's own sequence task. A task's source is named by a prompt before the encoder's
    input, its target by the decoder's start token, so tasks with the same source share a forward pass.

    The network is T5 or a decoder-only transformer; both encode a history as a memory and predict codes from it.
    """

    recommender_class: type  # Recommender; set by plugin.py

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.semantic_ids = ids = dataset.semantic_ids
        self.modalities = list(ids.modalities)
        self.sequence_tasks, self.item_tasks = self.tasks(config)
        self.item_task_ratio = config["item_task_ratio"]
        self.cross_task_ratio = config["cross_task_ratio"]
        if self.item_task_ratio == 0:
            self.item_tasks = []
        self.aligns_items = self.reads_items(config)
        self.beams = config["num_beams"]
        self.decode, self.fusion, self.certified_rows = config["decode"], config["fusion"], config["certified_rows"]
        self.top = max(as_list(config["topk"]), default=0)
        prompt_length = config["prompt_length"]
        kinds = ["sequence", "item"] if self.aligns_items else ["sequence"]
        prompts = [f"{kind}:{m}" for kind in kinds for m in self.modalities] if prompt_length else []
        self.vocabulary = Vocabulary(ids.sizes, prompts, prompt_length)
        self.decoder_only, self.output = config["network"] == "decoder_only", config["output"]
        self.network = self.build_network(config)
        self.group_overhead = self.overhead_of(self.network)
        for m in self.modalities:
            codes = np.ascontiguousarray(ids.codes[m])  # [n_items - 1, L]
            self._add_buffer(f"codes_{m}", np.vstack([np.zeros_like(codes[:1]), codes]))  # [n_items, L], row 0 is padding
            _, group = np.unique(ids.raw_codes[m], axis=0, return_inverse=True)
            self._add_buffer(f"raw_id_{m}", np.append(-1, group.reshape(-1)))  # [n_items], equal where raw IDs collide
            if ids.n_new_items:
                prior = prior_log_probs(codes, ids.n_new_items)
                self._add_buffer(f"prior_{m}", np.vstack([prior[:1], prior]))  # [n_items, L]
        self.tries = torch.nn.ModuleDict(self.build_tries(np.arange(1, self.n_items)))
        trained = self.n_items - ids.n_new_items
        self.trained = torch.nn.ModuleDict(self.build_tries(np.arange(1, trained))) if ids.n_new_items else self.tries
        for m in self.modalities:
            nodes = torch.stack(self.trained[m].nodes(torch.arange(1, trained, device=self.trained[m].items.device)), dim=1)
            self._add_buffer(f"nodes_{m}", F.pad(nodes, (0, 0, 1, 0)).cpu().numpy())  # [trained, L], in `trained`

    def build_tries(self, items: np.ndarray) -> dict[str, Trie]:
        """Build the trie of the IDs of ``items`` (sorted item numbers) for each modality, on the model's device."""
        codes = {m: getattr(self, f"codes_{m}") for m in self.modalities}
        priors = {m: getattr(self, f"prior_{m}", None) for m in self.modalities}
        arrays = {m: [x if x is None else x.cpu().numpy()[items] for x in (codes[m], priors[m])] for m in self.modalities}
        return {m: Trie(c, items, prior).to(codes[m].device) for m, (c, prior) in arrays.items()}

    def tasks(self, config) -> tuple[list[Task], list[Task]]:
        """Sequence tasks and item tasks of this model."""
        raise NotImplementedError

    def reads_items(self, config) -> bool:
        """Whether training also reads single items, not only histories."""
        return bool(self.item_tasks)

    def build_network(self, config) -> Transformer | DecoderOnly:
        """Create the network."""
        if config["network"] == "decoder_only":
            return DecoderOnly(len(self.vocabulary), sizes(config))
        attention = config["encoder_attention"]
        if attention == "auto":
            attention = "causal" if config["training"] == "per_user" else "bidirectional"
        return Transformer(len(self.vocabulary), sizes(config), causal=attention == "causal")

    @classmethod
    def check_values(cls, config: dict) -> None:
        super().check_values(config)
        names = ("d_model", "d_ff", "num_heads", "d_kv", "encoder_layers", "decoder_layers", "num_beams", "certified_rows")
        check_whole(1, **{name: config[name] for name in names})
        check_choice(("decoder_only", "encoder_decoder"), network=config["network"])
        check_choice(("per_user", "per_target"), training=config["training"])
        check_choice(("auto", "causal", "bidirectional"), encoder_attention=config["encoder_attention"])
        check_choice(("trie", "level"), output=config["output"])
        if (config["training"], config["network"], config["encoder_attention"]) == ("per_user", "encoder_decoder", "bidirectional"):
            raise UserError(
                "training is per_user and encoder_attention is bidirectional: the encoder would see the items to predict. Set "
                "encoder_attention to causal, or training to per_target."
            )
        check_choice(("beam", "certified", "exact"), decode=config["decode"])
        check_choice(("official", "mean", "lse", "rescore"), fusion=config["fusion"])
        check_metrics(config)
        beams, largest_topk = config["num_beams"], max(as_list(config["topk"]), default=0)
        if config["decode"] == "beam" and beams < largest_topk:
            raise UserError(
                f"num_beams is {beams}; expected at least {largest_topk}, the largest topk, as a list of {largest_topk} items "
                "needs as many beams. Raise num_beams or lower topk."
            )

    # -- checks of a loaded checkpoint --------------------------------------------------------------------------------

    def other_parameter(self) -> dict:
        bundle = self.semantic_ids.bundle
        return {"semantic_ids": self.semantic_ids.fingerprint(), "bundle": bundle.name if bundle else None}

    def load_other_parameter(self, para: dict | None) -> None:
        theirs, ours = (para or {}).get("semantic_ids"), self.semantic_ids.fingerprint()
        if theirs != ours:
            raise UserError(
                f"The checkpoint was trained on the semantic IDs {theirs}, but this run has {ours}; use the dataset, "
                "features and semantic-ID options it was trained with."
            )

    # -- training ----------------------------------------------------------------------------------------------------

    def loss_parts(self, interaction) -> list[Callable[[], torch.Tensor]]:
        """See :class:`WindowedRecommender`. The loss is the cross-entropy averaged over levels and over samples of all tasks.

        Every target is a sample of each sequence task within a modality. Tasks between modalities train on a share
        ``cross_task_ratio`` of the users.
        """
        windows = self.windows(interaction)
        items = self._alignment_items(windows.target_items())
        samples, passes = len(items) * len(self.item_tasks), []
        for tasks, subset in self._split_by_tasks(windows):
            samples += subset.count() * len(tasks)
            for rows in self._batch_parts(subset.length - 1):
                part = subset.rows(rows)
                passes += [(int(part.length.max()), source, targets, part) for source, targets in self._by_source(tasks)]
        parts = [partial(self._item_loss, items, samples)] if len(items) else []
        longest_first = sorted(passes, key=lambda entry: -entry[0])
        return parts + [partial(self._sequence_loss, source, targets, part, samples) for _, source, targets, part in longest_first]

    def _split_by_tasks(self, windows: Windows) -> list[tuple[list[Task], Windows]]:
        """Assign sequence tasks to windows: a random share trains all tasks, the others only the tasks within a modality."""
        within = [task for task in self.sequence_tasks if task.source == task.target]
        users = len(windows.length)
        count = round(self.cross_task_ratio * users) if len(within) < len(self.sequence_tasks) else users
        if count >= users:
            return [(self.sequence_tasks, windows)]
        drawn = torch.randperm(users)
        shares = [(self.sequence_tasks, drawn[:count]), (within, drawn[count:])]
        return [(tasks, windows.rows(rows.sort().values)) for tasks, rows in shares if len(rows)]

    def excluded(self, interaction) -> torch.Tensor | None:
        """Items [B, S] that must not be recommended to each user, padded with 0."""
        return interaction[EXCLUDED_ITEMS_FIELD] if EXCLUDED_ITEMS_FIELD in interaction else None

    def _input_lengths(self, length: torch.Tensor) -> torch.Tensor:
        per_item = max(len(sizes) for sizes in self.vocabulary.sizes.values())
        return length * per_item + len(self._leading_tokens("sequence", self.modalities[0], length.device))

    def _alignment_items(self, target: torch.Tensor) -> torch.Tensor:
        """Distinct target items of the batch [N]. Item tasks get at most ``item_task_ratio`` items per target, at random."""
        if not self.aligns_items:
            return target[:0]
        items = target.cpu().unique()
        count = max(2, round(self.item_task_ratio * len(target)))
        if self.item_tasks and count < len(items):
            items = items[torch.randperm(len(items))[:count]]
        return items.to(target.device)

    def _by_source(self, tasks: list[Task]) -> list[tuple[str, list[str]]]:
        """Group tasks that share a forward pass, as (source, targets)."""
        return [(m, [task.target for task in tasks if task.source == m]) for m in dict.fromkeys(task.source for task in tasks)]

    def _sequence_loss(self, source: str, targets: list[str], windows: Windows, samples: int) -> torch.Tensor:
        """Cross-entropy of the sequence tasks of one source, summed over targets and divided by ``samples``."""
        states, items = self._window_states(source, targets, windows), windows.target_items()
        return sum(self._cross_entropy(m, hidden, items) for m, hidden in zip(targets, states)) / samples

    def _window_states(self, source: str, targets: list[str], windows: Windows) -> list[torch.Tensor]:
        """Hidden states [n, L, D] for each of ``targets``; see ``window_states`` of the networks."""
        front = self._leading_tokens("sequence", source, windows.items.device)
        target_ids = [self._target(m, source, windows.items) for m in targets]
        return self.network.window_states(front, self._tokens(source, windows.items), windows, target_ids, self.group_overhead)

    def _item_states(self, source: str, targets: list[str], items: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Hidden states [N, L, D] of single items for each of ``targets``, and the mean state of the source's codes [N, D]."""
        front = self._leading_tokens("item", source, items.device)
        target_ids = [self._target(m, source, items) for m in targets]
        return self.network.item_states(front, self._tokens(source, items), target_ids)

    def _item_loss(self, items: torch.Tensor, samples: int) -> torch.Tensor:
        """Loss of the alignment tasks on single items [N]."""
        loss = torch.zeros((), device=items.device)
        for source, targets in self._by_source(self.item_tasks):
            states, _ = self._item_states(source, targets, items)
            loss = loss + sum(self._cross_entropy(m, hidden, items) for m, hidden in zip(targets, states)) / samples
        return loss

    def _target(self, modality: str, source: str, items: torch.Tensor) -> Target:
        return Target(self._tokens(modality, items), self.vocabulary.start[modality], modality == source)

    def _tokens(self, modality: str, items: torch.Tensor) -> torch.Tensor:
        """Tokens [..., L] of the codes of items [...]."""
        offsets = torch.tensor(self.vocabulary.offsets[modality], device=items.device)
        return getattr(self, f"codes_{modality}")[items] + offsets

    def _cross_entropy(self, modality: str, hidden: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the targets' codes, averaged over levels and summed over targets.

        With ``output: trie`` a level's softmax is over the codes that continue the target's prefix in the trie, with
        ``output: level`` over the whole codebook.

        Args:
            hidden: [n, L, D].
            items: int64 [n].
        """
        codes, sizes = getattr(self, f"codes_{modality}")[items], self.vocabulary.sizes[modality]
        trie = self.softmax_trie(modality)
        nodes = getattr(self, f"nodes_{modality}")[items]  # [n, L]
        total = torch.zeros((), device=hidden.device)
        for level, (offset, size) in enumerate(zip(self.vocabulary.offsets[modality], sizes)):
            logits = self.network.logits(hidden[:, level], offset, size).float()  # [n, K]
            if trie is None:
                total = total + F.cross_entropy(logits, codes[:, level], reduction="sum")
                continue
            own = logits.gather(1, codes[:, level : level + 1])[:, 0]
            total = total + (trie.log_normaliser(level, nodes[:, level - 1] if level else None, logits) - own).sum()
        return total / len(sizes)

    # -- encoding ----------------------------------------------------------------------------------------------------

    def _leading_tokens(self, kind: str, modality: str, device: torch.device) -> torch.Tensor:
        """Tokens before the first item: the task's prompt, and for a decoder-only network the start token; int64 [P].

        A decoder-only network needs no prompt in sequence tasks, as the start token names the modality.
        """
        prompt = list(self.vocabulary.prompts.get(f"{kind}:{modality}", ()))
        if self.decoder_only:
            prompt = [*(prompt if kind == "item" else []), self.vocabulary.start[modality]]
        return torch.tensor(prompt, dtype=torch.long, device=device)

    def encode_history(self, modality: str, histories: Histories) -> Memory | CausalMemory:
        """Encode the histories of B users in one modality."""
        front = self._leading_tokens("sequence", modality, histories.items.device)
        tokens = self._tokens(modality, histories.items)
        levels = tokens.shape[2]
        rows = torch.cat([front.expand(len(tokens), -1), tokens.flatten(1)], dim=1)  # [B, P + T*L]
        return self.network.read(rows, len(front) + histories.length * levels, self.group_overhead, len(front), levels)

    # -- ranking -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    @in_eval_precision
    def rank(self, interaction, eligible: Eligible | None = None) -> dict[str, Ranking]:
        """Rank items by every modality's own sequence task, and by the fusion of all modalities.

        Args:
            eligible: the items to rank; None for all.

        Returns:
            modality -> Ranking, and ``fused`` -> Ranking; rows as in ``interaction``. With ``decode: beam`` a ranking
            holds the items found by the beams, with ``decode: exact`` every item, with ``decode: certified`` the first
            ``eligible.top`` items. With ``fusion: official`` and several modalities, ``fused`` combines the first
            ``eligible.beams`` items of each modality.
        """
        histories = self.histories(interaction)
        if eligible is None:
            same = {m: getattr(self, f"raw_id_{m}") for m in self.modalities}  # metrics by ID count distinct IDs
            eligible = Eligible(dict(self.tries.items()), max(self.beams, self.top), self.excluded(interaction), self.top, same)
        parts = self._batch_parts(histories.length, self._users_per_part(eligible.beams))
        order = torch.argsort(torch.cat(parts)).to(histories.items.device)
        rank = {"beam": self._rank_by_beams, "exact": self._rank_exactly, "certified": self._rank_certified}[self.decode]
        visits = len(order) * (self.n_items if self.decode == "exact" else eligible.beams)
        decoders = {m: self.decoder(m, eligible.tries[m], visits) for m in self.modalities}

        def rank_part(rows: torch.Tensor) -> dict[str, Ranking]:
            part = histories.rows(rows)
            memories = {m: self.encode_history(m, part) for m in self.modalities}
            return rank(decoders, memories, eligible.rows(rows))

        ranked = list(map_in_threads(rank_part, parts[::-1], self.device))[::-1]  # longest first
        widths = {name: max(part[name].items.shape[1] for part in ranked) for name in ranked[0]}
        return {
            name: Ranking(*(torch.cat(column)[order] for column in zip(*(part[name].widened(width) for part in ranked))))
            for name, width in widths.items()
        }

    def softmax_trie(self, modality: str) -> Trie | None:
        """Trie of the trained items if the softmax is over the children of a prefix, None if over all codes of a level."""
        return self.trained[modality] if self.output == "trie" else None

    def decoder(self, modality: str, trie: Trie, visits: int) -> TrieDecoder | CausalTrieDecoder:
        trained = self.softmax_trie(modality)
        if self.decoder_only:
            return CausalTrieDecoder(self.network, self.vocabulary, modality, trie, trained)
        return TrieDecoder(self.network, self.vocabulary, modality, trie, visits, trained)

    def _users_per_part(self, beams: int) -> int:
        """Number of users ranked together: limited by the cache on a CPU, by a quarter of the free memory elsewhere."""
        certified = self.decode == "certified"
        if self.device.type == "cpu":
            fit = CERTIFIED_ROWS // self.certified_rows if certified else 128 * self.beams // max(self.beams, beams)
            return max(1, min(128, fit))
        if certified:  # all modalities at once
            beams = self.certified_rows * len(self.modalities)
        s = self.network.settings
        levels = max(trie.levels for trie in self.tries.values())
        children = max(max(trie.widths[1:]) for trie in self.tries.values())
        numbers = 2 * s.decoder_layers * levels * s.num_heads * s.d_kv + s.d_ff + 6 * children  # per beam
        return max(1, free_memory(self.device) // 4 // (4 * numbers * beams))

    def _rank_by_beams(
        self, decoders: dict[str, TrieDecoder], memories: dict[str, Memory], eligible: Eligible
    ) -> dict[str, Ranking]:
        rankings = {
            m: beam_search(decoders[m], memory, eligible.beams, eligible.excluded) for m, memory in memories.items()
        }
        fused = fuse_official(list(rankings.values()), self.n_items)
        if self.fusion != "official":
            scores = [self._exact_scores(m, memory, fused.items) for m, memory in memories.items()]
            fused = fuse_rescored(self.fusion, fused.items, scores, self._levels())
        return rankings | {"fused": fused}

    def _rank_exactly(
        self, decoders: dict[str, TrieDecoder], memories: dict[str, Memory], eligible: Eligible
    ) -> dict[str, Ranking]:
        return exact_rankings(decoders, memories, eligible, self.n_items, self.fusion, self._traversal_rows())

    def _rank_certified(
        self, decoders: dict[str, TrieDecoder], memories: dict[str, Memory], eligible: Eligible
    ) -> dict[str, Ranking]:
        limit, rows = self.certified_rows, self._traversal_rows()
        return certified_rankings(decoders, memories, eligible, self.n_items, self.fusion, limit, rows)

    def _traversal_rows(self) -> int:
        """Number of (user, prefix) pairs that a traversal of the whole trie decodes at once."""
        return 4096 if self.device.type == "cpu" else 65536

    def full_sort_predict(self, interaction) -> torch.Tensor:
        """Scores of all items, [B, n_items]; see :func:`score_matrix`."""
        self.last_rankings = self.rank(interaction)
        return score_matrix(self.last_rankings["fused"], self.n_items)

    def predict(self, interaction) -> torch.Tensor:
        """Exact score of one item per sample [B]; see :meth:`item_scores`."""
        return self.item_scores(interaction, interaction[self.ITEM_ID].unsqueeze(1))[:, 0]

    @torch.no_grad()
    @in_eval_precision
    def item_scores(self, interaction, items: torch.Tensor) -> torch.Tensor:
        """Exact scores of given items [B, C]: log-probability divided by the length of the ID; see :func:`fuse_scores`."""
        histories = self.histories(interaction)
        decoders = {m: self.decoder(m, self.tries[m], items.numel()) for m in self.modalities}

        def part_scores(rows: torch.Tensor) -> torch.Tensor:
            part, candidates = histories.rows(rows), items[rows.to(items.device)]
            scores = [candidate_scores(decoder, self.encode_history(m, part), candidates) for m, decoder in decoders.items()]
            return fuse_scores(self.fusion, scores, self._levels())

        parts = self._batch_parts(histories.length, self._users_per_part(items.shape[1]))[::-1]  # longest first
        scores = torch.cat(list(map_in_threads(part_scores, parts, self.device)))
        return scores[torch.argsort(torch.cat(parts)).to(scores.device)]

    @property
    def catalogue(self) -> SemanticIDs:
        return self.semantic_ids

    def restriction(self, allowed: np.ndarray | None) -> dict[str, Trie]:
        return dict(self.tries.items()) if allowed is None else self.build_tries(allowed)

    def best_items(self, interaction, k: int, restriction: dict[str, Trie], excluded: torch.Tensor | None = None) -> Ranking:
        return self.rank(interaction, Eligible(restriction, max(self.beams, k), excluded, k))["fused"]

    def _levels(self) -> list[int]:
        return [self.tries[m].levels for m in self.modalities]

    def _exact_scores(self, modality: str, memory: Memory, items: torch.Tensor) -> torch.Tensor:
        """Log-probability of items [B, G] divided by the length of their IDs; [B, G]."""
        codes = getattr(self, f"codes_{modality}")[items]  # [B, G, L]
        prior = getattr(self, f"prior_{modality}")[items] if self.semantic_ids.n_new_items else None
        trained = self.softmax_trie(modality)
        return sequence_log_probs(self.network, self.vocabulary, modality, memory, codes, prior, trained)

    # -- after training ----------------------------------------------------------------------------------------------

    def recommend(self, sequences, k: int = 10, exclude_seen: bool = False, candidates=None):
        """Recommend ``k`` items for histories of item tokens; see :meth:`recbole_macrec.Recommender.recommend`."""
        return self.recommender_class(self).recommend(sequences, k, exclude_seen, candidates)

    def save_pretrained(self, folder, overwrite: bool = False) -> None:
        """Save the model as a self-contained folder; see :meth:`recbole_macrec.Recommender.save_pretrained`."""
        self.recommender_class(self).save_pretrained(folder, overwrite)


def generative_names() -> list[str]:
    """Names of the registered models that generate semantic IDs."""
    return [name for name, model in models().items() if issubclass(model, GenerativeRecommender)]


def sizes(config) -> TransformerSettings:
    """Sizes of the network from the options in ``config``."""
    return TransformerSettings(
        d_model=config["d_model"],
        d_ff=config["d_ff"],
        num_heads=config["num_heads"],
        d_kv=config["d_kv"],
        encoder_layers=config["encoder_layers"],
        decoder_layers=config["decoder_layers"],
        dropout=config["dropout_prob"],
    )


def check_metrics(config: dict) -> None:
    """Raise a UserError for a metric over the whole ranking, such as GAUC, if beam search ranks only a part of the items."""
    modes = (config["eval_args"] or {}).get("mode")
    modes = list(modes.values()) if isinstance(modes, dict) else as_list(modes)
    if config["decode"] != "beam" or (modes and "full" not in modes):
        return
    for metric in as_list(config["metrics"]):
        if not set(metric_information.get(str(metric).lower(), [])).isdisjoint(WHOLE_ORDER):
            raise UserError(
                f"metrics contains {metric}, which needs a ranking of all items, but decode: beam ranks only the items that "
                "its beams find; set decode: exact, or remove the metric."
            )
