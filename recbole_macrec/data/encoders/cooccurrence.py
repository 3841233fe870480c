"""``cooccurrence``: which items the same users take, as factors of their positive pointwise mutual information."""
from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, spmatrix

from recbole_macrec.errors import UserError


class Cooccurrence:
    """Features of up to ``dimensions`` from training interactions; no download, same result every time."""

    name = "cooccurrence"
    kind = "interactions"

    def __init__(self, dimensions: int = 64) -> None:
        self.settings = {"dimensions": dimensions, "version": 1}

    def encode(self, interactions: spmatrix) -> np.ndarray:
        """Return float32 [items, d] for interactions [users, items].

        The factors are those of the truncated singular value decomposition of max(0, log(c_ij c / (c_i c_j))), with
        c_ij the users of both items, c_i the sum over j and c the sum over all (Levy and Goldberg, NeurIPS 2014). Items
        that share no user with another get zeros. UserError when no two items share one.
        """
        # scikit-learn takes a second to import, which only those who encode should pay.
        from sklearn.decomposition import TruncatedSVD

        information = positive_information(interactions)
        if information.nnz == 0:
            raise UserError("encoder cooccurrence finds no user with two items in the training interactions; take another "
                            "encoder, or leave the modality out of modalities")
        dimensions = min(self.settings["dimensions"], information.shape[0] - 1)
        svd = TruncatedSVD(dimensions, algorithm="arpack", random_state=0)
        factors = svd.fit_transform(information)  # [items, d], scaled by the singular values
        factors /= np.sqrt(np.maximum(svd.singular_values_, 1e-12))
        return factors.astype(np.float32)


def positive_information(interactions: spmatrix) -> csr_matrix:
    """Positive pointwise mutual information [items, items] of interactions [users, items]; the diagonal is left out."""
    taken = csr_matrix((interactions != 0).astype(np.float64))
    together = coo_matrix(taken.T @ taken)
    off = together.row != together.col
    row, col, count = together.row[off], together.col[off], together.data[off]
    items = taken.shape[1]
    total = np.bincount(row, count, items)  # [items]
    information = np.log(count * count.sum() / (total[row] * total[col]))
    keep = information > 0
    return csr_matrix((information[keep], (row[keep], col[keep])), shape=(items, items))
