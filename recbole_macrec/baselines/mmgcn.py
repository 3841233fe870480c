"""MMGCN: one graph network for each modality, with an ID embedding added in each layer.

Shapes: U users, N items, n = U + N nodes (users first), F_m width of the features of modality m, D_m input width of its
network, d embedding size.
"""
from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_macrec.baselines.graph import Edges, user_item_edges
from recbole_macrec.baselines.pairwise import SLOPE, PairwiseRecommender, linear, unit_rows, xavier_table
from recbole_macrec.config.schema.general import MMGCNOptions
from recbole_macrec.utils.lookup import rows_of
from recbole_macrec.utils.modules import ModuleDict


class ModalityNetwork(nn.Module):
    """Network of one modality. The input vectors are trained preferences of the users and features of the items.

    Args:
        users: U.
        features: F_m.
        width: d.
        layers: number of layers.
        max_width: D_m is F_m, but at most this; features that are wider are projected.
        combination: ``concat`` or ``add``; see :meth:`forward`.
    """

    def __init__(self, users: int, features: int, width: int, layers: int, max_width: int, combination: str):
        super().__init__()
        inputs = min(features, max_width)
        self.project = linear(features, inputs) if inputs < features else nn.Identity()
        self.preferences = xavier_table(users, inputs)
        sizes = [inputs, *[width] * layers]
        self.propagate = nn.ModuleList(linear(size, width, bias=False) for size in sizes[:-1])  # W1
        self.own = nn.ModuleList(linear(size, width) for size in sizes[:-1])  # W2
        self.concat = combination == "concat"
        self.combine = nn.ModuleList(linear(2 * width if self.concat else width, width) for _ in range(layers))  # W3

    def forward(self, features: Tensor, ids: Tensor, edges: Edges, mean: Tensor) -> Tensor:
        """Node vectors x [n, d] of the last layer. A layer computes

            h  = LeakyReLU(mean over the neighbours of x W1)
            x^ = LeakyReLU(x W2 + b2) + ids
            x' = LeakyReLU([h ; x^] W3 + b3), or with ``combination: add`` LeakyReLU(h W3 + b3 + x^).

        Args:
            features: [N, F_m].
            ids: [n, d].
            mean: weights of the edges with which the weighted sum is the mean over the neighbours, [E].
        """
        x = unit_rows(torch.cat([self.preferences, self.project(features)]))  # [n, D_m]
        for propagate, own, combine in zip(self.propagate, self.own, self.combine):
            h = F.leaky_relu(edges.weighted_sum(mean, propagate(x)), SLOPE)
            own_x = F.leaky_relu(own(x), SLOPE) + ids
            x = F.leaky_relu(combine(torch.cat([h, own_x], dim=1)) if self.concat else combine(h) + own_x, SLOPE)
        return x


class MMGCN(PairwiseRecommender):
    """Wei, Wang, Nie, He, Hong, Chua, "MMGCN: Multi-modal Graph Convolution Network for Personalized Recommendation of
    Micro-video", ACM MM 2019, DOI 10.1145/3343031.3351034.

    A node's representation is the mean over the modalities of the vectors that their networks compute. The networks share the
    graph of the training interactions and the ID embeddings.

    The penalty is the mean square of the ID embeddings of a batch's users and items, plus that of all preferences in each
    modality.
    """

    options = MMGCNOptions

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.edges = user_item_edges(self.interactions)
        self.register_buffer("mean", self.edges.mean_weights(), persistent=False)  # [E]
        self.ids = xavier_table(self.n_users + self.n_items, self.width)
        self.networks = ModuleDict({
            modality: ModalityNetwork(self.n_users, x.shape[1], self.width, config["n_layers"], config["max_feature_width"],
                                      config["combination"])
            for modality, x in self.features.items()
        })

    def representations(self) -> tuple[Tensor, Tensor]:
        x = sum(network(self.features[m], self.ids, self.edges, self.mean) for m, network in self.networks.items())
        return (x / len(self.networks)).split([self.n_users, self.n_items])

    def penalty(self, user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        ids = rows_of(self.ids, torch.cat([user, self.n_users + positive, self.n_users + negative]))
        return ids.square().mean() + reduce(add, (network.preferences.square().mean() for network in self.networks.values()))
