"""Base class of the general recommenders: an item's score is an inner product, and training ranks item pairs (BPR).

Shapes: U users, N items (both including the padding, number 0), F_m width of the features of modality m, D width of a
representation, B batch.
"""
import hashlib
from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import chain
from operator import add

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from recbole_macrec.config.validation import check_texts, check_whole
from recbole_macrec.data.features import format_items
from recbole_macrec.errors import UserError
from recbole_macrec.model.item_features import FeatureDataset
from recbole_macrec.model.registered import RegisteredModel
from recbole_macrec.semantic_ids.rows import standardized
from recbole_macrec.utils.lookup import rows_of
from recbole_macrec.utils.modules import add_derived_buffer

SLOPE = 0.01  # negative slope of LeakyReLU


class PairwiseRecommender(RegisteredModel, GeneralRecommender):
    """A general recommender of RecBole with item features.

    A subclass computes :meth:`representations`; the score of user u and item i is the inner product of their
    representations. The loss is

        L = mean over (u, i, j) of softplus(-(s_ui - s_uj)) + reg_weight * penalty,

    where j is an item without training interaction with u, drawn by RecBole.

    In evaluation the representations are computed once, and again only after the parameters have changed.

    Attributes:
        interactions: float32 [U, N] in CSR form, 1 where a user has a training interaction with an item.
        x: float32 [N, F], the features of all modalities side by side, scaled as the option ``feature_scaling`` says, row 0
            zero; F = 0 if the model reads none.
    """

    input_type = InputType.PAIRWISE
    dataset_class = FeatureDataset
    eval_precision = "fp32"

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.config = config
        self.width = config["embedding_size"]
        self.reg_weight = config["reg_weight"]
        self.last_rankings: dict = {}
        self.interactions = csr_matrix(dataset.training_interactions(), dtype=np.float32, copy=True)
        self.interactions.data[:] = 1
        self.user_tokens, self.item_tokens = (dataset.field2id_token[field].tolist() for field in (self.USER_ID, self.ITEM_ID))
        self.modalities = list(dataset.item_features) if self.reads_features(config) else []
        matrices = [scaled(dataset.item_features[modality], config["feature_scaling"]) for modality in self.modalities]
        self._widths = [matrix.shape[1] for matrix in matrices]
        x = np.concatenate([np.zeros((self.n_items, 0), np.float32), *matrices], axis=1)
        add_derived_buffer(self, "x", x)
        self._fingerprint = self._fingerprint_of_data()
        self._cached: tuple[list, tuple[Tensor, Tensor]] | None = None

    @property
    def features(self) -> dict[str, Tensor]:
        """Modality -> its columns of :attr:`x`, [N, F_m]."""
        return dict(zip(self.modalities, self.x.split(self._widths, dim=1)))

    # -- options -----------------------------------------------------------------------------------------------------

    @classmethod
    def reads_features(cls, config) -> bool:
        return True

    @classmethod
    def check_values(cls, config: dict) -> None:
        sampled = config["train_neg_sample_args"]
        if not isinstance(sampled, dict) or sampled.get("distribution") == "none":
            raise UserError(
                f"train_neg_sample_args is {sampled!r}, but {cls.__name__} compares every item with a sampled one; leave it "
                "out, or set a distribution, such as {distribution: uniform}."
            )

    # -- checks of a loaded checkpoint -------------------------------------------------------------------------------

    def _fingerprint_of_data(self) -> dict[str, str]:
        digest = {name: hashlib.sha256("\n".join(tokens).encode())
                  for name, tokens in (("users", self.user_tokens), ("items", self.item_tokens))}
        digest["interactions"] = hashlib.sha256(self.interactions.indptr.astype(np.int64).tobytes())
        digest["interactions"].update(self.interactions.indices.astype(np.int64).tobytes())
        digest["features"] = hashlib.sha256()
        for modality, matrix in self.features.items():
            digest["features"].update(modality.encode() + matrix.numpy().tobytes())
        return {name: value.hexdigest()[:16] for name, value in digest.items()}

    def other_parameter(self) -> dict:
        return self._fingerprint

    def load_other_parameter(self, para: dict | None) -> None:
        theirs = para or {}
        for name, value in self._fingerprint.items():
            if theirs.get(name) != value:
                raise UserError(
                    f"The checkpoint of {type(self).__name__} was trained on other {name} than this run has; use the "
                    "dataset files, features, eval_args and seed it was trained with."
                )

    # -- training ----------------------------------------------------------------------------------------------------

    def representations(self) -> tuple[Tensor, Tensor]:
        """Representations of all users [U, D] and of all items [N, D], with gradients."""
        raise NotImplementedError

    def penalty(self, user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Regularisation term of a batch of users and items, int64 [B] each, before the factor ``reg_weight``."""
        raise NotImplementedError

    def calculate_loss(self, interaction) -> Tensor:
        self._cached = None
        user, positive, negative = (interaction[f] for f in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        users, items = self.representations()
        u, i, j = rows_of(users, user), rows_of(items, positive), rows_of(items, negative)
        return bpr((u * i).sum(1), (u * j).sum(1)) + self.reg_weight * self.penalty(user, positive, negative)

    # -- ranking -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def final_representations(self) -> tuple[Tensor, Tensor]:
        """:meth:`representations` for ranking; computed again only if a parameter or buffer has changed."""
        state = [(id(tensor), tensor._version) for tensor in chain(self.parameters(), self.buffers())] + [self.training]
        if self._cached is None or self._cached[0] != state:
            self._cached = state, self.representations()
        return self._cached[1]

    @torch.no_grad()
    def full_sort_predict(self, interaction) -> Tensor:
        """Scores of all items [B, N]; -inf for the padding."""
        users, items = self.final_representations()
        scores = users[interaction[self.USER_ID]] @ items.T
        scores[:, 0] = -torch.inf
        return scores

    @torch.no_grad()
    def predict(self, interaction) -> Tensor:
        """Score of one item per sample [B], as in :meth:`full_sort_predict`."""
        users, items = self.final_representations()
        item = interaction[self.ITEM_ID]
        scores = (users[interaction[self.USER_ID]] * items[item]).sum(1)
        return scores.masked_fill(item == 0, -torch.inf)

    def recommend(self, users: Iterable[str], k: int = 10, exclude_seen: bool = True, batch_size: int = 1024) -> pd.DataFrame:
        """Recommend ``k`` items for users of the training data.

        Args:
            users: user tokens.
            exclude_seen: do not recommend items of the user's training interactions.
            batch_size: users ranked together. Does not change the result.

        Returns:
            One row per recommendation: ``user``, ``item`` (tokens), ``rank`` from 1, ``score``; users in the given order.

        Raises:
            UserError: for unknown users, users that are no list of str, and a ``k`` below 1.
        """
        check_whole(1, k=k, batch_size=batch_size)
        if isinstance(users, str) or not isinstance(users, Iterable):
            raise UserError(f"users is {users!r}; give a list of user tokens.")
        users = list(users)
        check_texts(users, "users contains")
        numbers = self._user_numbers(users)
        was_training = self.training
        self.eval()
        try:
            parts = [self._best(numbers[begin : begin + batch_size], k, exclude_seen)
                     for begin in range(0, len(numbers), batch_size)]
        finally:
            self.train(was_training)
        row, rank, item, score = (np.concatenate([part[c] for part in parts] or [np.zeros(0, int)]) for c in range(4))
        row = row + np.repeat(np.arange(len(parts)) * batch_size, [len(part[0]) for part in parts])
        tokens = np.array(self.item_tokens, dtype=object)
        return pd.DataFrame({"user": np.array(users, dtype=object)[row], "item": tokens[item], "rank": rank, "score": score})

    def _user_numbers(self, users: Sequence[str]) -> Tensor:
        numbers = {token: number for number, token in enumerate(self.user_tokens) if number}
        if unknown := [user for user in users if user not in numbers]:
            raise UserError(
                f"{format_items(unknown, 'user')} did not occur in the training of {type(self).__name__}, which ranks only "
                "for its users."
            )
        return torch.tensor([numbers[user] for user in users], dtype=torch.long)

    def _best(self, users: Tensor, k: int, exclude_seen: bool) -> tuple[np.ndarray, ...]:
        """The best items of a batch of users: row, rank, item and score of each recommendation."""
        scores = self.full_sort_predict({self.USER_ID: users.to(self.device)})
        if exclude_seen:
            row, item = (torch.from_numpy(ends.astype(np.int64)) for ends in self.interactions[users.numpy()].nonzero())
            scores[row.to(self.device), item.to(self.device)] = -torch.inf
        best = scores.topk(min(k, self.n_items))
        row, column = best.values.isfinite().nonzero(as_tuple=True)
        found = (row, column + 1, best.indices[row, column], best.values[row, column])
        return tuple(values.cpu().numpy() for values in found)


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """BPR loss of scores [B] each (Rendle et al., UAI 2009, arXiv 1205.2618)."""
    return F.softplus(negative - positive).mean()


def half_squared_norm(*rows: Tensor) -> Tensor:
    """Half the squared norm of all ``rows``, [B, D] each, divided by B."""
    return reduce(add, (x.square().sum() for x in rows)) / (2 * len(rows[0]))


def xavier_table(rows: int, width: int) -> nn.Parameter:
    """A trained table [rows, width] with Xavier-uniform initial values."""
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, width)))


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear layer with Xavier-uniform initial weights and a bias of zero."""
    layer = nn.Linear(inputs, outputs, bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def unit_rows(x: Tensor) -> Tensor:
    """Rows [..., D] divided by their norms. Rows of zeros stay zero, with gradient 0; that of ``F.normalize`` is 1e12."""
    return torch.where(x.any(-1, keepdim=True), F.normalize(x, dim=-1), 0)


def scaled(features: np.ndarray, scaling: str) -> np.ndarray:
    """Features [N, F] with rows of norm 1 (``rows``) or columns of mean 0 and deviation 1 (``columns``); row 0 stays zero."""
    features = features.astype(np.float32, copy=True)
    if scaling == "rows":
        return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    features[1:] = standardized(features[1:])
    return features
