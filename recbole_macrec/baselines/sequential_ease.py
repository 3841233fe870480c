"""SequentialEASE: a linear item-to-item model in closed form that reads the user's history.

Shapes: B users, T items of the longest history, U users and N items of the dataset, both including the padding.
"""
import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix

from recbole_macrec.baselines.dense import DenseRecommender
from recbole_macrec.config.schema.models import SequentialEASEOptions
from recbole_macrec.errors import UserError
from recbole_macrec.utils.hardware import free_memory


class SequentialEASE(DenseRecommender):
    """EASE (Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, arXiv 1905.03375) as a sequential model.

    As in EASE, the weights W [N, N] reconstruct the training interactions X [U, N], which are 0 or 1,

        min |X - X W|^2 + reg_weight |W|^2  with  diag(W) = 0,
        W_ij = -P_ij / P_jj  for  i != j,  with  P = (X^T X + reg_weight I)^-1.

    A user with the history i_1, ..., i_T gives item j the score

        s_j = sum over t of decay^(T - t) W_{i_t, j}.

    RecBole's EASE is a general model: it ranks by the training interactions of the user, so in a leave-one-out test it does not
    read the validation item, which sequential models read. With ``decay: 1`` this is the only difference in the scores, for
    histories up to ``MAX_ITEM_LIST_LENGTH`` without repeated items, which count as often as they occur here and once there.

    The weights take 4 N^2 bytes, and computing them 16 N^2 bytes more: 1.8 and 7 GB for 21,000 items.

    Raises:
        UserError: if there is not enough memory for them.
    """

    options = SequentialEASEOptions

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.reg_weight, self.decay = config["reg_weight"], config["decay"]
        _check_memory("The weights", 4 * self.n_items**2, torch.device("cpu"), self.n_items)
        self.register_buffer("weights", torch.zeros(self.n_items, self.n_items))
        self.unused = torch.nn.Parameter(torch.zeros(1))  # RecBole's trainer creates an optimizer

    def solve(self, interactions: csr_matrix) -> None:
        """Compute the weights.

        Args:
            interactions: [U, N]; every value that is not 0 counts as one interaction.

        Raises:
            UserError: if there is not enough memory.
        """
        _check_memory("The computations", 16 * self.n_items**2, self.device, self.n_items)
        seen = csr_matrix(interactions, dtype=np.float64, copy=True)
        seen.data[:] = 1
        gram = torch.from_numpy((seen.T @ seen).toarray()).to(self.device)
        gram.diagonal().add_(self.reg_weight)
        factor = torch.linalg.cholesky(gram)
        del gram  # not three matrices of this size at once
        inverse = torch.cholesky_inverse(factor)
        self.weights.copy_(inverse.div_(-inverse.diagonal().clone()).fill_diagonal_(0))

    @torch.no_grad()
    def full_sort_predict(self, interaction) -> torch.Tensor:
        """Scores of all items [B, N], -inf for the padding."""
        items, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        age = length[:, None] - 1 - torch.arange(items.shape[1], device=items.device)
        decay = torch.where(age >= 0, self.decay ** age.clamp(min=0).float(), 0.0)
        scores = F.embedding_bag(items, self.weights, mode="sum", per_sample_weights=decay)
        scores[:, 0] = -torch.inf
        return scores


def _check_memory(purpose: str, needed: int, device: torch.device, n_items: int) -> None:
    if needed > (free := free_memory(device)):
        raise UserError(
            f"{purpose} of SequentialEASE for {n_items - 1:,} items need {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are "
            "free; leave the model out, or use a machine with more memory."
        )
