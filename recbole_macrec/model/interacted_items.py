"""The items that users interacted with, for models that read a user's items as a set.

Shapes: E interactions, B users, T items of the longest history.
"""
import numpy as np
import torch
from torch import nn

from recbole_macrec.utils.modules import add_derived_buffer


class InteractedItems(nn.Module):
    """The distinct items of every user, latest first.

    Args:
        users, items: int arrays [E], the interactions from oldest to newest.
        user_num: number of users, including the padding.
    """

    first: torch.Tensor
    items: torch.Tensor

    def __init__(self, users: np.ndarray, items: np.ndarray, user_num: int):
        super().__init__()
        users, items = users[::-1].astype(np.int64), items[::-1].astype(np.int64)
        _, latest = np.unique(np.stack([users, items]), axis=1, return_index=True)
        kept = np.sort(latest)
        order = kept[np.argsort(users[kept], kind="stable")]
        first = np.append(0, np.cumsum(np.bincount(users[order], minlength=user_num)))
        add_derived_buffer(self, "first", first)  # [user_num + 1]
        add_derived_buffer(self, "items", items[order])

    @classmethod
    def of(cls, dataset) -> "InteractedItems":
        """The items of a part of a dataset, in order of time if the interactions have times."""
        rows = dataset.inter_feat.interaction
        users, items = rows[dataset.uid_field].numpy(), rows[dataset.iid_field].numpy()
        if dataset.time_field in rows:
            order = np.argsort(rows[dataset.time_field].numpy(), kind="stable")
            users, items = users[order], items[order]
        return cls(users, items, dataset.user_num)

    def last(self, users: torch.Tensor, max_items: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Up to ``max_items`` items of ``users`` [B], latest first, padded with 0: int64 [B, T], and their number int64 [B]."""
        begin, length = self.first[users], self.count(users).clamp(max=max_items)
        place = torch.arange(max(1, int(length.max())), device=users.device)
        exists = place < length.unsqueeze(1)
        index = (begin.unsqueeze(1) + place).clamp(max=len(self.items) - 1)
        return self.items[index].masked_fill(~exists, 0), length

    def count(self, users: torch.Tensor) -> torch.Tensor:
        """Number of items of ``users`` [B], int64 [B]."""
        return self.first[users + 1] - self.first[users]

    def longest(self, users: torch.Tensor) -> int:
        """The largest number of items of any of ``users`` [B], at least 1."""
        return max(1, int(self.count(users).max()))


def without_target(items: torch.Tensor, length: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Remove ``target`` [B] from histories [B, T] of ``length`` [B] items; returns the histories and their new lengths."""
    position = torch.arange(items.shape[1], device=items.device)
    keep = (items != target.unsqueeze(1)) & (position < length.unsqueeze(1))
    order = torch.argsort((~keep).to(torch.uint8), dim=1, stable=True)
    return items.masked_fill(~keep, 0).gather(1, order), keep.sum(1)
