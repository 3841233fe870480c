"""InvRL: feature dimensions that predict interactions equally well in all environments are kept, others are masked.

Shapes: U users, N items, F width of all features together, d embedding size, f width of projected features, B batch, J
negatives of an interaction, E training interactions, K environments.
"""
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_macrec.baselines.pairwise import PairwiseRecommender, linear, xavier_table
from recbole_macrec.config.schema.general import InvRLOptions

GATE_NOISE = 0.01  # standard deviation of the noise on the gates of the mask
INITIAL_STD = 0.01  # standard deviation of the initial projection of an environment
GROWTH = 1.05  # of the weights of both penalties of the mask, after each round
COUNTS = ("pretrain_epochs", "mask_rounds", "n_environments", "environment_updates", "environment_epochs", "mask_epochs")
WEIGHTS = ("gradient_weight", "mask_weight", "environment_l1")  # alpha and lambda of the mask; of |W * m| in an environment
SETTLED = 0.01  # share of interactions that may still move when the environments are final


class Backbone(nn.Module):
    """UltraGCN (Mao et al., CIKM 2021, arXiv 2110.15114) with item features: user vectors p_u [d + f] and item vectors

        v_i = [q_i ; W (m * x_i) + b].

    Args:
        users, items: U, N.
        features: F.
        width: d.
        projected: f.
    """

    def __init__(self, users: int, items: int, features: int, width: int, projected: int):
        super().__init__()
        self.users = xavier_table(users, width + projected)  # P
        self.items = xavier_table(items, width)  # Q
        self.project = linear(features, projected)  # W, b

    def item_vectors(self, item: Tensor, x: Tensor) -> Tensor:
        """Return the vectors [..., d + f] of items [...], computed from the masked features ``x`` [N, F] of all items."""
        if item.numel() < len(x):
            content = self.project(F.embedding(item, x))
        else:
            content = F.embedding(item, self.project(x))
        return torch.cat([F.embedding(item, self.items), content], dim=-1)


class InvRL(PairwiseRecommender):
    """Du, Wu, Feng, He, Tang, "Invariant Representation Learning for Multimedia Recommendation", ACM MM 2022, DOI
    10.1145/3503161.3548405.

    Before the first epoch the mask m [F] of the features is learnt from the training interactions:

    1. A backbone is trained without mask. Its P and Q are frozen in step 2.
    2. Rounds of two parts. (a) Each interaction is assigned to one of K environments, at first at random. A projection W, b is
       trained in each environment; every interaction moves to the environment that gives it the highest score; and so on, until
       few move. (b) The mask is trained to make the gradients G_k of the environments' losses L_k equal: with the means L and
       G,

           minimise L + alpha |sum_k (G_k - G)^2 * m|^2 + lambda |mu|^2,   m = clamp(mu + 1/2, 0, 1).

    Then a new backbone is trained with the masked features, and ranks. With J random negatives of an interaction and
    beta_ui = sqrt(D_u + 1) / D_u / sqrt(D_i + 1), where D are training degrees, the loss of a backbone is

        sum over (u, i) of (1 + beta_ui) bce(s_ui, 1) + mean_j (1 + beta_uj) bce(s_uj, 0)
            + reg_weight (|P|^2 + |Q|^2) + feature_reg_weight (|W|^2 + |b|^2).

    The negative that RecBole draws is not used. The learnt mask is part of a checkpoint.
    """

    options = InvRLOptions

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.settings = {name: config[name] for name in (*COUNTS, *WEIGHTS)}
        self.batch_size, self.learning_rate = config["train_batch_size"], config["learning_rate"]
        self.negatives, self.feature_reg = config["n_negatives"], config["feature_reg_weight"]
        self.register_buffer("x", torch.cat(list(self.features.values()), dim=1), persistent=False)  # [N, F]
        degrees = [np.asarray(self.interactions.sum(axis)).ravel() for axis in (1, 0)]
        of_user, of_item = (torch.from_numpy(degree.astype(np.float32)) for degree in degrees)
        self.register_buffer("user_beta", (of_user + 1).sqrt() / of_user.clamp(min=1), persistent=False)  # [U]
        self.register_buffer("item_beta", (of_item + 1).rsqrt(), persistent=False)  # [N]
        self.projected = config["feature_embedding_size"]
        self.backbone = self._new_backbone()
        self.register_buffer("mask", torch.ones(self.x.shape[1]))  # m
        self.register_buffer("mask_is_learnt", torch.tensor(False))

    def _new_backbone(self) -> Backbone:
        return Backbone(self.n_users, self.n_items, self.x.shape[1], self.width, self.projected)

    # -- training and ranking ----------------------------------------------------------------------------------------

    def beta(self, user: Tensor, item: Tensor) -> Tensor:
        """beta_ui; the shapes of ``user`` and ``item`` broadcast."""
        return self.user_beta[user] * self.item_beta[item]

    def batch_loss(self, backbone: Backbone, x: Tensor, user: Tensor, item: Tensor) -> Tensor:
        """Sum of the loss over a batch of interactions, without the penalties.

        Args:
            x: masked features [N, F].
            user, item: int64 [B].
        """
        drawn = torch.randint(1, self.n_items, (len(user), self.negatives), device=user.device)
        items = torch.cat([item.unsqueeze(1), drawn], dim=1)  # [B, 1 + J]
        scores = (backbone.item_vectors(items, x) @ F.embedding(user, backbone.users).unsqueeze(2)).squeeze(2)
        weight = 1 + self.beta(user.unsqueeze(1), items)
        positive = weight[:, 0] * F.softplus(-scores[:, 0])
        return (positive + (weight[:, 1:] * F.softplus(scores[:, 1:])).mean(1)).sum()

    def norms(self, backbone: Backbone) -> Tensor:
        """Penalties of a backbone."""
        ids = backbone.users.square().sum() + backbone.items.square().sum()
        return self.reg_weight * ids + self.feature_reg * sum(p.square().sum() for p in backbone.project.parameters())

    def calculate_loss(self, interaction) -> Tensor:
        self._cached = None
        loss = self.batch_loss(self.backbone, self.x * self.mask, interaction[self.USER_ID], interaction[self.ITEM_ID])
        return loss + self.norms(self.backbone)

    def representations(self) -> tuple[Tensor, Tensor]:
        items = torch.arange(self.n_items, device=self.x.device)
        return self.backbone.users, self.backbone.item_vectors(items, self.x * self.mask)

    # -- the mask ----------------------------------------------------------------------------------------------------

    def before_epoch(self, epoch: int, resumed: bool = False) -> None:
        if not self.mask_is_learnt:
            self.mask.copy_(self.learn_mask())
            self.mask_is_learnt.fill_(True)

    def learn_mask(self) -> Tensor:
        """Steps 1 and 2; returns m [F]."""
        ends = self.interactions.nonzero()
        user, item = (torch.from_numpy(end.astype(np.int64)).to(self.x.device) for end in ends)  # [E]
        backbone = self._new_backbone().to(self.x.device)
        self._train(backbone, backbone.parameters(), user, item, self.settings["pretrain_epochs"], torch.zeros_like(self.mask))
        environment = torch.randint(self.settings["n_environments"], user.shape, device=user.device)
        mask = torch.zeros_like(self.mask)
        weights = {name: self.settings[name] for name in ("gradient_weight", "mask_weight")}
        for number in range(self.settings["mask_rounds"]):
            environment = self.environments(backbone, user, item, environment, mask)
            mask = self.fit_mask(backbone, user, item, environment, **weights)
            weights = {name: GROWTH * weight for name, weight in weights.items()}
            sizes = environment.bincount(minlength=self.settings["n_environments"]).tolist()
            self.logger.info(f"InvRL, round {number + 1} of the mask: environments of {sizes} interactions, mask from "
                             f"{mask.min():.3f} to {mask.max():.3f}")
        return mask if self.settings["mask_rounds"] else torch.ones_like(mask)

    def _train(
        self, backbone: Backbone, weights: Iterable[nn.Parameter], user: Tensor, item: Tensor, epochs: int, mask: Tensor
    ) -> None:
        """Train ``weights`` of a backbone on the interactions, with all features.

        The penalty environment_l1 * mean |W * m| keeps an environment from reading what ``mask`` [F] keeps.
        """
        weights = list(weights)
        optimizer = torch.optim.Adam(weights, lr=self.learning_rate)
        for _ in range(epochs):
            for rows in torch.randperm(len(user)).to(user.device).split(self.batch_size):
                loss = self.batch_loss(backbone, self.x, user[rows], item[rows]) + self.norms(backbone)
                loss = loss + self.settings["environment_l1"] * (backbone.project.weight * mask).abs().mean()
                for weight, gradient in zip(weights, torch.autograd.grad(loss, weights)):
                    weight.grad = gradient
                optimizer.step()

    def environments(self, backbone: Backbone, user: Tensor, item: Tensor, environment: Tensor, mask: Tensor) -> Tensor:
        """Assign each interaction to the environment whose projection gives it the highest score; int64 [E]."""
        for _ in range(self.settings["environment_updates"]):
            scores = []
            for k in range(self.settings["n_environments"]):
                rows = environment == k
                for weight in backbone.project.parameters():
                    nn.init.normal_(weight, std=INITIAL_STD)
                epochs = self.settings["environment_epochs"]
                self._train(backbone, backbone.project.parameters(), user[rows], item[rows], epochs, mask)
                scores.append(self._scores(backbone, user, item))
            chosen = torch.stack(scores).argmax(0)
            moved = (chosen != environment).float().mean()
            environment = chosen
            if moved <= SETTLED:
                break
        return environment

    @torch.no_grad()
    def _scores(self, backbone: Backbone, user: Tensor, item: Tensor) -> Tensor:
        items = backbone.item_vectors(torch.arange(self.n_items, device=item.device), self.x)
        parts = zip(user.split(self.batch_size), item.split(self.batch_size))
        return torch.cat([(backbone.users[u] * items[i]).sum(1) for u, i in parts])

    def fit_mask(self, backbone: Backbone, user: Tensor, item: Tensor, environment: Tensor, gradient_weight: float,
                 mask_weight: float) -> Tensor:
        """Part (b) of a round; returns m [F]."""
        weight = backbone.project.weight  # W
        nn.init.normal_(weight, std=INITIAL_STD)
        nn.init.zeros_(backbone.project.bias)  # stays zero
        mu = nn.Parameter(torch.zeros_like(self.mask))
        optimizer = torch.optim.Adam([weight, mu], lr=self.learning_rate)
        rows = [found for k in range(self.settings["n_environments"]) if len(found := (environment == k).nonzero()[:, 0])]
        steps = -(-len(user) // (self.batch_size * len(rows)))
        for _ in range(steps * self.settings["mask_epochs"]):
            batches = [part[torch.randperm(len(part))[: self.batch_size].to(part.device)] for part in rows]
            gates = (mu + 0.5 + GATE_NOISE * torch.randn_like(mu)).clamp(0, 1)
            losses = [self.batch_loss(backbone, self.x * gates, user[batch], item[batch]) for batch in batches]
            gradients = torch.stack([torch.autograd.grad(loss, weight, create_graph=True)[0] for loss in losses])  # [K, f, F]
            spread = (gradients - gradients.mean(0)).square().sum(0)  # [f, F]
            loss = torch.stack(losses).mean() + gradient_weight * (spread * (mu + 0.5)).square().sum()
            loss = loss + mask_weight * mu.square().sum()
            weight.grad, mu.grad = torch.autograd.grad(loss, [weight, mu])
            optimizer.step()
        return (mu.detach() + 0.5).clamp(0, 1)
