"""LightGT: a transformer without residuals that reads a user's items, with positions from LightGCN.

Shapes: U users, N items, n = U + N nodes (users first), F_m width of the features of modality m, d embedding size, B batch, S
tokens of a sequence (the user and the user's items).
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_macrec.baselines.graph import user_item_edges
from recbole_macrec.baselines.pairwise import SLOPE, PairwiseRecommender, bpr, linear, xavier_table
from recbole_macrec.config.schema.general import LightGTOptions
from recbole_macrec.model.interacted_items import InteractedItems, without_target
from recbole_macrec.utils.device_budget import DeviceBudget
from recbole_macrec.utils.lookup import rows_of
from recbole_macrec.utils.modules import ModuleDict, ModuleList

HISTORY_ITEMS = 2**20  # items of padded histories from which items are drawn together
USERS_AT_ONCE = 1024  # users whose sequences are looked up together for ranking


class LightLayer(nn.Module):
    """One layer: x <- LayerNorm(softmax(Q K^T / (100 sqrt(d))) V W_o + b), with Q and K from x + positions and V from x.

    There is one head, no residual connection and no feed-forward layer.
    """

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.query, self.key, self.value, self.output = (linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width)
        self.dropout, self.scale = dropout, 1 / (100 * width**0.5)

    def forward(self, x: Tensor, positions: Tensor, exists: Tensor, first_only: bool = False) -> Tensor:
        """Compute the layer.

        Args:
            x, positions: [B, S, d].
            exists: bool [B, S], False for padding.
            first_only: compute only the output of the first token.

        Returns:
            [B, S, d], or [B, 1, d].
        """
        read = x + positions
        logits = self.query(read[:, :1] if first_only else read) @ self.key(read).transpose(1, 2) * self.scale
        attention = logits.masked_fill(~exists.unsqueeze(1), -torch.inf).softmax(-1)  # [B, S, S]
        attention = F.dropout(attention, self.dropout, self.training)
        return self.norm(self.output(attention @ self.value(x)))


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

    def forward(self, user: Tensor, items: Tensor, places: list[Tensor], exists: Tensor) -> Tensor:
        """Interest of the users in this modality, [B, d].

        Args:
            user: [B, d].
            items: projected features of the items, [B, S - 1, d].
            places: for each layer, collaborative vectors of the tokens [B, S, d].
            exists: bool [B, S].
        """
        x = torch.cat([user.unsqueeze(1), items], dim=1)
        for number, (layer, place) in enumerate(zip(self.layers, places), 1):
            x = layer(x, self.position(place).sigmoid(), exists, first_only=number == len(self.layers))
        return F.leaky_relu(self.output(x[:, 0]), SLOPE)


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
        self.padded_users = DeviceBudget.of(self.device).padded_users
        self.interacted = InteractedItems.of(dataset)

    # -- sequences ---------------------------------------------------------------------------------------------------

    def training_items(self, user: Tensor, target: Tensor) -> Tensor:
        """At most ``max_sequence_items`` random training items of users [B], without the target; int64 [B, S - 1], padded with
        0."""
        users = max(1, HISTORY_ITEMS // self.interacted.longest(user))  # at once, as histories are padded to the longest
        chosen = [self._some_items(*part) for part in zip(user.split(users), target.split(users), strict=True)]
        width = max(items.shape[1] for items in chosen)
        return torch.cat([F.pad(items, (0, width - items.shape[1])) for items in chosen])

    def _some_items(self, user: Tensor, target: Tensor) -> Tensor:
        items, length = self.interacted.last(user, len(self.interacted.items))
        if not self.target_in_input:
            items, length = without_target(items, length, target)
        if items.shape[1] > self.max_items:
            keys = torch.rand(items.shape, device=items.device).masked_fill(items == 0, 2)  # padding comes last
            items = items.gather(1, keys.topk(self.max_items, largest=False).indices)
        return items

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
        """Representations of users [B, (1 + M) d] from the items [B, S - 1] of their sequences, padded with 0.

        Sequences of similar length are read together, so that little padding is computed.
        """
        place = torch.arange(1, items.shape[1] + 1, device=items.device)
        length = torch.where(items > 0, place, 0).amax(1)  # without the padding at the end
        order = length.argsort()
        groups = [(user[rows], items[rows, : int(length[rows[-1]])]) for rows in order.split(self.padded_users or len(order))]
        vectors = torch.cat([self._group_vectors(*group, o, means, contents) for group in groups])
        return vectors.index_select(0, order.argsort())

    def _group_vectors(
        self, user: Tensor, items: Tensor, o: Tensor, means: list[Tensor], contents: dict[str, Tensor]
    ) -> Tensor:
        nodes = torch.cat([user.unsqueeze(1), self.n_users + items], dim=1)  # [B, S]
        exists = F.pad(items > 0, (1, 0), value=True)
        places, own = [rows_of(mean, nodes) for mean in means], rows_of(self.users, user)
        read = [reader(own, rows_of(contents[m], items), places, exists) for m, reader in self.readers.items()]
        return torch.cat([self.id_weight * rows_of(o, user), *((1 - self.id_weight) * z for z in read)], dim=1)

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
        u = self.user_vectors(user, self.training_items(user, positive), o, means, contents)
        items = self.item_vectors(o, contents)
        loss = bpr((u * rows_of(items, positive)).sum(1), (u * rows_of(items, negative)).sum(1))
        users, items = o.split([self.n_users, self.n_items])
        return loss + self.reg_weight * (users.square().mean() + items.square().mean())
