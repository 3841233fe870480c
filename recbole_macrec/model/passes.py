"""Training passes of a generative model: items go through the network, and the states that predict codes give the loss.

Shapes: B users, N items, M modalities, n targets, L levels, K codes of a level, C children of a prefix, D model width.
"""
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.generation.network.decoder_only import DecoderOnly
from recbole_macrec.generation.network.transformer import Transformer
from recbole_macrec.generation.network.windows import Target, Windows
from recbole_macrec.model.dense_head import DenseHead
from recbole_macrec.model.interleaved import block_windows, interleaved_tokens
from recbole_macrec.model.network_inputs import NetworkInputs
from recbole_macrec.model.tasks import SourceTasks


class TrainingPasses:
    """Losses of single passes, each summed over its targets.

    The loss of a target is the cross-entropy of its codes, averaged over levels; in sequence tasks plus the loss of the dense
    head, if there is one.

    Args:
        softmax_tries: modality -> trie of the trained items if the softmax of a level is over the codes that continue a prefix,
            None if it is over all codes of the level.
        group_overhead: cost of one more group of users in the network; see :meth:`DeviceBudget.group_overhead`.
    """

    def __init__(
        self,
        config,
        network: Transformer | DecoderOnly,
        inputs: NetworkInputs,
        softmax_tries: Mapping[str, Trie | None],
        dense_head: DenseHead | None,
        group_overhead: int,
    ):
        self.network, self.inputs, self.softmax_tries = network, inputs, softmax_tries
        self.dense_head, self.group_overhead = dense_head, group_overhead
        self.dense_head_weight, self.second_block_weight = config["dense_head_weight"], config["second_block_weight"]
        # Both are None in old checkpoints.
        self.temperature, self.smoothing = config["loss_temperature"] or 1.0, config["label_smoothing"] or 0.0

    # -- losses ------------------------------------------------------------------------------------------------------

    def sequence_loss(self, sources: Sequence[SourceTasks], windows: Windows) -> torch.Tensor:
        """Loss of sequence tasks: the targets of ``windows`` are predicted from the items before them."""
        items, states = windows.target_items(), self.window_states(sources, windows)
        dense = [self._dense_loss(of_source[0][:, 0], items) for of_source in states]
        return sum(dense, self._codes_loss(sources, states, items))

    def item_loss(self, sources: Sequence[SourceTasks], items: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Loss of item tasks on single items [N].

        Returns:
            The loss; and for each source the network's mean state of its codes [N, D].
        """
        front, source, targets = self.inputs.pass_inputs("item", sources, items)
        states, mean = self.network.item_states(front, source, targets)
        count = len(sources)
        of_sources = [[state[number::count] for state in states] for number in range(count)]
        return self._codes_loss(sources, of_sources, items), [mean[number::count] for number in range(count)]

    def interleaved_loss(self, windows: Windows, order: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        """Loss of histories in which every item is written as one block per modality (interleaved.py).

        A target's further blocks have the weight ``second_block_weight``.

        Args:
            order: int64 [B, N, M], the modality of each block.
            names: the IDs of a tokenization, by modality.
        """
        count, start = len(names), self.inputs.vocabulary.start[names[0]]
        tokens = interleaved_tokens([self.inputs.tokens(m, windows.items) for m in names], order)
        blocks = block_windows(windows, count)
        front = self.inputs.leading_tokens("sequence", names[0], names[:1], windows.items.device)
        targets = [Target(tokens, start, own=True)]
        (hidden,) = self.network.window_states(front, tokens, blocks, targets, self.group_overhead)  # [n, L, D]
        user, place = (index.to(windows.items.device) for index in blocks.targets())
        modality, first, items = order.flatten(1)[user, place], place % count == 0, blocks.target_items()
        loss = self._dense_loss(hidden[first.nonzero()[:, 0], 0], items[first])
        for number, m in enumerate(names):
            for chosen, weight in ((first, 1.0), (~first, self.second_block_weight)):
                rows = (chosen & (modality == number)).nonzero()[:, 0]
                if len(rows) and weight:
                    loss = loss + weight * self.cross_entropy(m, hidden[rows], items[rows])
        return loss

    def cross_entropy(self, modality: str, hidden: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the codes of items [n], averaged over levels and summed over items.

        The logits are divided by ``loss_temperature`` (Wang et al., LETTER, CIKM 2024: below 1 it weights hard negatives more).
        The target distribution is 1 - s for the item's code plus s spread evenly over all codes of the softmax, s being
        ``label_smoothing``.

        Args:
            hidden: states that predict the codes, [n, L, D].
        """
        vocabulary, table, trie = self.inputs.vocabulary, self.inputs.tables[modality], self.softmax_tries[modality]
        codes, nodes, smoothing = table.codes[items], table.nodes[items], self.smoothing  # [n, L]
        total = torch.zeros((), device=hidden.device)
        for level, (offset, size) in enumerate(zip(vocabulary.offsets[modality], vocabulary.sizes[modality])):
            logits = self.network.logits(hidden[:, level], offset, size).float()  # [n, K]
            if self.temperature != 1:  # dividing by 1 copies them, forward and backward
                logits = logits / self.temperature
            if trie is None:
                total = total + F.cross_entropy(logits, codes[:, level], reduction="sum", label_smoothing=smoothing)
                continue
            expected = logits.gather(1, codes[:, level : level + 1])[:, 0]
            children = trie.child_logits(level, nodes[:, level - 1] if level else None, logits)  # [n, C]
            if smoothing:
                exists = children > -torch.inf
                expected = (1 - smoothing) * expected + smoothing * children.where(exists, 0).sum(1) / exists.sum(1)
            total = total + (children.logsumexp(1) - expected).sum()
        return total / table.levels

    def _codes_loss(
        self, sources: Sequence[SourceTasks], states: Sequence[Sequence[torch.Tensor]], items: torch.Tensor
    ) -> torch.Tensor:
        """Cross-entropy of the codes of items [n], summed over sources and their targets; states [n, L, D] of each target."""
        predictions: dict[str, list[torch.Tensor]] = {}
        for (_, targets), of_source in zip(sources, states):
            for m, hidden in zip(targets, of_source):
                predictions.setdefault(m, []).append(hidden)
        losses = (
            self.cross_entropy(m, torch.cat(hidden) if len(hidden) > 1 else hidden[0], items.repeat(len(hidden)))
            for m, hidden in predictions.items()
        )
        return sum(losses, torch.zeros((), device=items.device))

    def _dense_loss(self, states: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Weighted loss of the dense head, summed over targets [n]; 0 without a head.

        Args:
            states: [n, D], states of the decoder-only network after the histories.
        """
        if self.dense_head is None:
            return torch.zeros((), device=items.device)
        return self.dense_head_weight * self.dense_head.loss(states, items)

    # -- states ------------------------------------------------------------------------------------------------------

    def window_states(self, sources: Sequence[SourceTasks], windows: Windows) -> list[list[torch.Tensor]]:
        """Hidden states [n, L, D] for the targets of each source; see ``window_states`` of the networks."""
        front, source, targets = self.inputs.pass_inputs("sequence", sources, windows.items)
        count = len(sources)
        if count > 1:
            windows = windows.select(torch.arange(len(windows.length)).repeat_interleave(count))  # as joined_rows
        states = self.network.window_states(front, source, windows, targets, self.group_overhead)
        if count == 1:
            return [states]
        user, _ = windows.targets()
        rows = ((user % count == number).nonzero()[:, 0].to(source.device) for number in range(count))
        return [[state.index_select(0, of_source) for state in states] for of_source in rows]
