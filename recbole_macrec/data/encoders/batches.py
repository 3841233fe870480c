"""Run a model in batches, and halve the batch size when memory runs out."""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from recbole_macrec.errors import UserError, is_out_of_memory

logger = logging.getLogger(__name__)
_T = TypeVar("_T")


class Batches:
    """Split inputs into batches of at most ``size`` inputs and ``tokens`` tokens, including padding.

    When memory runs out, the limit is halved, with a warning, for this and all later batches.
    """

    def __init__(self, size: int, tokens: int | None = None) -> None:
        self.size, self.tokens = size, tokens

    def run(self, inputs: Sequence[_T], forward: Callable[[Sequence[_T]], torch.Tensor],
            length: Callable[[_T], int] = lambda one_input: 1) -> Iterator[tuple[Sequence[_T], torch.Tensor]]:
        """Yield each batch and its output.

        Args:
            inputs: sorted by length, longest first: every batch is padded to its first input, and memory runs out early or
                never.
            forward: computes the output of a batch.
            length: returns the number of tokens of an input.

        Raises:
            UserError: if there is not enough memory for a batch of one input.
        """
        start = 0
        while start < len(inputs):
            longest = length(inputs[start])
            size = self.size if self.tokens is None else max(1, min(self.size, self.tokens // longest))
            batch = inputs[start : start + size]
            output = _none_if_out_of_memory(forward, batch)
            if output is None:
                self._halve(len(batch), longest)
                continue
            yield batch, output
            start += len(batch)

    def _halve(self, size: int, longest: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if size == 1:
            raise UserError("not enough memory to encode even one text or image at a time; set a lower max_length (text), "
                            "precision: bf16, or choose a smaller model")
        if self.tokens is None or self.size <= self.tokens // longest:
            option, self.size = "batch_size", size // 2
            limit = self.size
        else:
            option, self.tokens = "batch_tokens", size // 2 * longest
            limit = self.tokens
        logger.warning(
            f"Not enough memory for a batch of {size}; continuing with {option}: {limit}. Set this option of the encoder "
            "to avoid the failed attempts."
        )


def _none_if_out_of_memory(forward: Callable[[Sequence[_T]], torch.Tensor], batch: Sequence[_T]) -> torch.Tensor | None:
    """Return ``forward(batch)``, or None if memory runs out: the traceback of an error would keep the batch's tensors alive."""
    try:
        return forward(batch)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return None
        raise
