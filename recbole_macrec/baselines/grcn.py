"""GRCN: a graph whose edges are weighted by how well an item's features fit the user's other items.

Shapes: U users, N items, n = U + N nodes (users first), E directed edges, F_m width of the features of modality m, d embedding
size, M modalities.
"""
from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_macrec.baselines.graph import Edges, user_item_edges
from recbole_macrec.baselines.pairwise import SLOPE, PairwiseRecommender, linear, unit_rows, xavier_table
from recbole_macrec.config.schema.general import GRCNOptions
from recbole_macrec.utils.lookup import rows_of
from recbole_macrec.utils.modules import ModuleDict


class Routing(nn.Module):
    """Prototypes of users by neighbour routing, and attention on the edges, in one modality.

    The content of an item is c_i = normalize(LeakyReLU(W x_i + b)). The prototype p_u of a user starts as a trained vector of
    norm 1. A round of routing moves it towards the user's items:

        a_ui = softmax over the items of u of p_u . c_i,   p_u <- normalize(p_u + sum_i a_ui c_i).

    Args:
        users: U.
        features: F_m.
        width: d.
        rounds: rounds of routing.
    """

    def __init__(self, users: int, features: int, width: int, rounds: int):
        super().__init__()
        self.project = linear(features, width)
        self.prototypes = xavier_table(users, width)
        self.rounds = rounds

    def forward(self, features: Tensor, edges: Edges, to_users: Edges) -> tuple[Tensor, Tensor]:
        """Route, then attend in both directions: alpha_(s -> t) = softmax over the neighbours s of t of x_s . x_t.

        Args:
            features: [N, F_m].
            edges: the edges in both directions.
            to_users: the edges from items to users only, on the same nodes.

        Returns:
            Content representations x_t + sum_s alpha_(s -> t) x_s, [n, d]; and alpha [E].
        """
        content = unit_rows(F.leaky_relu(self.project(features), SLOPE))  # [N, d]
        x = torch.cat([F.normalize(self.prototypes), content])  # [n, d]
        for _ in range(self.rounds):
            messages = to_users.weighted_sum(to_users.softmax(to_users.dot(x, x)), x)
            users = F.normalize((x + messages)[: len(self.prototypes)])
            x = torch.cat([users, content])
        alpha = edges.softmax(edges.dot(x, x))
        return x + edges.weighted_sum(alpha, x), alpha


class GRCN(PairwiseRecommender):
    """Wei, Wang, Nie, He, Chua, "Graph-Refined Convolutional Network for Multimedia Recommendation with Implicit Feedback", ACM
    MM 2020, arXiv 2111.02036.

    The weight of an edge s -> t is the largest attention of the modalities, scaled by a trained confidence k of its source:

        w_(s -> t) = max_m alpha^m_(s -> t) k_(s, m).

    With ``prune: True`` negative weights become 0. ID embeddings of norm 1 are propagated twice with these weights and summed
    over the layers. A node's representation is this sum beside the content representations of all modalities.

    The penalty is the mean square of the ID embeddings of a batch's users and items, plus that of the users' trained prototypes
    in each modality.
    """

    options = GRCNOptions

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.prune = config["prune"]
        self.edges = user_item_edges(self.interactions)
        self.to_users = user_item_edges(self.interactions, towards="users")
        self.ids = xavier_table(self.n_users + self.n_items, self.width)
        self.routings = ModuleDict({
            modality: Routing(self.n_users, x.shape[1], self.width, config["routing_rounds"])
            for modality, x in self.features.items()
        })
        confidence = nn.init.xavier_normal_(torch.empty(self.n_users + self.n_items, len(self.modalities)))
        self.confidence = nn.Parameter(confidence)  # k [n, M]

    def edge_weights(self, attention: list[Tensor]) -> Tensor:
        """w [E] from the attention alpha [E] of each modality."""
        source = self.edges.source
        weights = torch.stack([alpha * rows_of(self.confidence[:, m], source) for m, alpha in enumerate(attention)]).amax(0)
        return weights.relu() if self.prune else weights

    def representations(self) -> tuple[Tensor, Tensor]:
        content, attention = zip(
            *(routing(self.features[m], self.edges, self.to_users) for m, routing in self.routings.items())
        )
        weights = self.edge_weights(list(attention))
        h = F.normalize(self.ids)
        first = self.edges.weighted_sum(weights, h)
        second = self.edges.weighted_sum(weights, first)
        return torch.cat([h + first + second, *content], dim=1).split([self.n_users, self.n_items])

    def penalty(self, user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        ids = rows_of(self.ids, torch.cat([user, self.n_users + positive, self.n_users + negative]))
        return ids.square().mean() + reduce(
            add, (rows_of(routing.prototypes, user).square().mean() for routing in self.routings.values())
        )
