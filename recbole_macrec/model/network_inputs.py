"""What the network reads: items as the tokens of their codes, after a prompt and a start token.

Shapes: B users, L levels of an ID, P tokens before the first item.
"""
from collections.abc import Sequence
from typing import NamedTuple

import torch

from recbole_macrec.generation.id_table import IDTable
from recbole_macrec.generation.network.windows import Target
from recbole_macrec.generation.vocabulary import Vocabulary
from recbole_macrec.model.tasks import SourceTasks, joined_rows
from recbole_macrec.utils.modules import ModuleDict


class PassInputs(NamedTuple):
    """Input of one pass. For several sources there are B' = B * sources rows, those of a user next to each other."""

    front: torch.Tensor  # int64 [P], of several sources [B', P], tokens before the first item
    source: torch.Tensor  # int64 [B', ...], tokens of the source
    targets: list[Target]


def prompt_name(kind: str, source: str, target: str = "") -> str:
    """Name of the prompt of the ``sequence`` or ``item`` tasks of a source, or of a single task."""
    return f"{kind}:{source}:{target}" if target else f"{kind}:{source}"


class NetworkInputs:
    """Writes items as tokens.

    Args:
        vocabulary: contains the prompts of :func:`prompt_name`, or none.
        tables: name -> the IDs of all items.
        decoder_only: whether the network is decoder-only and reads a start token.
        prompt_per_task: whether a prompt names source and target of a task, not only the source.
    """

    def __init__(self, vocabulary: Vocabulary, tables: "ModuleDict[IDTable]", decoder_only: bool, prompt_per_task: bool):
        self.vocabulary, self.tables = vocabulary, tables
        self.decoder_only, self.prompt_per_task = decoder_only, prompt_per_task

    def tokens(self, modality: str, items: torch.Tensor) -> torch.Tensor:
        """Tokens [..., L] of the codes of items [...]."""
        return self.vocabulary.tokens(modality, self.tables[modality].codes[items])

    def leading_tokens(self, kind: str, source: str, targets: Sequence[str], device: torch.device) -> torch.Tensor:
        """Tokens before the first item: the prompt, and for a decoder-only network the start token; int64 [P].

        A decoder-only network needs no prompt in sequence tasks, as the start token names the modality.

        Args:
            kind: ``sequence`` or ``item``.
            targets: of the pass; empty where an item is only encoded.
        """
        target = (targets[0] if targets else source) if self.prompt_per_task else ""
        prompt = list(self.vocabulary.prompts.get(prompt_name(kind, source, target), ()))
        if self.decoder_only:
            prompt = [*(prompt if kind == "item" else []), self.vocabulary.start[source]]
        return torch.tensor(prompt, dtype=torch.long, device=device)

    def pass_inputs(self, kind: str, sources: Sequence[SourceTasks], items: torch.Tensor) -> PassInputs:
        """Input of the pass for the ``sequence`` or ``item`` tasks of ``sources`` on ``items`` [B, ...]."""
        fronts = [self.leading_tokens(kind, source, targets, items.device) for source, targets in sources]
        source = joined_rows([self.tokens(source, items) for source, _ in sources])
        own, targets = sources[0].source, []
        for names in zip(*(of_source for _, of_source in sources)):
            tokens = joined_rows([self.tokens(m, items) for m in names])
            targets.append(Target(tokens, self.vocabulary.start[names[0]], names[0] == own))
        front = fronts[0] if len(sources) == 1 else joined_rows([f.expand(len(items), -1) for f in fronts])
        return PassInputs(front, source, targets)
