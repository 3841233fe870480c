"""``cooccurrence``: features from items with common users, by factorising positive pointwise mutual information.

Shapes: N items, U users, d feature dimensions.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from sklearn.decomposition import TruncatedSVD
from threadpoolctl import threadpool_limits

from recbole_macrec.data.encoders.base import Kind, RawItem
from recbole_macrec.errors import UserError


class Cooccurrence:
    """Up to ``dimensions`` features from training interactions; no download, deterministic."""

    name = "cooccurrence"
    kind: Kind = "interactions"
    details: dict = {}

    def __init__(self, dimensions: int = 64) -> None:
        self.settings = {"dimensions": dimensions, "version": 1}

    def unusable(self, items: Sequence[RawItem]) -> dict[str, str]:
        return {}

    def encode(self, items: Sequence[RawItem]) -> np.ndarray:
        """Return float32 [N, d]; items without common users get zeros.

        The features are the factors of the truncated singular value decomposition of max(0, log(c_ij c / (c_i c_j))): c_ij is
        the number of users of both items, c_i the sum over j, and c the sum over all (Levy and Goldberg, NeurIPS 2014).

        Raises:
            UserError: if no two items have a common user.
        """
        information = positive_information(interactions(items))
        if information.nnz == 0:
            raise UserError("encoder cooccurrence finds no user with two items in the training interactions; choose another "
                            "encoder, or leave the modality out of modalities")
        dimensions = min(self.settings["dimensions"], information.shape[0] - 1)
        svd = TruncatedSVD(dimensions, algorithm="arpack", random_state=0)
        with threadpool_limits(1):  # the last bits of the factors depend on the number of threads
            factors = svd.fit_transform(information)  # [N, d], scaled by the singular values
        factors /= np.sqrt(np.maximum(svd.singular_values_, 1e-12))
        return factors.astype(np.float32)


def interactions(items: Sequence[RawItem]) -> csr_matrix:
    """Return the binary item-user matrix [N, U] of the interactions."""
    users_of = [np.unique(item.users) for item in items]
    users = np.concatenate(users_of)
    starts = np.concatenate([[0], np.cumsum([len(users) for users in users_of])])
    return csr_matrix((np.ones(len(users)), users, starts), shape=(len(items), int(users.max(initial=-1)) + 1))


def positive_information(item_users: csr_matrix) -> csr_matrix:
    """Return the positive pointwise mutual information [N, N] of an item-user matrix [N, U]; its diagonal is zero."""
    counts = coo_matrix(item_users @ item_users.T)  # [N, N]: number of common users
    off_diagonal = counts.row != counts.col
    row, col, count = counts.row[off_diagonal], counts.col[off_diagonal], counts.data[off_diagonal]
    items = item_users.shape[0]
    total = np.bincount(row, count, items)  # [N]
    information = np.log(count * count.sum() / (total[row] * total[col]))
    keep = information > 0
    return csr_matrix((information[keep], (row[keep], col[keep])), shape=(items, items))
