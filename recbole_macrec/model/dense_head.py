"""A retrieval head for the decoder-only network: the state after a history scores the whole catalogue (``dense_head: True``).

The state h_m at the last code of a history in modality m already predicts the first code of the next item. The head also
multiplies it with a vector of every item,

    p(item i | history) = softmax_i(h_m . v_i),    v_i = e_i + sum of the embeddings of all codes of item i,

where the codes are those of all modalities, and e_i is an embedding of the item itself, so items with equal semantic IDs have
different vectors. All modalities share the vectors. In training every modality's state predicts the target; to rank, the
states of the modalities are averaged. With ``history: both`` there is one state, after the last block of the history. Several
tokenizations are treated like modalities. Items added after training have no e_i and are scored by their codes.

``decode: fused`` ranks the best items of the generative model and of this head by

    (1 - w) log p_generative(item) / L + w log p_dense(item)

with L the length of an ID; with several modalities the generative score is fused over them by the option ``fusion``, where
``official`` is the mean. The weight w is chosen on the validation data before each validation, and stored in the checkpoint.

Shapes: n targets, B users, N items including the padding, C codes of an item, D model width.
"""

import torch
import torch.nn.functional as F
from torch import nn

from recbole_macrec.model.item_vectors import code_embedding, item_embedding, item_vectors
from recbole_macrec.semantic_ids import SemanticIDs
from recbole_macrec.utils.modules import add_derived_buffer
from recbole_macrec.utils.rounded_rows import linear


class DenseHead(nn.Module):
    """Scores all items from the state after a history.

    Args:
        ids: the items and their semantic IDs.
        width: D.

    Attributes:
        share: w of ``decode: fused``, the weight of this head; 0.5 until it is chosen on validation data.
    """

    item_codes: torch.Tensor  # int64 [N, C]
    share: torch.Tensor

    def __init__(self, ids: SemanticIDs, width: int):
        super().__init__()
        self.items = item_embedding(1 + len(ids.item_tokens) - ids.n_new_items, width)
        item_codes, self.codes = code_embedding(ids, width)
        add_derived_buffer(self, "item_codes", item_codes)
        self.register_buffer("share", torch.tensor(0.5))

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        """Logits [n, N - 1] of all items, without the padding, for states [n, D]."""
        return linear(states, item_vectors(self.items.weight, self.item_codes, self.codes.weight)[1:]).float()

    def loss(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy over all items, summed over the targets.

        Args:
            states: [n, D], states after the histories.
            targets: int64 [n], item numbers.
        """
        return F.cross_entropy(self.scores(states), targets - 1, reduction="sum")

    def log_probs(self, states: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of all items, [B, N], for states [B, D]; -inf for the padding."""
        return F.pad(self.scores(states).log_softmax(1), (1, 0), value=-torch.inf)
