"""GraphSAGE: node vectors from a node itself and the mean of its neighbours.

Shapes: U users, N items, n = U + N nodes (users first), d embedding size.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_macrec.baselines.graph import user_item_edges
from recbole_macrec.baselines.pairwise import PairwiseRecommender, half_squared_norm, linear, xavier_table
from recbole_macrec.config.schema.general import GraphSAGEOptions
from recbole_macrec.utils.lookup import rows_of


class GraphSAGE(PairwiseRecommender):
    """Hamilton, Ying, Leskovec, "Inductive Representation Learning on Large Graphs", NeurIPS 2017, arXiv 1706.02216.

    Node v, a user or an item, has neighbours N(v), its training interactions. From trained vectors h^0 [n, d],

        h_v^l = ReLU(W_own h_v^(l-1) + W_neighbour mean_{w in N(v)} h_w^(l-1) + b),

    without ReLU in the last layer. This is the mean aggregator of the paper over all neighbours; the paper samples them.

    With ``node_features: both`` the first half of an item's input is trained and the second half are its projected features.

    The penalty is half the squared norm of the trained input vectors of a batch's users and items, divided by the batch size.
    """

    options = GraphSAGEOptions

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.normalize = config["normalize"]
        self.edges = user_item_edges(self.interactions)
        self.register_buffer("mean", self.edges.mean_weights(), persistent=False)  # [E]
        free = self.width // 2 if self.modalities else self.width
        self.users, self.items = xavier_table(self.n_users, self.width), xavier_table(self.n_items, free)
        if self.modalities:
            self.project = linear(self.x.shape[1], self.width - free, bias=False)
        layers = range(config["n_layers"])
        self.own = nn.ModuleList(linear(self.width, self.width) for _ in layers)
        self.neighbour = nn.ModuleList(linear(self.width, self.width, bias=False) for _ in layers)

    @classmethod
    def reads_features(cls, config) -> bool:
        return config["node_features"] == "both"

    def item_inputs(self) -> Tensor:
        """Input vectors of the items [N, d]."""
        if not self.modalities:
            return self.items
        return torch.cat([self.items, self.project(self.x)], dim=1)

    def representations(self) -> tuple[Tensor, Tensor]:
        h = torch.cat([self.users, self.item_inputs()])  # [n, d]
        for layer, (own, neighbour) in enumerate(zip(self.own, self.neighbour), 1):
            h = own(h) + self.edges.weighted_sum(self.mean, neighbour(h))
            if layer < len(self.own):
                h = F.relu(h)
        if self.normalize:
            h = F.normalize(h)
        return h[: self.n_users], h[self.n_users :]

    def penalty(self, user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        return half_squared_norm(rows_of(self.users, user), rows_of(self.items, positive), rows_of(self.items, negative))
