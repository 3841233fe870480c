"""``tfidf``: TF-IDF of words and word pairs, reduced by truncated SVD (latent semantic analysis)."""
from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
from scipy.sparse import csr_matrix

from recbole_macrec.data.encoders.base import RawItem, require_usable, without_text


class Tfidf:
    """Text features of up to ``dimensions``, fewer when the catalogue is small; no download, same result every time."""

    name = "tfidf"
    kind = "text"

    def __init__(self, dimensions: int = 128, max_terms: int = 50_000) -> None:
        self.settings = {"dimensions": dimensions, "max_terms": max_terms, "version": 1}
        self.details = {"versions": {"scikit-learn": version("scikit-learn")}}

    def unusable(self, items: Sequence[RawItem]) -> dict[str, str]:
        weights = self._weights(items)
        silent = {item.token: "no words in the text" for i, item in enumerate(items) if weights is None or weights[i].nnz == 0}
        return silent | without_text(items)

    def encode(self, items: Sequence[RawItem]) -> np.ndarray:
        """Return float32 [n, d] for the texts of ``items``; raise UserError for items without a word."""
        # scikit-learn takes a second to import, which only those who encode should pay.
        from sklearn.decomposition import TruncatedSVD

        require_usable(self.kind, self.unusable(items))
        weights = self._weights(items)
        dimensions = min(self.settings["dimensions"], min(weights.shape) - 1)
        if dimensions < 1:
            return weights.toarray().astype(np.float32)
        reduced = TruncatedSVD(dimensions, n_iter=7, random_state=0).fit_transform(weights)  # [n, d]
        return reduced.astype(np.float32)

    def _weights(self, items: Sequence[RawItem]) -> csr_matrix | None:
        """Return the TF-IDF weights [n, terms], None where no item has a word."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"(?u)\w+",
                                max_features=self.settings["max_terms"], dtype=np.float64)
        try:
            return words.fit_transform([item.text for item in items])
        except ValueError:  # scikit-learn's word for "no item has a word"
            return None
