"""MACRec: cross-modal semantic IDs with implicit and explicit alignment."""
from itertools import combinations

import torch

from recbole_macrec.config.schema.models import MACRecOptions
from recbole_macrec.model.mql4grec import MQL4GRec
from recbole_macrec.model.tasks import SourceTasks, in_tokenization
from recbole_macrec.semantic_ids.quantizers.losses import info_nce


class MACRec(MQL4GRec):
    """MACRec (Zhang et al., AAAI 2026, arXiv 2511.15122).

    Its semantic IDs come from the cross-modal RQ-VAE. It adds implicit alignment to MQL4GRec's explicit alignment tasks: the
    encoder's representations of one item in two modalities are pulled together. With h_m the mean of the encoder's output over
    the item's ID in modality m,

        L_implicit = InfoNCE(h_a, h_b) + InfoNCE(h_b, h_a), cosine similarity over temperature 0.1,

    summed over pairs of modalities, weighted by ``lambda_implicit`` and added to the loss.

    The released code draws its item tasks from all items, here they are drawn from the targets of the batch;
    docs/differences_from_the_papers.md lists all differences.
    """

    options = MACRecOptions

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.lambda_implicit = config["lambda_implicit"]
        self.implicit_temperature = config["implicit_temperature"]

    def reads_items(self, config) -> bool:
        return super().reads_items(config) or config["lambda_implicit"] > 0

    def item_loss(self, items: torch.Tensor, samples: float, tokenization: int = 0) -> torch.Tensor:
        loss, names = torch.zeros((), device=items.device), self.tokenizations[tokenization]
        means: dict[str, torch.Tensor] = {}
        tasks = in_tokenization(self.item_tasks, tokenization)
        for group in self.split_into_passes(tasks) or [[SourceTasks(m, [])] for m in names]:
            of_tasks, of_sources = self.passes.item_loss(group, items)  # one pass for both alignments
            for (source, _), mean in zip(group, of_sources):
                means.setdefault(source, mean)
            loss = loss + of_tasks / samples
        if self.lambda_implicit:
            for a, b in combinations(names, 2):
                loss = loss + self.lambda_implicit * symmetric_info_nce(means[a], means[b], self.implicit_temperature)
        return loss


def symmetric_info_nce(a: torch.Tensor, b: torch.Tensor, temperature: float) -> torch.Tensor:
    """InfoNCE in both directions between rows [N, D]; row i of ``b`` is the positive of row i of ``a``."""
    positive = torch.arange(len(a), device=a.device)
    return info_nce(a, b, positive, temperature) + info_nce(b, a, positive, temperature)
