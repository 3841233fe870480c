"""The interface between a search over a trie and the network that scores the codes.

Shapes: B users, G prefixes of a user, K codes of a level.
"""
from typing import Any, Protocol, TypeVar

import torch

from recbole_macrec.generation.decoding.trie import Trie


class EncodedHistories(Protocol):
    """The histories of B users as a network has encoded them."""

    @property
    def users(self) -> int: ...

    @property
    def device(self) -> torch.device: ...


Encoded = TypeVar("Encoded", bound=EncodedHistories, contravariant=True)


class Decoder(Protocol[Encoded]):
    """Scores the codes that may follow prefixes of a trie.

    A search only hands on what :meth:`read` and :meth:`step` return for later steps, and selects prefixes with
    ``past.extended``.
    """

    trie: Trie

    def empty_past(self) -> Any:
        """The state before the first level; its method ``extended`` is that of :class:`Past`."""

    def read(self, memory: Encoded) -> Any:
        """Compute the part of the histories that every step reads."""

    def step(self, level: int, nodes: torch.Tensor, source: Any, past: Any) -> tuple[torch.Tensor, Any]:
        """log P(code | prefix, history), float32 [B, G, K], after prefixes, nodes [B, G] of level - 1; and what ``extended``
        needs."""
        ...
