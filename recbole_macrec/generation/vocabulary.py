"""Token numbers: one table of the codes of all modalities and levels, start tokens and task prompts.

Shapes: M modalities, L levels, K codes of a level, P prompt tokens.
"""
from collections.abc import Mapping, Sequence

import torch


class Vocabulary:
    """Token numbers in this order: padding, a start token per modality, prompts, codes by modality and level.

    Example: two modalities of two levels with 4 codes each and no prompts. 0 is the padding, 1 and 2 are the start tokens,
    3 to 6 the first level of the first modality, 7 to 10 its second level, 11 to 14 the first level of the second modality.

    Args:
        sizes: modality -> codebook size of each level.
        prompts: names of the task prompts.
        prompt_length: P, learnt tokens of a prompt.
    """

    def __init__(self, sizes: Mapping[str, Sequence[int]], prompts: Sequence[str] = (), prompt_length: int = 0):
        self.sizes = {m: tuple(int(k) for k in levels) for m, levels in sizes.items()}
        self.start = {m: 1 + i for i, m in enumerate(self.sizes)}
        free = 1 + len(self.sizes)
        self.prompts: dict[str, range] = {}
        for name in prompts:
            self.prompts[name] = range(free, free + prompt_length)
            free += prompt_length
        self.offsets: dict[str, tuple[int, ...]] = {}
        for modality, levels in self.sizes.items():
            offsets = []
            for k in levels:
                offsets.append(free)
                free += k
            self.offsets[modality] = tuple(offsets)
        self.size = free

    def __len__(self) -> int:
        return self.size

    def tokens(self, modality: str, codes: torch.Tensor) -> torch.Tensor:
        """Tokens [..., L] of codes [..., L]."""
        return codes + torch.tensor(self.offsets[modality], device=codes.device)
