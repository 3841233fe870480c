"""What the semantic-ID room hands to the others: the codes of every item in every modality."""
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from recbole_macrec.errors import UserError


@dataclass(frozen=True)
class SemanticIDs:
    """Semantic IDs of N items in one or more modalities.

    Attributes:
        item_tokens: the N item tokens, as in the atomic files; row i of every array belongs to ``item_tokens[i]``.
        codes: modality -> int64 array [N, L], the IDs after collision resolution; ``codes[m][:, l] < sizes[m][l]``.
        sizes: modality -> the L codebook sizes.
        raw_codes: modality -> int64 array [N, L_raw], the IDs before collision resolution; items whose raw rows are
            equal collide.
        statistics: modality -> plain numbers (collision_rate, usage, perplexity, ...).
    """

    item_tokens: tuple[str, ...]
    codes: dict[str, np.ndarray]
    sizes: dict[str, tuple[int, ...]]
    raw_codes: dict[str, np.ndarray]
    statistics: dict[str, dict] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.codes)

    def fingerprint(self) -> str:
        """A hash of item tokens and codes: equal exactly when every item has the same ID."""
        digest = hashlib.sha256("\n".join(self.item_tokens).encode())
        for modality in self.modalities:
            digest.update(f"\n{modality} {self.sizes[modality]}\n".encode())
            digest.update(np.ascontiguousarray(self.codes[modality], dtype=np.int64).tobytes())
        return digest.hexdigest()[:16]

    def select(self, tokens: Sequence[str]) -> "SemanticIDs":
        """Return the IDs of ``tokens``, in that order.

        Raises:
            UserError: when an item has no ID.
        """
        row = {token: i for i, token in enumerate(self.item_tokens)}
        missing = [token for token in tokens if token not in row]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(tokens)} items have no semantic ID, the first of them {missing[:5]}: "
                "the IDs were made for another catalogue; import or build them again for this one."
            )
        rows = np.array([row[token] for token in tokens], dtype=np.int64)
        return replace(
            self,
            item_tokens=tuple(tokens),
            codes={m: c[rows] for m, c in self.codes.items()},
            raw_codes={m: c[rows] for m, c in self.raw_codes.items()},
        )
