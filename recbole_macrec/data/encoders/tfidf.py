"""``tfidf``: TF-IDF of words and word pairs, reduced by truncated SVD (latent semantic analysis).

Shapes: n items, d feature dimensions.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from threadpoolctl import threadpool_limits

from recbole_macrec.data.encoders.base import Kind, RawItem, require_usable, without_text
from recbole_macrec.errors import UserError

_WORD = r"(?u)\w+"


class Tfidf:
    """Up to ``dimensions`` text features, fewer for a small catalogue; no download, deterministic."""

    name = "tfidf"
    kind: Kind = "text"

    def __init__(self, dimensions: int = 128, max_terms: int = 50_000) -> None:
        self.settings = {"dimensions": dimensions, "max_terms": max_terms, "version": 1}
        self.details = {"versions": {"scikit-learn": version("scikit-learn")}}

    def unusable(self, items: Sequence[RawItem]) -> dict[str, str]:
        return self._without_terms(items, self._weights(items)) | without_text(items)

    def _without_terms(self, items: Sequence[RawItem], weights: csr_matrix | None) -> dict[str, str]:
        """Return item token -> reason for the items without ``weights`` [n, terms]."""
        n_terms = np.zeros(len(items)) if weights is None else np.diff(weights.indptr)  # [n]
        return {item.token: self._reason(item) for item, count in zip(items, n_terms) if not count}

    def _reason(self, item: RawItem) -> str:
        """Return why ``item`` has no weights."""
        if re.search(_WORD, item.text):
            return f"no word among the {self.settings['max_terms']:,} most frequent words and word pairs of all texts"
        return "no words in the text"

    def encode(self, items: Sequence[RawItem]) -> np.ndarray:
        """Return float32 [n, d] for the texts of ``items``; raise UserError for items without words."""
        weights = self._weights(items)
        require_usable(self.kind, self._without_terms(items, weights) | without_text(items))
        if weights is None:
            raise UserError("there are no texts with words to encode")
        dimensions = min(self.settings["dimensions"], min(weights.shape) - 1)
        if dimensions < 1:
            return weights.toarray().astype(np.float32)
        with threadpool_limits(1):  # the last bits of the factors depend on the number of threads
            reduced = TruncatedSVD(dimensions, n_iter=7, random_state=0).fit_transform(weights)  # [n, d]
        return reduced.astype(np.float32)

    def _weights(self, items: Sequence[RawItem]) -> csr_matrix | None:
        """Return the TF-IDF weights [n, terms], or None if no item has words."""
        vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=_WORD,
                                     max_features=self.settings["max_terms"], dtype=np.float64)
        try:
            return vectorizer.fit_transform([item.text for item in items])
        except ValueError:  # raised by scikit-learn if no item has words
            return None
