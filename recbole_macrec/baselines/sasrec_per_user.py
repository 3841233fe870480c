"""SASRecPerUser: a causal transformer over item embeddings, trained once per user with a softmax over the whole catalogue.

Shapes: B users, n targets, S items of the longest history, M rows (the items of all users), N items including the padding,
C codes of an item in all modalities, D model width.
"""
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F

from recbole_macrec.baselines.dense import DenseRecommender
from recbole_macrec.config.schema.models import SASRecPerUserOptions
from recbole_macrec.errors import UserError
from recbole_macrec.generation.network.decoder_only import CausalLayers, causal_mask
from recbole_macrec.generation.network.dropout import dropout
from recbole_macrec.generation.network.layers import RMSNorm, TransformerSettings
from recbole_macrec.generation.network.packing import pack, row_starts, with_rounded_rows
from recbole_macrec.generation.network.rotary import Rotation
from recbole_macrec.generation.network.windows import Windows
from recbole_macrec.model.item_vectors import budget_for_softmax, code_embedding, item_embedding, item_vectors
from recbole_macrec.model.windowed import in_eval_precision
from recbole_macrec.utils.cpu_threads import map_in_threads
from recbole_macrec.utils.distributed_tensors import mean_over_processes
from recbole_macrec.utils.modules import add_derived_buffer
from recbole_macrec.utils.rounded_rows import linear


class SASRecPerUser(DenseRecommender):
    """SASRec (Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, arXiv 1808.09781) trained as a language
    model.

    As in SASRec, the score of an item is the product of the hidden state and the item's embedding. The differences: RMSNorm
    before each layer, rotary positions, no biases, a cross-entropy over the whole catalogue, and one forward pass over a
    user's items trains all targets, instead of one pass per target.

    With ``item_features: codes`` the vector of an item, in input and output, is its embedding plus the embeddings of its
    semantic codes, summed over the levels and modalities.
    """

    options = SASRecPerUserOptions

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.settings = replace(TransformerSettings.from_config(config), encoder_layers=0)
        self.items = item_embedding(self.n_items, self.settings.d_model)
        self.layers = CausalLayers(self.settings)
        self.norm = RMSNorm(self.settings.d_model)
        self.group_overhead = self.budget.group_overhead(self.layers)
        self.budget = budget_for_softmax(self.budget, self.n_items)
        self.semantic_ids = dataset.semantic_ids if self.reads_semantic_ids(config) else None
        if self.semantic_ids is not None:
            item_codes, self.codes = code_embedding(self.semantic_ids, self.settings.d_model)
            add_derived_buffer(self, "item_codes", item_codes)  # [N, C]

    @classmethod
    def reads_semantic_ids(cls, config) -> bool:
        return config["item_features"] == "codes"

    # -- checks of a loaded checkpoint ------------------------------------------------------------------------------

    def other_parameter(self) -> dict:
        ids = self.semantic_ids
        return super().other_parameter() | {
            "semantic_ids": ids.fingerprint() if ids else None,
            "bundle": ids.bundle.name if ids and ids.bundle else None,
        }

    def load_other_parameter(self, para: dict | None) -> None:
        super().load_other_parameter(para)
        theirs, ours = para or {}, self.other_parameter()
        if theirs.get("semantic_ids") != ours["semantic_ids"]:
            raise UserError(f"The checkpoint was trained on the semantic IDs {theirs.get('semantic_ids')}, but this run has "
                            f"{ours['semantic_ids']}; use the features, item_features and semantic-ID options of the training.")

    # -- the network -------------------------------------------------------------------------------------------------

    def item_vectors(self) -> torch.Tensor:
        """Item vectors of input and output, [N, D]."""
        if self.semantic_ids is None:
            return self.items.weight
        return item_vectors(self.items.weight, self.item_codes, self.codes.weight)

    def states(self, items: torch.Tensor, length: torch.Tensor, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states after each item of B histories.

        Args:
            items: int64 [B, S].
            length: int64 [B], number of items in each history, at least 1.
            vectors: see :meth:`item_vectors`.

        Returns:
            [M, D], packed by user; and int64 [B], each user's first row, on the CPU. The state at an item depends on that item
            and the items before it.
        """
        packed = with_rounded_rows(pack(items, length, self.group_overhead))
        position = torch.arange(items.shape[1], device=items.device)
        x = dropout(F.embedding(packed.tokens, vectors), self.settings.dropout, self.training)
        x = self.layers(x, packed, causal_mask(position), Rotation.at(position, self.settings.d_kv))
        return self.norm(x), row_starts(packed.groups)[: len(items)]

    # -- training ----------------------------------------------------------------------------------------------------

    def loss_parts(self, interaction) -> list[Callable[[], torch.Tensor]]:
        """See :class:`WindowedRecommender`. The loss is the cross-entropy over all items, averaged over all targets."""
        windows = self.with_item_dropout(self.windows(interaction))
        targets = mean_over_processes(windows.n_targets())
        return [partial(self._loss, windows.select(rows), targets) for rows in reversed(self._batch_parts(windows.length - 1))]

    def _loss(self, windows: Windows, targets: float) -> torch.Tensor:
        """Cross-entropy of the targets of B windows, summed and divided by ``targets``."""
        vectors = self.item_vectors()
        hidden, starts = self.states(windows.items, windows.length - 1, vectors)  # nothing follows a window's last item
        user, place = windows.targets()
        previous = (starts[user] + place - 1).to(hidden.device)  # [n], the row of the item before each target
        scores = linear(hidden.index_select(0, previous), vectors[1:]).float()  # [n, N - 1], without the padding
        return F.cross_entropy(scores, windows.target_items() - 1, reduction="sum") / targets

    # -- ranking -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    @in_eval_precision
    def full_sort_predict(self, interaction) -> torch.Tensor:
        """Scores of all items [B, N]; -inf for the padding."""
        vectors = self.item_vectors()
        scores = F.linear(self._last_states(interaction, vectors), vectors).float()
        scores[:, 0] = -torch.inf
        return scores

    @torch.no_grad()
    @in_eval_precision
    def predict(self, interaction) -> torch.Tensor:
        """Score of one item per sample, as in :meth:`full_sort_predict`; [B]."""
        vectors, item = self.item_vectors(), interaction[self.ITEM_ID]
        scores = (self._last_states(interaction, vectors) * vectors[item]).sum(-1).float()
        return scores.masked_fill(item == 0, -torch.inf)

    # -- hidden states ------------------------------------------------------------------------------------------------

    def _last_states(self, interaction, vectors: torch.Tensor) -> torch.Tensor:
        """Hidden states at the end of B histories, [B, D]."""
        histories = self.histories(interaction)
        parts = self._batch_parts(histories.length)[::-1]  # longest first

        def part_states(rows: torch.Tensor) -> torch.Tensor:
            items, length, _ = histories.select(rows)
            hidden, starts = self.states(items, length, vectors)
            return hidden.index_select(0, (starts + length - 1).to(hidden.device))

        states = torch.cat(list(map_in_threads(part_states, parts, self.device)))
        return states[torch.argsort(torch.cat(parts)).to(states.device)]
