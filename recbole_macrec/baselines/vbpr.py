"""VBPR: matrix factorisation with factors from item features.

Shapes: U users, N items, F width of all features together, d embedding size, B batch.
"""
import torch
from torch import Tensor, nn

from recbole_macrec.baselines.pairwise import PairwiseRecommender, bpr, half_squared_norm, xavier_table
from recbole_macrec.config.schema.general import VBPROptions
from recbole_macrec.utils.lookup import rows_of


class VBPR(PairwiseRecommender):
    """He, McAuley, "VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback", AAAI 2016, arXiv 1510.01784.

    With the features x_i of all modalities side by side, the score of user u and item i is

        s_ui = b_i + g_u . g_i + t_u . (W x_i) + c . x_i,

    where g are factors of users and items, t the users' factors of the projected features, b_i an item's bias and c the bias of
    the features. The offsets of the paper that do not depend on the item cancel in BPR. ``biases: False`` leaves out b and c.

    The penalty is half the squared norm of g, t and b of a batch's users and items, divided by B, plus half that of W and c.
    """

    options = VBPROptions

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.users, self.items = xavier_table(self.n_users, self.width), xavier_table(self.n_items, self.width)
        self.tastes = xavier_table(self.n_users, self.width)  # t
        self.project = xavier_table(self.x.shape[1], self.width)  # W^T
        self.item_bias = self.feature_bias = None
        if config["biases"]:
            self.item_bias = nn.Parameter(torch.zeros(self.n_items))
            self.feature_bias = nn.Parameter(torch.zeros(self.x.shape[1]))  # c

    def user_vectors(self, user: Tensor) -> Tensor:
        """Vectors of users whose inner product with :meth:`item_vectors` is the score; [B, 2d], or [B, 2d + 1] with biases."""
        parts = [rows_of(self.users, user), rows_of(self.tastes, user)]
        if self.item_bias is not None:
            parts.append(torch.ones_like(parts[0][:, :1]))
        return torch.cat(parts, dim=1)

    def item_vectors(self, item: Tensor) -> Tensor:
        """See :meth:`user_vectors`."""
        x = self.x[item]
        parts = [rows_of(self.items, item), x @ self.project]
        if self.item_bias is not None:
            parts.append((rows_of(self.item_bias, item) + x @ self.feature_bias).unsqueeze(1))
        return torch.cat(parts, dim=1)

    def representations(self) -> tuple[Tensor, Tensor]:
        users, items = (torch.arange(count, device=self.x.device) for count in (self.n_users, self.n_items))
        return self.user_vectors(users), self.item_vectors(items)

    def calculate_loss(self, interaction) -> Tensor:
        """See the base class. Only the features of the batch's items are projected."""
        self._cached = None
        user, positive, negative = (interaction[f] for f in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        u, i, j = self.user_vectors(user), self.item_vectors(positive), self.item_vectors(negative)
        return bpr((u * i).sum(1), (u * j).sum(1)) + self.reg_weight * self.penalty(user, positive, negative)

    def penalty(self, user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        own = [rows_of(table, user) for table in (self.users, self.tastes)]
        own += [rows_of(self.items, item) for item in (positive, negative)]
        shared = self.project.square().sum() / 2
        if self.item_bias is not None and self.feature_bias is not None:
            own += [rows_of(self.item_bias, positive), rows_of(self.item_bias, negative)]
            shared = shared + self.feature_bias.square().sum() / 2
        return half_squared_norm(*own) + shared
