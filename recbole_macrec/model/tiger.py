"""TIGER: generative retrieval over the semantic IDs of one modality."""
from recbole_macrec.config.schema.models import TIGEROptions
from recbole_macrec.errors import UserError
from recbole_macrec.model.base import GenerativeRecommender
from recbole_macrec.model.tasks import Task


class TIGER(GenerativeRecommender):
    """TIGER (Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023, arXiv 2305.05065).

    One RQ-VAE over one modality, an extra token for items with the same ID, and one task: history -> next item. The
    paper's input starts with a hashed user ID, which is left out here; docs/differences_from_the_papers.md lists all
    differences.
    """

    options = TIGEROptions

    def tasks(self, config) -> tuple[list[Task], list[Task]]:
        if len(self.modalities) != 1:
            raise UserError(
                f"TIGER reads one modality, but modalities is {self.modalities}; set one, e.g. "
                f"--modalities=\"['{self.modalities[0]}']\"."
            )
        modality = self.modalities[0]
        return [Task(modality, modality)], []
