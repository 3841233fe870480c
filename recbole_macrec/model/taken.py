"""Which items each user took, for models that read them as a set.

Legend: B users of a batch, T items of the one with most.
"""
import numpy as np
import torch
from torch import nn


class TakenItems(nn.Module):
    """The items of every user, each once, the latest first.

    Args:
        users, items: int arrays [E], one interaction after the other.
        user_num: users that there are.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, user_num: int):
        super().__init__()
        users, items = users[::-1].astype(np.int64), items[::-1].astype(np.int64)
        _, latest = np.unique(np.stack([users, items]), axis=1, return_index=True)
        kept = np.sort(latest)
        order = kept[np.argsort(users[kept], kind="stable")]
        first = np.append(0, np.cumsum(np.bincount(users[order], minlength=user_num)))
        self.register_buffer("first", torch.from_numpy(first), persistent=False)  # [user_num + 1]
        self.register_buffer("items", torch.from_numpy(items[order]), persistent=False)

    def last(self, users: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Up to ``most`` items of ``users`` [B], the latest first, 0 behind them, int64 [B, T], and how many, int64 [B]."""
        begin = self.first[users]
        length = (self.first[users + 1] - begin).clamp(max=most)
        place = torch.arange(max(1, int(length.max())), device=users.device)
        there = place < length.unsqueeze(1)
        index = (begin.unsqueeze(1) + place).clamp(max=len(self.items) - 1)
        return self.items[index].masked_fill(~there, 0), length

    def every(self, users: torch.Tensor) -> torch.Tensor:
        """All items of ``users``, int64 [B, T], 0 behind them."""
        return self.last(users, len(self.items))[0]


def without_target(items: torch.Tensor, length: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Histories [B, T], of which the first ``length`` [B] count, without ``target`` [B], and what is left of their length."""
    position = torch.arange(items.shape[1], device=items.device)
    keep = (items != target.unsqueeze(1)) & (position < length.unsqueeze(1))
    order = torch.argsort((~keep).to(torch.uint8), dim=1, stable=True)
    return items.masked_fill(~keep, 0).gather(1, order), keep.sum(1)
