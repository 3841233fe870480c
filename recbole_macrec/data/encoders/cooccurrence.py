"""``cooccurrence``: which items the same users take, as factors of their positive pointwise mutual information."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix

from recbole_macrec.data.encoders.base import RawItem
from recbole_macrec.errors import UserError


class Cooccurrence:
    """Features of up to ``dimensions`` from training interactions; no download, same result every time."""

    name = "cooccurrence"
    kind = "interactions"
    details: dict = {}

    def __init__(self, dimensions: int = 64) -> None:
        self.settings = {"dimensions": dimensions, "version": 1}

    def unusable(self, items: Sequence[RawItem]) -> dict[str, str]:
        return {}

    def encode(self, items: Sequence[RawItem]) -> np.ndarray:
        """Return float32 [len(items), d].

        The factors are those of the truncated singular value decomposition of max(0, log(c_ij c / (c_i c_j))), with
        c_ij the users of both items, c_i the sum over j and c the sum over all (Levy and Goldberg, NeurIPS 2014). Items
        that share no user with another get zeros. UserError when no two items share one.
        """
        # scikit-learn takes a second to import, which only those who encode should pay.
        from sklearn.decomposition import TruncatedSVD

        information = positive_information(interactions(items))
        if information.nnz == 0:
            raise UserError("encoder cooccurrence finds no user with two items in the training interactions; take another "
                            "encoder, or leave the modality out of modalities")
        dimensions = min(self.settings["dimensions"], information.shape[0] - 1)
        svd = TruncatedSVD(dimensions, algorithm="arpack", random_state=0)
        factors = svd.fit_transform(information)  # [items, d], scaled by the singular values
        factors /= np.sqrt(np.maximum(svd.singular_values_, 1e-12))
        return factors.astype(np.float32)


def interactions(items: Sequence[RawItem]) -> csr_matrix:
    """Which users (columns) took which items (rows), each once; [items, users]."""
    taken = [np.unique(item.users) for item in items]
    users = np.concatenate(taken)
    starts = np.concatenate([[0], np.cumsum([len(one) for one in taken])])
    return csr_matrix((np.ones(len(users)), users, starts), shape=(len(items), int(users.max(initial=-1)) + 1))


def positive_information(taken: csr_matrix) -> csr_matrix:
    """Positive pointwise mutual information [items, items] of interactions [items, users]; the diagonal is left out."""
    together = coo_matrix(taken @ taken.T)
    off = together.row != together.col
    row, col, count = together.row[off], together.col[off], together.data[off]
    items = taken.shape[0]
    total = np.bincount(row, count, items)  # [items]
    information = np.log(count * count.sum() / (total[row] * total[col]))
    keep = information > 0
    return csr_matrix((information[keep], (row[keep], col[keep])), shape=(items, items))
