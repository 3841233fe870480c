"""Training of the graph network by pairwise ranking (BPR).

Shapes: U users, N items, F width of all features together, D width of a representation, E interactions, B batch.
"""
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import Tensor
from tqdm import tqdm

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.codes import GraphRepresentations
from recbole_macrec.semantic_ids.quantizers.graph.encoder import GraphEncoder
from recbole_macrec.semantic_ids.quantizers.state_file import StateFile
from recbole_macrec.semantic_ids.rows import Features, Scale
from recbole_macrec.semantic_ids.settings import SemanticIDSettings
from recbole_macrec.utils.lookup import rows_of

logger = logging.getLogger(__name__)


class GraphTraining:
    """Trains a graph network with the loss

        L_BPR = mean over (u, i), j of -log sigmoid(u i - u j),

    where (u, i) is an interaction and j a random item without interaction with u.

    Args:
        features: modality -> [N, F_m]; others than those of ``settings.modalities`` are not read.
        interactions: training interactions [U, N].

    Raises:
        UserError: there are no interactions.
    """

    def __init__(self, features: Mapping[str, Features], interactions: csr_matrix, settings: SemanticIDSettings, device: str):
        self.settings, self.device = settings, torch.device(device)
        self.epochs = 0
        self.generator = torch.Generator().manual_seed(settings.semantic_id_seed)
        of_items = [features[m] for m in settings.modalities]
        scaled = [Scale.fit(x, settings.standardize).apply(x[:]) for x in of_items]
        self.features = torch.cat(scaled, dim=1).to(device)  # [N, F]
        edges = interactions.tocoo()
        self.users, self.items = (torch.from_numpy(ends.astype(np.int64)) for ends in (edges.row, edges.col))  # [E]
        if not len(self.users):
            raise UserError("There are no training interactions to learn a graph from; set representation to concatenated "
                            "(or modality) and encoder_input to learnt, or give users longer histories.")
        self.n_items = interactions.shape[1]
        self.positive_pairs = (self.users * self.n_items + self.items).unique()  # sorted pair numbers
        self.model = GraphEncoder(interactions, self.features.shape[1], settings.graph_sizes, settings.graph_dropout,
                                  self.generator).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.graph_learning_rate,
                                          weight_decay=settings.graph_weight_decay)

    def run(self, show_progress: bool, state_file: Path | None = None) -> tuple[GraphRepresentations, list[dict]]:
        """Train for ``graph_epochs``; returns the representations and a record of each epoch.

        The state of the training is kept in ``state_file``. If the file exists, the training resumes from it.
        """
        history: list[dict] = []
        file, epochs = StateFile(state_file), self.settings.graph_epochs
        if (state := file.read()) is not None:
            self.load_state(state)
            history = state["history"]
            logger.info("Graph: training resumes after %d of %d epochs from %s", len(history), epochs, state_file)
        with tqdm(total=epochs, initial=len(history), disable=not show_progress, unit="epoch", desc="Graph") as bar:
            for epoch in range(len(history), epochs):
                history.append({"phase": "graph", "epoch": epoch, "bpr": round(self.epoch(), 6)})
                bar.set_postfix(bpr=f"{history[-1]['bpr']:.3f}")
                bar.update()
                file.write_if_due(lambda: {**self.state(), "history": history})
        return self.representations(), history

    def state(self) -> dict:
        """Return everything that the epochs after this one depend on."""
        weights = {name: weight.detach() for name, weight in self.model.named_parameters()}
        return {"weights": weights, "optimizer": self.optimizer.state_dict(), "generator": self.generator.get_state(),
                "epochs": self.epochs}

    def load_state(self, state: dict) -> None:
        """Load a ``state`` returned by :meth:`state`."""
        self.model.load_state_dict(state["weights"], strict=False)  # the means over neighbours come from the interactions
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.epochs = state["epochs"]

    def epoch(self) -> float:
        """Train on all interactions once; returns the mean loss."""
        self.model.train()
        losses = []
        for rows in torch.randperm(len(self.users), generator=self.generator).split(self.settings.graph_batch_size):
            loss = self.loss(rows)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        if not np.isfinite(losses[-1]):
            raise self._divergence(f"The loss of the graph became {losses[-1]}")
        self.epochs += 1
        return sum(losses) / len(losses)

    def _divergence(self, what: str) -> UserError:
        return UserError(
            f"{what} in epoch {self.epochs} with graph_learning_rate = {self.settings.graph_learning_rate}; nothing was "
            "written. Lower it (1e-3 is usual), or set standardize to True."
        )

    def loss(self, rows: Tensor) -> Tensor:
        """L_BPR of the interactions ``rows`` [B]. Sampled items that the user interacted with are ignored."""
        users, items = self.users[rows], self.items[rows]
        negatives = torch.randint(self.n_items, (len(rows), self.settings.graph_negatives), generator=self.generator)
        pairs = users.unsqueeze(1) * self.n_items + negatives
        place = torch.searchsorted(self.positive_pairs, pairs).clamp(max=len(self.positive_pairs) - 1)
        valid = (self.positive_pairs[place] != pairs).float().to(self.device)  # [B, negatives]
        user_vectors, item_vectors = self.model(self.features)
        u = rows_of(user_vectors, users.to(self.device))
        margin = (u * rows_of(item_vectors, items.to(self.device))).sum(1, keepdim=True)
        margin = margin - (u.unsqueeze(1) * rows_of(item_vectors, negatives.to(self.device))).sum(2)  # [B, negatives]
        return (F.softplus(-margin) * valid).sum() / valid.sum().clamp(min=1)

    @torch.no_grad()
    def representations(self) -> GraphRepresentations:
        self.model.eval()
        users, items = self.model(self.features)
        if not (torch.isfinite(users).all() and torch.isfinite(items).all()):  # the step after a finite loss
            raise self._divergence("The representations of the graph became infinite")
        return GraphRepresentations(users.cpu().numpy(), items.cpu().numpy())
