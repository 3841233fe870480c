"""InvRL: feature dimensions that predict interactions equally well in all environments are kept, others are masked.

Shapes: U users, N items, F width of all features together, d embedding size, f width of projected features, B batch, J
negatives of an interaction, E training interactions, K environments.
"""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_macrec.baselines.pairwise import PairwiseRecommender, linear, xavier_table
from recbole_macrec.config.schema.general import InvRLOptions
from recbole_macrec.utils.distributed import current_group
from recbole_macrec.utils.lookup import pair_scores, rows_of

GATE_NOISE = 0.01  # standard deviation of the noise on the gates of the mask
INITIAL_STD = 0.01  # standard deviation of the initial projection of an environment
GROWTH = 1.05  # of the weights of both penalties of the mask, after each round
COUNTS = ("pretrain_epochs", "mask_rounds", "n_environments", "environment_updates", "environment_steps", "mask_steps",
          "mask_batch_size")
WEIGHTS = ("gradient_weight", "mask_weight", "environment_l1")  # alpha and lambda of the mask; of |W * m| in an environment
SETTLED = 0.01  # share of interactions that may still move when the environments are final
PART_STEPS = 10  # steps of the mask, after which training can pause


class Backbone(nn.Module):
    """UltraGCN (Mao et al., CIKM 2021, arXiv 2110.15114) with item features: user vectors p_u [d + f] and item vectors

        v_i = [q_i ; W (m * x_i) + b],   where W (m * x_i) is computed as (W * m) x_i.

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

    def item_vectors(self, item: Tensor | None, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the vectors [..., d + f] of items [...], for None of all items.

        Args:
            x: features [N, F] of all items.
            mask: m [F]; None keeps all features.
        """
        weight = self.project.weight if mask is None else self.project.weight * mask
        free, own = (self.items, x) if item is None else (rows_of(self.items, item), rows_of(x, item))
        return torch.cat([free, F.linear(own, weight, self.project.bias)], dim=-1)

    def scores(self, user: Tensor, items: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores [B, C] of ``items`` [B, C] for each of the users [B]."""
        users = rows_of(self.users, user)
        if items.numel() < len(x):  # only these items are projected
            return (self.item_vectors(items, x, mask) @ users.unsqueeze(2)).squeeze(2)
        return pair_scores(users, self.item_vectors(None, x, mask), items)


class InvRL(PairwiseRecommender):
    """Du, Wu, Feng, He, Tang, "Invariant Representation Learning for Multimedia Recommendation", ACM MM 2022, DOI
    10.1145/3503161.3548405.

    Before the first epoch the mask m [F] of the features is learnt from the training interactions:

    1. A backbone is trained without mask. Its P and Q are frozen in step 2.
    2. Rounds of two parts. (a) Each interaction is assigned to one of K environments, at first at random. A projection W, b is
       trained in each environment; every interaction moves to the environment that gives it the highest score; and so on, until
       few move. (b) The mask is trained to make the gradients G_k of the environments' losses L_k equal: with the means L and
       G,

           minimise L + alpha |sum_k (G_k - G)^2 * (mu + 1/2)|^2 + lambda |mu|^2,   m = clamp(mu + 1/2, 0, 1);

       L and G are computed with m = clamp(mu + 1/2 + noise, 0, 1). An environment with fewer interactions than a batch counts
       as much as the others.

    Then a new backbone is trained with the masked features, and ranks. With J random negatives of an interaction and
    beta_ui = sqrt(D_u + 1) / D_u / sqrt(D_i + 1), where D are training degrees, the loss of a backbone is

        sum over (u, i) of (1 + beta_ui) bce(s_ui, 1) + mean_j (1 + beta_uj) bce(s_uj, 0)
            + reg_weight (|P|^2 + |Q|^2) + feature_reg_weight (|W|^2 + |b|^2).

    The negative that RecBole draws is not used. The mask, learnt or unfinished, is part of a checkpoint.
    """

    options = InvRLOptions

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.settings = {name: config[name] for name in (*COUNTS, *WEIGHTS)}
        self.batch_size, self.learning_rate = config["train_batch_size"], config["learning_rate"]
        self.mask_learning_rate = config["mask_learning_rate"]
        self.negatives, self.feature_reg = config["n_negatives"], config["feature_reg_weight"]
        degrees = [np.asarray(self.interactions.sum(axis)).ravel() for axis in (1, 0)]
        of_user, of_item = (torch.from_numpy(degree.astype(np.float32)) for degree in degrees)
        self.register_buffer("user_beta", (of_user + 1).sqrt() / of_user.clamp(min=1), persistent=False)  # [U]
        self.register_buffer("item_beta", (of_item + 1).rsqrt(), persistent=False)  # [N]
        self.projected = config["feature_embedding_size"]
        self.backbone = self._new_backbone()
        self.register_buffer("mask", torch.ones(self.x.shape[1]))  # m
        self.register_buffer("mask_is_learnt", torch.tensor(False))
        self.learning: MaskLearning | None = None

    def _new_backbone(self) -> Backbone:
        return Backbone(self.n_users, self.n_items, self.x.shape[1], self.width, self.projected)

    # -- training and ranking ----------------------------------------------------------------------------------------

    def beta(self, user: Tensor, item: Tensor) -> Tensor:
        """beta_ui; the shapes of ``user`` and ``item`` broadcast."""
        return self.user_beta[user] * self.item_beta[item]

    def batch_loss(self, backbone: Backbone, mask: Tensor | None, user: Tensor, item: Tensor) -> Tensor:
        """Sum of the loss over a batch of interactions, without the penalties.

        Args:
            mask: m [F]; None keeps all features.
            user, item: int64 [B].
        """
        drawn = torch.randint(1, self.n_items, (len(user), self.negatives), device=user.device)
        items = torch.cat([item.unsqueeze(1), drawn], dim=1)  # [B, 1 + J]
        scores = backbone.scores(user, items, self.x, mask)
        weight = 1 + self.beta(user.unsqueeze(1), items)
        positive = weight[:, 0] * F.softplus(-scores[:, 0])
        return (positive + (weight[:, 1:] * F.softplus(scores[:, 1:])).mean(1)).sum()

    def norms(self, backbone: Backbone) -> Tensor:
        """Penalties of a backbone."""
        ids = backbone.users.square().sum() + backbone.items.square().sum()
        return self.reg_weight * ids + self.feature_reg * sum(p.square().sum() for p in backbone.project.parameters())

    def calculate_loss(self, interaction) -> Tensor:
        """See the base class. The mean over several processes, each with a part of the batch, is the loss of the batch."""
        self._cached = None
        loss = self.batch_loss(self.backbone, self.mask, interaction[self.USER_ID], interaction[self.ITEM_ID])
        return current_group().size * loss + self.norms(self.backbone)

    def representations(self) -> tuple[Tensor, Tensor]:
        return self.backbone.users, self.backbone.item_vectors(None, self.x, self.mask)

    # -- the mask ----------------------------------------------------------------------------------------------------

    def long_preparation(self) -> Iterator[None]:
        """Steps 1 and 2, which set the mask; training can pause after every part of them.

        Of several processes the first one learns the mask, as they draw different random numbers, and the others receive it.
        """
        if self.mask_is_learnt:
            return
        group = current_group()
        if group.first and self.settings["mask_rounds"]:
            yield from self._learn_mask()
        self.mask.copy_(group.share(self.mask.cpu(), "learns the mask of the features"))
        self.mask_is_learnt.fill_(True)

    def _learn_mask(self) -> Iterator[None]:
        if self.learning is None:
            self.learning = MaskLearning(self._new_backbone().to(self.x.device), torch.zeros_like(self.mask))
        learning, rounds = self.learning, self.settings["mask_rounds"]
        ends = self.interactions.nonzero()
        user, item = (torch.from_numpy(end.astype(np.int64)).to(self.x.device) for end in ends)  # [E]
        if not len(learning.environment):
            yield from self._pretrain(learning, user, item)
            learning.environment = torch.randint(self.settings["n_environments"], user.shape, device=user.device)
        while learning.rounds < rounds:
            yield from self.update_environments(learning, user, item)
            yield from self.fit_mask(learning, user, item)
            learning.rounds, learning.updates, learning.done = learning.rounds + 1, 0, 0
            sizes = learning.environment.bincount(minlength=self.settings["n_environments"]).tolist()
            self.logger.info(f"InvRL, round {learning.rounds} of the mask: environments of {sizes} interactions, mask from "
                             f"{learning.mask.min():.3f} to {learning.mask.max():.3f}")
        self.mask.copy_(learning.mask)
        self.learning = None

    def preparation_state(self) -> dict:
        return self.learning.state() if self.learning else {}

    def load_preparation_state(self, state: dict) -> None:
        backbone = self._new_backbone().to(self.x.device)
        rates = self.learning_rate, self.mask_learning_rate
        self.learning = MaskLearning.from_state(state, backbone, *rates) if state else None

    def _pretrain(self, learning: "MaskLearning", user: Tensor, item: Tensor) -> Iterator[None]:
        """Step 1."""
        backbone, weights = learning.backbone, list(learning.backbone.parameters())
        learning.optimizer = learning.optimizer or torch.optim.Adam(weights, lr=self.learning_rate)
        while learning.done < self.settings["pretrain_epochs"]:
            for rows in shuffled_batches(len(user), self.batch_size, user.device):
                loss = self.batch_loss(backbone, None, user[rows], item[rows]) + self.norms(backbone)
                _step(learning.optimizer, weights, loss)
            learning.done += 1
            yield
        learning.optimizer, learning.done = None, 0

    def _train_environment(self, backbone: Backbone, user: Tensor, item: Tensor, mask: Tensor) -> None:
        """Train a new projection W, b on the interactions of an environment, with all features.

        The penalty environment_l1 * mean |W * m| keeps an environment from reading what ``mask`` [F] keeps.
        """
        weights, steps = list(backbone.project.parameters()), self.settings["environment_steps"]
        for weight in weights:
            nn.init.normal_(weight, std=INITIAL_STD)
        optimizer = torch.optim.Adam(weights, lr=self.mask_learning_rate)
        while steps and len(user):
            for rows in islice(shuffled_batches(len(user), self.settings["mask_batch_size"], user.device), steps):
                loss = self.batch_loss(backbone, None, user[rows], item[rows])
                loss = loss + self.feature_reg * sum(weight.square().sum() for weight in weights)
                loss = loss + self.settings["environment_l1"] * (backbone.project.weight * mask).abs().mean()
                _step(optimizer, weights, loss)
                steps -= 1

    def update_environments(self, learning: "MaskLearning", user: Tensor, item: Tensor) -> Iterator[None]:
        """Part (a) of a round: assign each interaction to the environment whose projection gives it the highest score."""
        backbone, updates = learning.backbone, self.settings["environment_updates"]
        while learning.updates < updates:
            for k in range(len(learning.scores), self.settings["n_environments"]):
                rows = learning.environment == k
                self._train_environment(backbone, user[rows], item[rows], learning.mask)
                learning.scores.append(self._scores(backbone, user, item))
                yield
            chosen = torch.stack(learning.scores).argmax(0)
            moved = (chosen != learning.environment).float().mean()
            learning.environment, learning.scores = chosen, []
            learning.updates = updates if moved <= SETTLED else learning.updates + 1

    @torch.no_grad()
    def _scores(self, backbone: Backbone, user: Tensor, item: Tensor) -> Tensor:
        items = backbone.item_vectors(None, self.x)
        parts = zip(user.split(self.batch_size), item.split(self.batch_size))
        return torch.cat([(backbone.users[u] * items[i]).sum(1) for u, i in parts])

    def fit_mask(self, learning: "MaskLearning", user: Tensor, item: Tensor) -> Iterator[None]:
        """Part (b) of a round."""
        backbone, weight = learning.backbone, learning.backbone.project.weight  # W
        if learning.mu is None or learning.optimizer is None:
            nn.init.normal_(weight, std=INITIAL_STD)
            nn.init.zeros_(backbone.project.bias)  # stays zero
            learning.mu = nn.Parameter(torch.zeros_like(self.mask))
            learning.optimizer = torch.optim.Adam([weight, learning.mu], lr=self.mask_learning_rate)
        mu, optimizer, growth = learning.mu, learning.optimizer, GROWTH**learning.rounds
        gradient_weight, mask_weight = (growth * self.settings[name] for name in ("gradient_weight", "mask_weight"))
        of_environments = [(learning.environment == k).nonzero()[:, 0] for k in range(self.settings["n_environments"])]
        rows = [found for found in of_environments if len(found)]
        size, steps = self.settings["mask_batch_size"], self.settings["mask_steps"]
        while learning.done < steps:
            for _ in range(min(PART_STEPS, steps - learning.done)):
                batches = [part[next(shuffled_batches(len(part), size, part.device))] for part in rows]
                gates = (mu + 0.5 + GATE_NOISE * torch.randn_like(mu)).clamp(0, 1)
                losses = [size / len(batch) * self.batch_loss(backbone, gates, user[batch], item[batch]) for batch in batches]
                # [K, f, F]
                gradients = torch.stack([torch.autograd.grad(loss, weight, create_graph=True)[0] for loss in losses])
                spread = (gradients - gradients.mean(0)).square().sum(0)  # [f, F]
                loss = torch.stack(losses).mean() + self.feature_reg * weight.square().sum()
                loss = loss + gradient_weight * (spread * (mu + 0.5)).square().sum() + mask_weight * mu.square().sum()
                _step(optimizer, [weight, mu], loss)
                learning.done += 1
            yield
        learning.mask = (mu.detach() + 0.5).clamp(0, 1)
        learning.optimizer = learning.mu = None


def shuffled_batches(rows: int, size: int, device: torch.device) -> Iterator[Tensor]:
    """Batches of the row numbers 0, ..., rows - 1 in random order: int64 [size], the last one may be smaller."""
    return iter(torch.randperm(rows).to(device).split(size))


def _step(optimizer: torch.optim.Optimizer, weights: Sequence[Tensor], loss: Tensor) -> None:
    """A step of ``weights`` alone; other weights that the loss depends on are frozen."""
    for weight, gradient in zip(weights, torch.autograd.grad(loss, weights)):
        weight.grad = gradient
    optimizer.step()


@dataclass
class MaskLearning:
    """The mask of an :class:`InvRL` while it is learnt.

    Attributes:
        mask: m [F] of the last round.
        environment: environment of each interaction, int64 [E]; empty in step 1.
        scores: of the interactions [E], in the environments trained so far in the current update.
        mu: [F], during part (b) of a round.
        optimizer: of step 1, or of part (b) of a round.
        rounds, updates: rounds that are finished, and updates of the environments in the current round.
        done: epochs of step 1, or optimizer steps of part (b) of the current round.
    """

    backbone: Backbone
    mask: Tensor
    environment: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    scores: list[Tensor] = field(default_factory=list)
    mu: nn.Parameter | None = None
    optimizer: torch.optim.Optimizer | None = None
    rounds: int = 0
    updates: int = 0
    done: int = 0

    def state(self) -> dict:
        """Tensors and plain values for a checkpoint."""
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        state |= {"backbone": self.backbone.state_dict(), "mu": None if self.mu is None else self.mu.detach()}
        return state | {"optimizer": self.optimizer and self.optimizer.state_dict()}

    @classmethod
    def from_state(cls, state: dict, backbone: Backbone, learning_rate: float, mask_learning_rate: float) -> "MaskLearning":
        """The learning at :meth:`state`; the weights of ``backbone`` are replaced."""
        learning = cls(**{**state, "backbone": backbone, "mu": None, "optimizer": None})
        backbone.load_state_dict(state["backbone"])
        if state["mu"] is not None:
            learning.mu = nn.Parameter(state["mu"])
        if state["optimizer"]:
            if learning.mu is None:
                learning.optimizer = torch.optim.Adam(backbone.parameters(), lr=learning_rate)
            else:
                learning.optimizer = torch.optim.Adam([backbone.project.weight, learning.mu], lr=mask_learning_rate)
            learning.optimizer.load_state_dict(state["optimizer"])
        return learning
