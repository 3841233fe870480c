"""Base class of the sequential models that score every item of the catalogue.

Shapes: B users, N items including the padding, C given items of a user, S excluded items of a user.
"""
import numpy as np
import torch

from recbole_macrec.errors import UserError
from recbole_macrec.generation.decoding.search import Ranking
from recbole_macrec.model.windowed import WindowedRecommender
from recbole_macrec.semantic_ids.order import order_fingerprint


class DenseRecommender(WindowedRecommender):
    """A sequential model whose ``full_sort_predict`` gives the logits [B, N] of all items, -inf for the padding."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.item_tokens = dataset.field2id_token[self.ITEM_ID].tolist()

    @classmethod
    def reads_semantic_ids(cls, config) -> bool:
        return False

    def predict(self, interaction) -> torch.Tensor:
        """Score of one item per sample, as in :meth:`full_sort_predict`; [B]."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID].unsqueeze(1)).squeeze(1)

    # -- checks of a loaded checkpoint ------------------------------------------------------------------------------

    def other_parameter(self) -> dict:
        return {"items": order_fingerprint(self.item_tokens)}

    def load_other_parameter(self, para: dict | None) -> None:
        if (para or {}).get("items") != self.other_parameter()["items"]:
            raise UserError("The checkpoint was trained on other items, or on these in another order; use the dataset files "
                            "it was trained with.")

    # -- for Recommender ----------------------------------------------------------------------------------------------

    def restriction(self, allowed: np.ndarray | None) -> torch.Tensor | None:
        """Whether each item may be recommended; bool [N]."""
        if allowed is None:
            return None
        mask = torch.zeros(self.n_items, dtype=torch.bool, device=self.device)
        mask[torch.from_numpy(allowed).to(self.device)] = True
        return mask

    def best_items(
        self, interaction, k: int, restriction: torch.Tensor | None, excluded: torch.Tensor | None = None
    ) -> Ranking:
        logits = self.full_sort_predict(interaction)
        log_probabilities = logits.log_softmax(1)  # rounded: logits that differ may become equal
        if restriction is not None:
            logits = logits.masked_fill(~restriction, -torch.inf)
        if excluded is not None:
            logits = logits.scatter(1, excluded, -torch.inf)
        best, items = logits.topk(min(k, self.n_items - 1))
        masked = best.isneginf()
        return Ranking(items.masked_fill(masked, 0), log_probabilities.gather(1, items).masked_fill(masked, -torch.inf))

    @torch.no_grad()
    def item_scores(self, interaction, items: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of given items [B, C], of a softmax over all items; -inf for the padding 0."""
        return self.full_sort_predict(interaction).log_softmax(1).gather(1, items)
