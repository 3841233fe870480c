"""MQL4GRec: one quantitative language per modality, aligned by translation tasks."""
from itertools import permutations

from recbole_macrec.config.schema.models import MQL4GRecOptions
from recbole_macrec.errors import UserError
from recbole_macrec.model.base import GenerativeRecommender
from recbole_macrec.model.tasks import Task


class MQL4GRec(GenerativeRecommender):
    """MQL4GRec (Zhai et al., ICLR 2025; released code: github.com/zhaijianyang/MQL4GRec).

    One RQ-VAE per modality. It trains on each modality's own sequence task and on explicit alignment tasks: predict the next
    item's ID in another modality, and translate the ID of a single item into another modality. The modalities' rankings are
    fused.

    The released code also pre-trains on other domains and assigns codes of the last level by Sinkhorn's algorithm while it
    trains the quantizer; docs/differences_from_the_papers.md lists all differences.
    """

    options = MQL4GRecOptions

    @classmethod
    def check_modalities(cls, modalities: list[str]) -> None:
        if len(modalities) < 2:
            raise UserError(
                f"{cls.__name__} fuses two or more modalities, but modalities is {modalities}; add another one, or use "
                "--model=TIGER."
            )

    def tasks(self, config) -> tuple[list[Task], list[Task]]:
        own = [Task(m, m) for m in self.modalities]
        across = [Task(a, b) for a, b in permutations(self.modalities, 2)] if config["explicit_alignment"] else []
        return own + across, across
