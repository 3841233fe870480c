"""Batches that get smaller when memory runs out."""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from recbole_macrec.errors import UserError

logger = logging.getLogger(__name__)
_T = TypeVar("_T")


class Batches:
    """Cuts work into batches of at most ``size`` members and, padding counted, ``tokens`` tokens.

    When memory runs out the batch is halved, with a warning, and later ones stay as small.
    """

    def __init__(self, size: int, tokens: int | None = None) -> None:
        self.size, self.tokens = size, tokens

    def run(self, members: Sequence[_T], forward: Callable[[Sequence[_T]], torch.Tensor],
            length: Callable[[_T], int] = lambda member: 1) -> Iterator[tuple[Sequence[_T], torch.Tensor]]:
        """Yield each batch and what ``forward`` makes of it.

        Args:
            members: the longest first, so that every batch is padded to its first member and memory runs out early or never.

        Raises:
            UserError: when memory does not even do for one member.
        """
        begin = 0
        while begin < len(members):
            longest = length(members[begin])
            size = self.size if self.tokens is None else max(1, min(self.size, self.tokens // longest))
            batch = members[begin : begin + size]
            result = _unless_out_of_memory(forward, batch)
            if result is None:
                self._halve(len(batch), longest)
                continue
            yield batch, result
            begin += len(batch)

    def _halve(self, size: int, longest: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if size == 1:
            raise UserError("not enough memory to encode even one text or image at a time; set a lower max_length (text), "
                            "precision: bf16, or choose a smaller model")
        if self.tokens is None or self.size <= self.tokens // longest:
            option, self.size = "batch_size", size // 2
            now = self.size
        else:
            option, self.tokens = "batch_tokens", size // 2 * longest
            now = self.tokens
        logger.warning(f"Not enough memory for a batch of {size}: going on with {option}: {now}. Set that option of the encoder "
                       "to begin there.")


def _unless_out_of_memory(forward: Callable[[Sequence[_T]], torch.Tensor], batch: Sequence[_T]) -> torch.Tensor | None:
    """Return None in place of the error, whose traceback would keep the batch's tensors alive."""
    try:
        return forward(batch)
    except (RuntimeError, MemoryError) as error:
        said = str(error).lower()
        if isinstance(error, MemoryError) or "out of memory" in said or "allocate memory" in said or "enough memory" in said:
            return None
        raise
