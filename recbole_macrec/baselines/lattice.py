"""LATTICE: item vectors propagated on a graph of similar items that is learnt from their features.

Shapes: U users, N items (number 0 is the padding), M modalities, F_m width of the features of modality m, d embedding size, k
neighbours of an item, M' learnt graphs: M, or 0 without a learnt graph.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_macrec.baselines.graph import Edges, user_item_edges
from recbole_macrec.baselines.pairwise import PairwiseRecommender, bpr, half_squared_norm, linear, unit_rows, xavier_table
from recbole_macrec.config.schema.general import LATTICEOptions
from recbole_macrec.utils.lookup import rows_of
from recbole_macrec.utils.modules import ModuleDict

BLOCK_SCORES = 2**24  # similarities computed at once: 64 MB


class LATTICE(PairwiseRecommender):
    """Zhang, Zhu, Liu, Wu, Wang, Wang, "Mining Latent Structures for Multimedia Recommendation", ACM MM 2021, arXiv 2104.09036.

    In each modality an item is connected with the k items of the highest cosine similarity, itself among them: S_m for the
    features, S~_m for a trained projection of them. With norm(S) = D^-1/2 S D^-1/2 and modality weights w (a softmax of trained
    numbers), the graph of the items is

        A = lambda sum_m w_m norm(S_m) + (1 - lambda) norm(sum_m w_m S~_m).

    Item embeddings E are propagated on it, h = A^L E. A collaborative model gives user and item vectors u and i from training
    interactions; ``cf: lightgcn`` is LightGCN, ``cf: mf`` the embeddings themselves. An item's representation is i + h / |h|.

    S~_m is rebuilt in the first batch of an epoch, the only one that trains the projections and w, and for ranking. With
    lambda = 1 there is no S~_m, and the projections are not trained.

    The penalty is half the squared norm of the representations of a batch's users and items, divided by the batch size.
    """

    options = LATTICEOptions

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.neighbours, self.feature_graph_weight = config["n_neighbours"], config["feature_graph_weight"]
        self.item_layers, self.cf_layers = config["n_item_layers"], config["n_layers"] if config["cf"] == "lightgcn" else 0
        self.users, self.items = xavier_table(self.n_users, self.width), xavier_table(self.n_items, self.width)
        self.edges = user_item_edges(self.interactions)
        self.register_buffer("norm", self.edges.symmetric_weights(), persistent=False)
        self.train_features = config["train_features"]
        k, inputs = min(self.neighbours, self.n_items - 1), self.features
        fixed = [item_graph(x, k) for x in inputs.values()]
        self.register_buffer("fixed_neighbours", torch.stack([graph[0] for graph in fixed]), persistent=False)  # [M, N, k]
        values = [normalised(*graph) for graph in fixed]
        self.register_buffer("fixed_values", torch.stack(values), persistent=False)  # [M, N, k], norm(S_m)
        if self.train_features:
            self.tables = nn.ParameterList(nn.Parameter(x.clone()) for x in inputs.values())
        self.project = ModuleDict({m: linear(x.shape[1], self.width) for m, x in inputs.items()})
        self.modality_logits = nn.Parameter(torch.zeros(len(self.modalities)))
        # The graph of the epoch and the epoch it was built in. They are saved, so that an epoch can be resumed.
        self.register_buffer("built_in_epoch", torch.tensor(-1))
        self.learnt_graphs = len(self.modalities) if self.feature_graph_weight < 1 else 0  # M'
        self.register_buffer("learnt_neighbours", self.fixed_neighbours[: self.learnt_graphs].clone())  # [M', N, k]
        self.register_buffer("learnt_values", torch.zeros_like(self.fixed_values[: self.learnt_graphs]))  # [M', N, k]
        self.register_buffer("epoch_weights", torch.full((len(self.modalities),), 1 / len(self.modalities)))  # w [M]
        self.epoch = 0
        self._edges: Edges | None = None  # of the epoch's graph

    # -- the graph of the items --------------------------------------------------------------------------------------

    def before_epoch(self, epoch: int, resumed: bool = False) -> None:
        self.epoch, self._edges = epoch, None
        if not resumed:  # a graph from an earlier training may be of an epoch with the same number
            self.built_in_epoch.fill_(-1)

    def modality_weights(self) -> Tensor:
        """w [M]."""
        return self.modality_logits.softmax(0)

    def learnt_graph(self) -> tuple[Tensor, Tensor]:
        """Neighbours int64 [M', N, k] in the projected features, and the values of norm(sum_m w_m S~_m) [M', N, k]."""
        if not self.learnt_graphs:
            return self.learnt_neighbours, self.learnt_values
        tables = self.tables if self.train_features else self.features.values()
        k = self.fixed_neighbours.shape[2]
        graphs = [item_graph(project(table), k) for project, table in zip(self.project.values(), tables, strict=True)]
        neighbours = torch.stack([graph[0] for graph in graphs])
        similarity = torch.stack([graph[1] for graph in graphs]) * self.modality_weights()[:, None, None]
        degree = similarity.sum((0, 2))  # [N]
        return neighbours, normalised_by(degree, neighbours, similarity)

    def item_values(self, learnt_values: Tensor, weights: Tensor) -> Tensor:
        """Values of A in the order of :meth:`item_edges`, before sorting: [(M + M') N k]."""
        fixed = self.feature_graph_weight * self.fixed_values * weights[:, None, None]
        return torch.cat([fixed, (1 - self.feature_graph_weight) * learnt_values]).flatten()

    def item_edges(self, learnt_neighbours: Tensor) -> Edges:
        """Edges of A from each neighbour to its item; an edge of several graphs occurs several times."""
        source = torch.cat([self.fixed_neighbours, learnt_neighbours]).cpu()
        target = torch.arange(self.n_items)[None, :, None].expand_as(source)
        return Edges(source.flatten().numpy(), target.flatten().numpy(), self.n_items).to(self.fixed_values.device)

    def _graph(self) -> tuple[Edges, Tensor]:
        """Edges of A and their values, for training and for ranking."""
        if not self.training:
            neighbours, values = self.learnt_graph()
            edges = self.item_edges(neighbours)
            return edges, edges.sort(self.item_values(values, self.modality_weights()))
        values, weights = self.learnt_values, self.epoch_weights
        if int(self.built_in_epoch) != self.epoch:
            neighbours, values = self.learnt_graph()
            weights = self.modality_weights()
            self.learnt_neighbours.copy_(neighbours)
            self.learnt_values.copy_(values.detach())
            self.epoch_weights.copy_(weights.detach())
            self.built_in_epoch.fill_(self.epoch)
            self._edges = None
        if self._edges is None:
            self._edges = self.item_edges(self.learnt_neighbours)
        return self._edges, self._edges.sort(self.item_values(values, weights))

    # -- the model ---------------------------------------------------------------------------------------------------

    def representations(self) -> tuple[Tensor, Tensor]:
        edges, values = self._graph()
        h: Tensor = self.items
        for _ in range(self.item_layers):
            h = edges.weighted_sum(values, h)
        x = total = torch.cat([self.users, self.items])
        for _ in range(self.cf_layers):
            x = self.edges.weighted_sum(self.norm, x)
            total = total + x
        users, items = (total / (1 + self.cf_layers)).split([self.n_users, self.n_items])
        return users, items + F.normalize(h)

    def calculate_loss(self, interaction) -> Tensor:
        """See the base class. The penalty is on the representations themselves."""
        self._cached = None
        users, items = self.representations()
        user, positive, negative = (interaction[f] for f in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        u, i, j = rows_of(users, user), rows_of(items, positive), rows_of(items, negative)
        return bpr((u * i).sum(1), (u * j).sum(1)) + self.reg_weight * half_squared_norm(u, i, j)


def item_graph(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k items of the highest cosine similarity to each item, computed by blocks of rows.

    Args:
        x: [N, F]; row 0, the padding, is no neighbour.
        k: at most N - 1.

    Returns:
        Neighbours int64 [N, k], and their similarities [N, k], at least 0. The gradient of the similarities reaches ``x``.
        Those of the padding are 0.
    """
    x = unit_rows(x)
    rows = min(len(x), max(1, BLOCK_SCORES // len(x)))
    neighbours = torch.empty(len(x), k, dtype=torch.long, device=x.device)
    scores = x.new_empty(rows, len(x) - 1)  # one for all blocks: blocks of their own would leave holes in the memory
    with torch.no_grad():
        for part, found in zip(x.split(rows), neighbours.split(rows)):
            torch.mm(part, x[1:].T, out=scores[: len(part)])
            found.copy_(scores[: len(part)].topk(k).indices + 1)
    similarity = torch.stack([(x * rows_of(x, column)).sum(1) for column in neighbours.T], dim=1)
    exists = torch.arange(len(x), device=x.device) > 0
    return neighbours, similarity.clamp(min=0) * exists.unsqueeze(1)


def normalised(neighbours: Tensor, values: Tensor) -> Tensor:
    """Values [N, k] of D^-1/2 S D^-1/2, where D is the row sum of S."""
    return normalised_by(values.sum(1), neighbours, values)


def normalised_by(degree: Tensor, neighbours: Tensor, values: Tensor) -> Tensor:
    """Divide values [..., N, k] by the roots of the degrees [N] of the item and of its neighbour; 0 where a degree is 0."""
    scale = torch.where(degree > 0, degree, 1).rsqrt() * (degree > 0)
    return values * scale.unsqueeze(1) * rows_of(scale, neighbours)
