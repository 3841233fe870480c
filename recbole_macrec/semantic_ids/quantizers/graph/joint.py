"""Graph RQ-VAE: the graph network and the quantizer of its items, trained in turn.

Axes: N items, B batch, D width of a representation.
"""
from scipy.sparse import csr_matrix
from torch import Tensor

from recbole_macrec.semantic_ids.codes import Learnt
from recbole_macrec.semantic_ids.quantizers.graph.training import GraphTraining
from recbole_macrec.semantic_ids.quantizers.learn import Training
from recbole_macrec.semantic_ids.rows import Features, Scale, scaled
from recbole_macrec.semantic_ids.settings import SemanticIDSettings

ID = "graph"


class JointTraining(Training):
    """Every epoch is one of L_BPR over the interactions, then one of the RQ-VAE's loss over the items (the paper's way).

    The loss of the RQ-VAE reaches the graph network through the representations it reads. They are standardised by
    their mean and deviation at the beginning of the epoch, so that shrinking them gains nothing. The representations of
    users and items that are handed back are those that the final codes were read from.
    """

    def __init__(self, features: dict[str, Features], interactions: csr_matrix, settings: SemanticIDSettings, device: str):
        self.graph = GraphTraining(features, interactions, settings, device)
        self.device = device
        super().__init__({ID: self.graph.representations().items}, settings, device)
        self.optimizer.add_param_group({"params": list(self.graph.model.parameters()), "lr": settings.graph_learning_rate,
                                        "weight_decay": settings.graph_weight_decay})

    def run(self, show_progress: bool) -> Learnt:
        learnt = super().run(show_progress)
        return learnt._replace(graph=self.graph.representations())

    def epoch(self, losses) -> dict[str, float]:
        bpr = self.graph.epoch()
        self._look_again()
        result = super().epoch(losses)
        self._look_again()  # codes and health are those of the representations as they are now
        return {**result, "bpr": round(bpr, 6)}

    def _look_again(self) -> None:
        items = self.graph.representations().items
        self.scales = [Scale.of(items, self.settings.standardize)]
        self.x = [scaled(items, self.scales[0], self.device)]

    def batch(self, rows: Tensor) -> list[Tensor]:
        """Representations [B, D] of some items that carry gradients to the graph network."""
        _, items = self.graph.model(self.graph.features)
        scale = self.scales[0]
        return [(items[rows.to(items.device)] - scale.mean.to(items.device)) / scale.scale.to(items.device)]
