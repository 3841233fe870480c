"""LightGT: a transformer without residuals that reads a user's items, with positions from LightGCN.

Shapes: U users, N items, n = U + N nodes (users first), F_m width of the features of modality m, d embedding size, B batch, S
tokens of a sequence (the user and the user's items), M rows of packed sequences (all their tokens).
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_macrec.baselines.graph import user_item_edges
from recbole_macrec.baselines.pairwise import SLOPE, PairwiseRecommender, bpr, linear, xavier_table
from recbole_macrec.config.schema.general import LightGTOptions
from recbole_macrec.generation.network.packing import pack, row_starts
from recbole_macrec.model.interacted_items import InteractedItems
from recbole_macrec.utils.lookup import rows_of
from recbole_macrec.utils.modules import ModuleDict, ModuleList

HISTORY_ITEMS = 2**20  # items of padded histories from which items are drawn together
USERS_AT_ONCE = 1024  # users whose sequences are looked up together for ranking


class LightLayer(nn.Module):
    """One layer: x <- LayerNorm(softmax(Q K^T / (100 sqrt(d))) V W_o + b), with Q and K from x + positions and V from x.

    There is one head, no residual connection and no feed-forward layer. The products W_q W_k^T and W_v W_o are computed first,
    so that a token is multiplied by two matrices instead of four. K has no bias: it would not change the softmax.
    """

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.query, self.value, self.output = (linear(width, width) for _ in range(3))
        self.key = linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.dropout, self.scale = dropout, 1 / (100 * width**0.5)

    def forward(self, x: Tensor, positions: Tensor, groups: list[tuple[int, int]], first: Tensor | None = None) -> Tensor:
        """Compute the layer.

        Args:
            x, positions: packed sequences [M, d].
            groups: (sequences, tokens of each), in the order of the rows.
            first: int64 [B]; compute only the output of these rows, the first of each sequence.

        Returns:
            [M, d], or [B, d].
        """
        read = x + positions
        query = F.linear(read if first is None else rows_of(read, first),
                         self.key.weight.T @ self.query.weight, self.query.bias @ self.key.weight)
        value = F.linear(x, self.output.weight @ self.value.weight, self.output.weight @ self.value.bias)
        size = [sequences * tokens for sequences, tokens in groups]
        queries = query.split(size if first is None else [sequences for sequences, _ in groups])
        read_by_group = zip(queries, read.split(size), value.split(size), groups, strict=True)
        return self.norm(torch.cat([self._attend(*group) for group in read_by_group]) + self.output.bias)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
        """Attention within sequences of equal length. The arguments are packed, ``shape`` is their number and length."""
        query, key, value = (x.view(shape[0], -1, x.shape[1]) for x in (query, key, value))
        attention = (query @ key.transpose(1, 2) * self.scale).softmax(-1)  # [sequences, 1 or tokens, tokens]
        return (F.dropout(attention, self.dropout, self.training) @ value).flatten(0, 1)


class ModalityReader(nn.Module):
    """Reads sequences of users in one modality.

    Args:
        features: F_m.
        width: d.
        layers: number of layers.
        dropout: dropout probability of the attention weights.
    """

    def __init__(self, features: int, width: int, layers: int, dropout: float):
        super().__init__()
        self.project = linear(features, width)
        self.position = linear(width, width)
        self.layers = ModuleList(LightLayer(width, dropout) for _ in range(layers))
        self.output = linear(width, width)

    def forward(self, x: Tensor, means: list[Tensor], token: Tensor, groups: list[tuple[int, int]], first: Tensor) -> Tensor:
        """Interest of the users in this modality, [B, d].

        Args:
            x: input vectors of the packed tokens, [M, d].
            means: for each layer, collaborative vectors of the distinct tokens [.., d].
            token: int64 [M], the row of each token in ``means``.
            groups: (sequences, tokens of each), in the order of the rows.
            first: int64 [B], first row of each sequence.
        """
        for number, (layer, mean) in enumerate(zip(self.layers, means, strict=True), 1):
            positions = rows_of(self.position(mean).sigmoid(), token)
            x = layer(x, positions, groups, first if number == len(self.layers) else None)
        return F.leaky_relu(self.output(x), SLOPE)


class LightGT(PairwiseRecommender):
    """Wei, Liu, Liu, Wang, Nie, Chua, "LightGT: A Light Graph Transformer for Multimedia Recommendation", SIGIR 2023, DOI
    10.1145/3539618.3591716.

    LightGCN propagates ID embeddings: E_l = A E_(l-1). Users and items have the collaborative vectors o, the mean of E_0 ..
    E_G. In each modality a transformer reads the sequence of a user and the user's items; layer l knows the tokens by a
    position, which is computed from the mean of E_0 .. E_l without gradient. With z_um its output at the user and c_im the
    item's projected features,

        s_ui = w o_u . o_i + (1 - w) sum_m z_um . c_im,   w = id_weight.

    In training the sequence has random items of the user; in ranking, the latest. The item to predict is removed from the
    sequence unless ``target_in_input`` is True, as in the released code.

    The penalty is the mean square of o over all users, plus that over all items.
    """

    options = LightGTOptions

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.id_weight, self.max_items = config["id_weight"], config["max_sequence_items"]
        self.target_in_input = config["target_in_input"]
        self.graph_layers, self.n_layers = config["n_graph_layers"], config["n_layers"]
        self.edges = user_item_edges(self.interactions)
        self.register_buffer("norm", self.edges.symmetric_weights(), persistent=False)
        self.ids = xavier_table(self.n_users + self.n_items, self.width)
        self.users = xavier_table(self.n_users, self.width)
        self.readers = ModuleDict({
            m: ModalityReader(x.shape[1], self.width, self.n_layers, config["dropout_prob"]) for m, x in self.features.items()
        })
        self.interacted = InteractedItems.of(dataset)

    # -- sequences ---------------------------------------------------------------------------------------------------

    def training_sequences(self, user: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the sequences for a batch of users and items to predict, int64 [B] each.

        A sequence has at most ``max_sequence_items`` random training items of its user, and not the item to predict. The
        samples of a user share one sequence, without all their targets, if at least ``max_sequence_items`` other items of the
        user remain. Since batches are random, it is still a uniform draw of the items other than a sample's own target.

        Returns:
            users int64 [R] and items int64 [R, S - 1], padded with 0, of the sequences; the sequence of each sample, int64 [B].
        """
        distinct, number, samples = user.unique(return_inverse=True, return_counts=True)
        shared = self.interacted.count(distinct) - samples >= self.max_items
        own = torch.zeros_like(target) if self.target_in_input else target.masked_fill(shared[number], 0)
        pairs, sequence = (user * self.n_items + own).unique(return_inverse=True)
        users = pairs // self.n_items
        hidden = sequence * self.n_items + target
        at_once = max(1, HISTORY_ITEMS // self.interacted.longest(users))  # as histories are padded to the longest
        parts = torch.arange(len(users), device=user.device).split(at_once)
        chosen = [self._some_items(users[rows], rows, hidden) for rows in parts]
        width = max(items.shape[1] for items in chosen)
        return users, torch.cat([F.pad(items, (0, width - items.shape[1])) for items in chosen]), sequence

    def _some_items(self, users: Tensor, rows: Tensor, hidden: Tensor) -> Tensor:
        """Random items of users for the sequences ``rows``, without the items ``hidden`` (sequence * N + item)."""
        items, _ = self.interacted.last(users, len(self.interacted.items))
        if not self.target_in_input:
            items = items.masked_fill(torch.isin(rows.unsqueeze(1) * self.n_items + items, hidden), 0)
        keys = torch.rand(items.shape, device=items.device).masked_fill(items == 0, 2)  # padding comes last
        return items.gather(1, keys.topk(min(self.max_items, items.shape[1]), largest=False).indices)

    # -- the model ---------------------------------------------------------------------------------------------------

    def collaborative(self) -> tuple[Tensor, list[Tensor]]:
        """The vectors o [n, d], and for each layer of the transformer the mean of E_0 .. E_l [n, d], without gradient."""
        layer: Tensor = self.ids
        total = layer
        means = []
        for number in range(1, self.graph_layers + 1):
            layer = self.edges.weighted_sum(self.norm, layer)
            total = total + layer
            means.append(total / (number + 1))
        return means[-1], [mean.detach() for mean in means[: self.n_layers]]

    def contents(self) -> dict[str, Tensor]:
        """Modality -> projected features c [N, d]."""
        return {m: reader.project(self.features[m]) for m, reader in self.readers.items()}

    def user_vectors(self, user: Tensor, items: Tensor, o: Tensor, means: list[Tensor], contents: dict[str, Tensor]) -> Tensor:
        """Representations of users [B, (1 + M) d] from the items [B, S - 1] of their sequences, padded with 0 at the end."""
        length, order = (1 + (items > 0).sum(1)).sort(stable=True)
        packed = pack(torch.cat([user.unsqueeze(1), self.n_users + items], dim=1)[order], length)
        first = row_starts(packed.groups).to(items.device)
        distinct, token = packed.tokens.unique(return_inverse=True)
        means = [rows_of(mean, distinct) for mean in means]
        interests = [
            reader(rows_of(torch.cat([self.users, contents[m]]), packed.tokens), means, token, packed.groups, first)
            for m, reader in self.readers.items()
        ]
        own = self.id_weight * rows_of(o, user)
        return torch.cat([own, *((1 - self.id_weight) * z.index_select(0, order.argsort()) for z in interests)], dim=1)

    def item_vectors(self, o: Tensor, contents: dict[str, Tensor]) -> Tensor:
        """Representations of all items, [N, (1 + M) d]."""
        return torch.cat([o[self.n_users :], *contents.values()], dim=1)

    def representations(self) -> tuple[Tensor, Tensor]:
        (o, means), contents = self.collaborative(), self.contents()
        users = [self.user_vectors(part, self.interacted.last(part, self.max_items)[0], o, means, contents)
                 for part in torch.arange(self.n_users, device=o.device).split(USERS_AT_ONCE)]
        return torch.cat(users), self.item_vectors(o, contents)

    def calculate_loss(self, interaction) -> Tensor:
        """See the base class. The representation of a user depends on the item to predict."""
        self._cached = None
        user, positive, negative = (interaction[f] for f in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        (o, means), contents = self.collaborative(), self.contents()
        owners, sequences, sequence = self.training_sequences(user, positive)
        u = rows_of(self.user_vectors(owners, sequences, o, means, contents), sequence)
        items = self.item_vectors(o, contents)
        loss = bpr((u * rows_of(items, positive)).sum(1), (u * rows_of(items, negative)).sum(1))
        users, items = o.split([self.n_users, self.n_items])
        return loss + self.reg_weight * (users.square().mean() + items.square().mean())
