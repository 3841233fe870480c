"""Base class of the generative models: they learn to generate the next item's semantic ID and rank items by its probability.

Shapes: B users, N items, n targets, L levels, K codes of a level, D model width, P tokens before the first item.
"""
import copy
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch

from recbole_macrec.config.registry import models
from recbole_macrec.data.id_files import modality_of, tokenization_name
from recbole_macrec.errors import UserError
from recbole_macrec.generation.decoding.eligible import Eligible
from recbole_macrec.generation.decoding.fusion import score_matrix
from recbole_macrec.generation.decoding.ranker import DenseScores, Ranker, RankingSettings
from recbole_macrec.generation.decoding.search import Ranking
from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.generation.id_table import IDTable
from recbole_macrec.generation.network.decoder_only import DecoderOnly
from recbole_macrec.generation.network.layers import TransformerSettings
from recbole_macrec.generation.network.memory import AnyMemory
from recbole_macrec.generation.network.transformer import Transformer
from recbole_macrec.generation.network.windows import Histories, Windows
from recbole_macrec.generation.vocabulary import Vocabulary
from recbole_macrec.model.dense_head import DenseHead
from recbole_macrec.model.interleaved import check_levels, interleaved_tokens, random_orders
from recbole_macrec.model.item_vectors import budget_for_softmax
from recbole_macrec.model.network_inputs import NetworkInputs, prompt_name
from recbole_macrec.model.passes import TrainingPasses
from recbole_macrec.model.tasks import (
    SourceTasks,
    Task,
    drawn_tokenizations,
    group_by_shape,
    group_by_source,
    in_tokenization,
    split_by_tasks,
    split_by_tokenization,
)
from recbole_macrec.model.windowed import WindowedRecommender, in_eval_precision
from recbole_macrec.semantic_ids import SemanticIDs
from recbole_macrec.semantic_ids.order import order_fingerprint
from recbole_macrec.utils.distributed_tensors import mean_over_processes
from recbole_macrec.utils.modules import ModuleDict


class GenerativeRecommender(WindowedRecommender):
    """Base class of the generative models; a subclass defines its training tasks.

    A model trains on ``sequence_tasks`` (history -> next item) and ``item_tasks`` (item -> the same item in another
    modality), and ranks with every modality's own sequence task. A prompt before the encoder's input names the source of a
    task, and the decoder's start token its target, so tasks with the same source share a forward pass. With ``prompt: task``
    (the papers) the prompt names source and target, and every task has its own pass.

    The network is T5 or a decoder-only transformer; both encode a history as a memory and predict codes from it. With
    ``dense_head`` the decoder-only network also scores the whole catalogue (dense_head.py).

    With several tokenizations of the items, every training window is written in one of them, drawn at random; in the last
    ``tokenization_tuning`` epochs in the first one. Each has tokens of its own, as code numbers of different quantizers have no
    common meaning. The score of an item in a modality is the mean of its log-probabilities in the ranked tokenizations.

    Attributes:
        inputs: writes items as input of the network.
        passes: losses of single passes through the network.
        modalities: names of the modalities.
        tokenizations: for each tokenization, the names of its IDs in the modalities.
        n_trained: number of tokenizations, the first ones, from which one is drawn for each training window.
        known_rankings: rankings of the batch that :meth:`full_sort_predict` is called with next, found with ``decode: fused``
            and another weight of the dense head, so that it does not search again; None if there are none.
    """

    recommender_class: type  # Recommender; set by the plugin
    semantic_ids: SemanticIDs

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.semantic_ids = ids = dataset.semantic_ids
        self.modalities = list(dict.fromkeys(map(modality_of, ids.modalities)))
        count = len(ids.modalities) // len(self.modalities)
        self.tokenizations = [[tokenization_name(m, number) for m in self.modalities] for number in range(count)]
        self.n_trained, self.tuning_epochs = count, config["tokenization_tuning"] or 0  # None in old checkpoints
        self.sequence_tasks, self.item_tasks = self.tasks(config)
        self.item_task_ratio = config["item_task_ratio"]
        self.cross_task_ratio = config["cross_task_ratio"]
        if self.item_task_ratio == 0:
            self.item_tasks = []
        self.aligns_items = self.reads_items(config)
        self.interleaved = config["history"] == "both"
        if self.interleaved:
            check_levels(ids.sizes)
        self._check_tokenizations()
        self.known_rankings: dict[str, Ranking] | None = None
        self.ranking = RankingSettings.from_config(config, count).for_modalities(len(self.modalities))
        if self.ranking.ranked_tokenizations > 1 and self.ranking.decode == "certified":
            self.logger.warning(
                f"decode is certified and {self.ranking.ranked_tokenizations} tokenizations are ranked, which is slow; set "
                "decode to beam, or ranked_tokenizations to 1."
            )
        prompt_length = config["prompt_length"]
        kinds = ["sequence", "item"] if self.aligns_items else ["sequence"]
        self.prompt_per_task = config["prompt"] == "task"
        targets = ids.modalities if self.prompt_per_task else [""]
        prompts = [prompt_name(kind, m, t) for kind in kinds for m in ids.modalities for t in targets]
        self.vocabulary = Vocabulary(ids.sizes, prompts if prompt_length else [], prompt_length)
        self.decoder_only, self.output = config["network"] == "decoder_only", config["output"]
        self.network = self.build_network(config)
        self.group_overhead = self.budget.group_overhead(self.network)
        self.dense_head = DenseHead(ids, self.network.settings.d_model) if config["dense_head"] else None
        if self.dense_head is not None:
            self.budget = budget_for_softmax(self.budget, self.n_items, min(map(len, ids.sizes.values())))
        counts = ids.item_counts if config["item_prior"] == "popularity" else None  # item_prior is None in old checkpoints
        self.tables = ModuleDict(
            {m: IDTable(ids.codes[m], ids.raw_codes[m], ids.n_new_items, counts) for m in ids.modalities}
        )
        self.inputs = NetworkInputs(self.vocabulary, self.tables, self.decoder_only, self.prompt_per_task)
        softmax_tries = {m: self.softmax_trie(m) for m in self.tables}
        self.passes = TrainingPasses(
            config, self.network, self.inputs, softmax_tries, self.dense_head, self.group_overhead
        )

    def tasks(self, config) -> tuple[list[Task], list[Task]]:
        """Sequence tasks and item tasks of this model."""
        raise NotImplementedError

    def reads_items(self, config) -> bool:
        """Whether training also reads single items, not only histories."""
        return bool(self.item_tasks)

    def build_network(self, config) -> Transformer | DecoderOnly:
        """Create the network."""
        if config["network"] == "decoder_only":
            return DecoderOnly(len(self.vocabulary), TransformerSettings.from_config(config))
        attention = config["encoder_attention"]
        if attention == "auto":
            attention = "causal" if config["training"] == "per_user" else "bidirectional"
        return Transformer(len(self.vocabulary), TransformerSettings.from_config(config), causal=attention == "causal")

    def _check_tokenizations(self) -> None:
        """Raise a UserError unless the IDs of a modality have equal length in all tokenizations."""
        for m in self.modalities:
            levels = {len(sizes) for name, sizes in self.semantic_ids.sizes.items() if modality_of(name) == m}
            if len(levels) > 1:
                raise UserError(f"The tokenizations of {m} have IDs of {sorted(levels)} codes; expected one number.")

    # -- checks of a loaded checkpoint --------------------------------------------------------------------------------

    def other_parameter(self) -> dict:
        bundle = self.semantic_ids.bundle
        parameter = {"semantic_ids": self.semantic_ids.fingerprint(), "bundle": bundle.name if bundle else None}
        if self.dense_head is not None:  # its rows are RecBole's item numbers, which the fingerprint ignores
            parameter["items"] = order_fingerprint(self.semantic_ids.item_tokens)
        return parameter

    def load_other_parameter(self, para: dict | None) -> None:
        theirs, ours = para or {}, self.other_parameter()
        if theirs.get("semantic_ids") != ours["semantic_ids"]:
            raise UserError(
                f"The checkpoint was trained on the semantic IDs {theirs.get('semantic_ids')}, but this run has "
                f"{ours['semantic_ids']}; use the dataset, features and semantic-ID options it was trained with."
            )
        if "items" in ours and theirs.get("items", ours["items"]) != ours["items"]:  # old checkpoints have no "items"
            raise UserError(
                "dense_head is True and the checkpoint was trained on these items in another order; use the dataset files that "
                "it was trained with."
            )

    # -- training ----------------------------------------------------------------------------------------------------

    def before_epoch(self, epoch: int, resumed: bool = False) -> None:
        tuning = self.tuning_epochs and epoch >= self.config["epochs"] - self.tuning_epochs
        self.n_trained = 1 if tuning else len(self.tokenizations)

    def loss_parts(self, interaction) -> list[Callable[[], torch.Tensor]]:
        """See :class:`WindowedRecommender`. The loss is the cross-entropy averaged over levels and over samples of all tasks.

        Every target is a sample of each sequence task within a modality. Tasks between modalities train on a share
        ``cross_task_ratio`` of the users. Every window is written in one tokenization, and so are all items of the item tasks.
        """
        windows = self.with_item_dropout(self.windows(interaction))
        items = self._alignment_items(windows.target_items())
        if self.interleaved:
            return self._interleaved_parts(windows, items)
        count, passes = len(items) * len(self.item_tasks), []
        for tasks, subset in split_by_tasks(windows, self.sequence_tasks, self.cross_task_ratio):
            count += subset.n_targets() * len(tasks)
            for number, written in split_by_tokenization(subset, self.n_trained):
                for group in self.split_into_passes(in_tokenization(tasks, number)):
                    parts = self._batch_parts(written.length - 1, copies=len(group))
                    passes += [(group, written.select(rows)) for rows in parts]
        samples = mean_over_processes(count)
        longest_first = sorted(passes, key=lambda entry: -int(entry[1].length.max()))
        return self._item_parts(items, samples) + [partial(self.sequence_loss, *entry, samples) for entry in longest_first]

    def _interleaved_parts(self, windows: Windows, items: torch.Tensor) -> list[Callable[[], torch.Tensor]]:
        """The loss of histories of interleaved blocks instead of the sequence tasks, and the loss of the items [N].

        A target's first block counts as a sample, each further block as ``second_block_weight`` samples.
        """
        count = len(self.modalities)
        blocks = 1 + self.passes.second_block_weight * (count - 1)
        samples = mean_over_processes(len(items) * len(self.item_tasks) + windows.n_targets() * blocks)

        def loss(part: Windows, order: torch.Tensor, number: int) -> torch.Tensor:
            return self.passes.interleaved_loss(part, order, self.tokenizations[number]) / samples

        parts = self._item_parts(items, samples)
        for number, written in split_by_tokenization(windows, self.n_trained):
            order = random_orders(written.items, count)
            for rows in reversed(self._batch_parts(written.length)):  # longest first
                part = written.select(rows)
                part_order = order[rows.to(order.device), : part.items.shape[1]]
                parts.append(partial(loss, part, part_order, number))
        return parts

    def _item_parts(self, items: torch.Tensor, samples: float) -> list[Callable[[], torch.Tensor]]:
        """The loss of the items [N] in a tokenization drawn at random."""
        if not len(items):
            return []
        return [partial(self.item_loss, items, samples, int(drawn_tokenizations(1, self.n_trained)))]

    def _alignment_items(self, target: torch.Tensor) -> torch.Tensor:
        """Distinct target items of the batch [N]. Item tasks get at most ``item_task_ratio`` items per target, at random."""
        if not self.aligns_items:
            return target[:0]
        items = target.cpu().unique()
        count = max(2, round(self.item_task_ratio * len(target)))
        if self.item_tasks and count < len(items):
            items = items[torch.randperm(len(items))[:count]]
        return items.to(target.device)

    def split_into_passes(self, tasks: list[Task]) -> list[list[SourceTasks]]:
        """The tasks of each pass through the network, grouped by source."""
        sources = group_by_source(tasks, self.prompt_per_task)
        if not (self.decoder_only and self.budget.joins_sources):
            return [[source] for source in sources]
        return group_by_shape(sources, {name: len(sizes) for name, sizes in self.vocabulary.sizes.items()})

    def sequence_loss(self, group: list[SourceTasks], windows: Windows, samples: float) -> torch.Tensor:
        """Loss of the sequence tasks of one pass, divided by ``samples``. A model with an encoder of its own overrides it."""
        return self.passes.sequence_loss(group, windows) / samples

    def item_loss(self, items: torch.Tensor, samples: float, tokenization: int = 0) -> torch.Tensor:
        """Loss of the item tasks on single items [N], divided by ``samples``."""
        tasks = in_tokenization(self.item_tasks, tokenization)
        losses = (self.passes.item_loss(group, items)[0] / samples for group in self.split_into_passes(tasks))
        return sum(losses, torch.zeros((), device=items.device))

    def softmax_trie(self, modality: str) -> Trie | None:
        """Trie of the trained items if the softmax is over the children of a prefix, None if over all codes of a level."""
        return self.tables[modality].trained if self.output == "trie" else None

    # -- encoding ----------------------------------------------------------------------------------------------------

    def _input_lengths(self, length: torch.Tensor) -> torch.Tensor:
        levels = [len(self.vocabulary.sizes[m]) for m in self.modalities]
        per_item = sum(levels) if self.interleaved else max(levels)
        front = self.inputs.leading_tokens("sequence", self.modalities[0], self.modalities, length.device)
        return length * per_item + len(front)

    def encode_history(self, modality: str, histories: Histories) -> AnyMemory:
        """Encode the histories of B users in one modality; with ``history: both`` in all modalities of its tokenization."""
        items, length = histories.items, histories.length
        if self.interleaved:
            names = next(names for names in self.tokenizations if modality in names)
            modality, count = names[0], len(names)
            order = torch.arange(count, device=items.device).expand(*items.shape, -1)
            tokens, length = interleaved_tokens([self.inputs.tokens(m, items) for m in names], order), length * count
        else:
            tokens = self.inputs.tokens(modality, items)
        front, levels = self.inputs.leading_tokens("sequence", modality, [modality], items.device), tokens.shape[2]
        rows = torch.cat([front.expand(len(tokens), -1), tokens.flatten(1)], dim=1)  # [B, P + T*L]
        return self.network.read(rows, len(front) + length * levels, self.group_overhead, len(front), levels)

    def encode_histories(self, histories: Histories) -> dict[str, AnyMemory]:
        """Encode the histories of B users in the ranked tokenizations.

        Returns:
            modality -> the memory from which its codes are predicted; the tokenizations of a modality one after the other.
        """
        if self.interleaved:  # all modalities of a tokenization share one memory
            ranked = self.tokenizations[: self.ranking.ranked_tokenizations]
            memories = [self.encode_history(names[0], histories) for names in ranked]
            shared = {m: memory for names, memory in zip(ranked, memories) for m in names}
            return {m: shared[m] for m in self._ranked_tables()}
        return {m: self.encode_history(m, histories) for m in self._ranked_tables()}

    # -- ranking -----------------------------------------------------------------------------------------------------

    @property
    def ranker(self) -> Ranker:
        """The ranker of the model with its present weights and options."""
        tables = self._ranked_tables()
        tries = {m: self.softmax_trie(m) for m in tables}
        dense = None if self.dense_head is None else DenseScores(self.dense_log_probs, self.dense_head.share)
        return Ranker(self.network, self.vocabulary, tables, tries, self.encode_histories, self.ranking, self.budget, dense)

    def _ranked_tables(self) -> dict[str, IDTable]:
        """The IDs of the tokenizations that are ranked; the tokenizations of a modality one after the other."""
        ranked = {m for names in self.tokenizations[: self.ranking.ranked_tokenizations] for m in names}
        return {m: table for m, table in self.tables.items() if m in ranked}

    def dense_log_probs(self, memories: Mapping[str, AnyMemory]) -> torch.Tensor:
        """Log-probabilities [B, n_items] of all items by the dense head, from the encoded histories of B users."""
        if self.dense_head is None:
            raise TypeError("the model has no dense head")
        distinct = list({id(memory): memory for memory in memories.values()}.values())  # interleaved modalities share one
        last = torch.zeros(distinct[0].users, 1, 1, dtype=torch.long, device=distinct[0].device)  # replaced by the last code
        states = [self.network.decode(last, memory)[:, 0, 0] for memory in distinct]
        return self.dense_head.log_probs(torch.stack(states).mean(0))

    def saved_options(self) -> dict:
        """Options of the present ranking, which :meth:`with_ranking` may have changed since the training."""
        return super().saved_options() | self.ranking.options()

    def with_ranking(self, **options) -> "GenerativeRecommender":
        """Return a model with other :class:`RankingSettings`, e.g. ``decode="exact"``. It shares the weights of this one.

        Raises:
            UserError: for an unknown option or a wrong value, and see :meth:`RankingSettings.for_modalities`.
        """
        other = copy.copy(self)
        other.ranking = self.ranking.changed(options, len(self.tokenizations)).for_modalities(len(self.modalities))
        return other

    def with_top(self, k: int) -> "GenerativeRecommender":
        return self.with_ranking(top=max(k, self.ranking.top), num_beams=max(k, self.ranking.num_beams))

    @torch.no_grad()
    @in_eval_precision
    def rank(self, interaction, eligible: Eligible | None = None) -> dict[str, Ranking]:
        """Rank items by every modality's own sequence task in every tokenization, and by the fusion; see :meth:`Ranker.rank`.

        Args:
            eligible: the items to rank; None for all except those in the field ``EXCLUDED_ITEMS_FIELD``.

        Returns:
            modality -> Ranking, and ``fused`` -> Ranking; rows as in ``interaction``.
        """
        histories, ranker = self.histories(interaction), self.ranker
        eligible = eligible or ranker.all_items(self.excluded(interaction))
        parts = self._batch_parts(histories.length, ranker.users_per_part(eligible.beams, self.device))
        return ranker.rank(histories, eligible, parts)

    def full_sort_predict(self, interaction) -> torch.Tensor:
        """Scores of all items, [B, n_items]; see :func:`score_matrix`."""
        known, self.known_rankings = self.known_rankings, None
        self.last_rankings = self.rank(interaction) if known is None else self.ranker.fused_again(known)
        return score_matrix(self.last_rankings["fused"], self.n_items)

    def predict(self, interaction) -> torch.Tensor:
        """Exact score of one item per sample [B]; see :meth:`item_scores`.

        Consecutive samples of a user, as in an evaluation with sampled candidates, are scored together.
        """
        first, row, column = self._consecutive_samples(interaction)
        items = torch.zeros(len(first), int(column.max()) + 1, dtype=torch.long, device=row.device)
        items[row, column] = interaction[self.ITEM_ID]
        return self.item_scores(interaction[first], items)[row, column]

    def _consecutive_samples(self, interaction) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Runs of samples with the same user and history.

        Returns:
            The first sample of each run [R]; the run of each sample and its place in it, [B] each.
        """
        device = interaction[self.ITEM_ID].device
        fields = [name for name in (self.USER_ID, self.ITEM_SEQ, self.ITEM_SEQ_LEN) if name in interaction]
        own = torch.cat([interaction[name].to(device).view(len(interaction), -1) for name in fields], dim=1)
        _, row, count = own.unique_consecutive(return_inverse=True, return_counts=True, dim=0)
        first = count.cumsum(0) - count
        return first, row, torch.arange(len(own), device=device) - first[row]

    @torch.no_grad()
    @in_eval_precision
    def item_scores(self, interaction, items: torch.Tensor) -> torch.Tensor:
        """Exact scores of given items [B, C]; see :meth:`Ranker.item_scores`."""
        histories, ranker = self.histories(interaction), self.ranker
        parts = self._batch_parts(histories.length, ranker.users_per_part(items.shape[1], self.device))
        return ranker.item_scores(histories, items, parts)

    def restriction(self, allowed: np.ndarray | None) -> dict[str, Trie]:
        return {m: table.trie if allowed is None else table.trie_of(allowed) for m, table in self.tables.items()}

    def best_items(self, interaction, k: int, restriction: dict[str, Trie], excluded: torch.Tensor | None = None) -> Ranking:
        beams = max(self.ranking.num_beams, self.ranking.top, k)  # as in the evaluation, whose lists fusion: official fuses
        return self.rank(interaction, Eligible(restriction, beams, excluded, k))["fused"]

    # -- after training ----------------------------------------------------------------------------------------------

    def recommend(self, sequences, k: int = 10, exclude_seen: bool | None = None, candidates=None):
        """Recommend ``k`` items for histories of item tokens; see :meth:`recbole_macrec.Recommender.recommend`."""
        return self.recommender_class(self).recommend(sequences, k, exclude_seen, candidates)

    def save_pretrained(self, folder, overwrite: bool = False) -> None:
        """Save the model as a self-contained folder; see :meth:`recbole_macrec.Recommender.save_pretrained`."""
        self.recommender_class(self).save_pretrained(folder, overwrite)


def generative_names() -> list[str]:
    """Names of the registered models that generate semantic IDs."""
    return [name for name, model in models().items() if issubclass(model, GenerativeRecommender)]
