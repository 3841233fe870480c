"""Graph RQ-VAE: joint training of the graph network and of the quantizer of its item representations.

Shapes: N items, B batch, D width of a representation.
"""
from collections.abc import Mapping
from pathlib import Path

import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from recbole_macrec.semantic_ids.codes import GraphRepresentations, LearntCodes
from recbole_macrec.semantic_ids.quantizers.graph.training import GraphTraining
from recbole_macrec.semantic_ids.quantizers.rqvae_training import RQVAETraining
from recbole_macrec.semantic_ids.rows import Features, Scale, scale_features
from recbole_macrec.semantic_ids.settings import SemanticIDSettings

ID = "graph"


class JointTraining(RQVAETraining):
    """Alternates epochs of L_BPR over the interactions and of the RQ-VAE's loss over the items, as in the paper of MMGRec.

    The loss of the RQ-VAE trains the graph network through the item representations. These are standardised by their mean and
    deviation at the start of the epoch, so that the loss cannot be reduced by shrinking them. The returned representations are
    those of the epoch whose codes are returned.
    """

    def __init__(self, features: Mapping[str, Features], interactions: csr_matrix, settings: SemanticIDSettings, device: str):
        self.graph = GraphTraining(features, interactions, settings, device)
        self.device = device
        self.best_graph: GraphRepresentations | None = None
        super().__init__({ID: self.graph.representations().items}, settings, device)
        self.optimizer.add_param_group({"params": list(self.graph.model.parameters()), "lr": settings.graph_learning_rate,
                                        "weight_decay": settings.graph_weight_decay})

    def run(self, show_progress: bool, state_file: Path | None = None) -> LearntCodes:
        return super().run(show_progress, state_file)._replace(graph=self.best_graph)

    def epoch(self, losses) -> dict[str, float]:
        bpr = self.graph.epoch()
        self._update_representations()
        result = super().epoch(losses)
        self._update_representations()  # codes and health are computed from the current representations
        return {**result, "bpr": round(bpr, 6)}

    def _update_representations(self) -> None:
        items = self.graph.representations().items
        self.scales = [Scale.fit(items, self.settings.standardize)]
        self.x = [scale_features(items, self.scales[0], self.device)]

    def state(self) -> dict:
        best = None if self.best_graph is None else [torch.from_numpy(part) for part in self.best_graph]
        return {**super().state(), "graph": self.graph.state(), "best_graph": best}

    def load_state(self, state: dict) -> None:
        super().load_state(state)
        self.graph.load_state(state["graph"])
        if state["best_graph"] is not None:
            self.best_graph = GraphRepresentations(*(part.numpy() for part in state["best_graph"]))
        self._update_representations()

    def _end_epoch(self, last: bool) -> dict[str, dict]:
        best_before = self.best.get(ID)
        health = super()._end_epoch(last)
        if self.best.get(ID) is not best_before:
            self.best_graph = self.graph.representations()
        return health

    def batch(self, rows: Tensor) -> list[Tensor]:
        """Representations [B, D] of items, with gradients to the graph network."""
        _, items = self.graph.model(self.graph.features)
        scale = self.scales[0]
        return [(items[rows.to(items.device)] - scale.mean.to(items.device)) / scale.scale.to(items.device)]
