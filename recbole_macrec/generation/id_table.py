"""The semantic IDs of all items in one modality.

Shapes: N items including the padding (item 0), N_t trained items, L levels.
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recbole_macrec.generation.decoding.prior import log_shares_of_ids, prior_log_probs
from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.utils.modules import add_derived_buffer


class IDTable(nn.Module):
    """Semantic IDs of a modality by item number, and their trie.

    The table is built from the semantic IDs of the dataset, so checkpoints do not contain it.

    Args:
        codes: int64 [N - 1, L], IDs of items 1 .. N - 1 after collision resolution.
        raw_codes: int64 [N - 1, L_raw], their IDs before collision resolution.
        n_new_items: number of items added after training; they are the last ones.
        counts: int64 [N - 1], number of training interactions of each item, by which items with the same ID divide its
            probability; None if each of them has all of it.

    Attributes:
        codes: int64 [N, L]; row 0 is the padding.
        raw_id: int64 [N], equal for items whose raw IDs are equal; -1 for the padding.
        prior: float32 [N, L], see :func:`prior_log_probs`; None without new items.
        log_shares: float32 [N], see :func:`log_shares_of_ids`; None if all IDs differ, or without ``counts``.
        trie: trie of all items.
        trained: trie of the trained items; the same object as ``trie`` without new items.
        nodes: int64 [N_t + 1, L], the nodes of each trained item in ``trained``; row 0 is the padding.
    """

    codes: torch.Tensor
    raw_id: torch.Tensor
    prior: torch.Tensor | None
    log_shares: torch.Tensor | None
    nodes: torch.Tensor

    def __init__(
        self, codes: np.ndarray, raw_codes: np.ndarray, n_new_items: int = 0, counts: np.ndarray | None = None
    ):
        super().__init__()
        codes = np.ascontiguousarray(codes)
        _, group = np.unique(raw_codes, axis=0, return_inverse=True)
        add_derived_buffer(self, "codes", np.vstack([np.zeros_like(codes[:1]), codes]))
        add_derived_buffer(self, "raw_id", np.append(-1, group.reshape(-1)))
        self.register_buffer("prior", None, persistent=False)
        if n_new_items:
            prior = prior_log_probs(codes, n_new_items)
            add_derived_buffer(self, "prior", np.vstack([prior[:1], prior]))
        self.register_buffer("log_shares", None, persistent=False)
        if counts is not None and (shares := log_shares_of_ids(codes, counts)).any():
            add_derived_buffer(self, "log_shares", np.append(np.float32(0), shares))
        n_trained = len(codes) - n_new_items
        self.trie = self.trie_of(np.arange(1, len(self.codes)))
        self.trained = self.trie_of(np.arange(1, n_trained + 1)) if n_new_items else self.trie
        nodes = torch.stack(self.trained.nodes(torch.arange(1, n_trained + 1)), dim=1)
        add_derived_buffer(self, "nodes", F.pad(nodes, (0, 0, 1, 0)).numpy())

    @property
    def levels(self) -> int:
        """L, the number of codes of an ID."""
        return self.trie.levels

    def trie_of(self, items: np.ndarray) -> Trie:
        """Build the trie of the IDs of ``items`` (sorted item numbers) on the device of the table."""
        prior, shares = (None if table is None else table.cpu().numpy()[items] for table in (self.prior, self.log_shares))
        return Trie(self.codes.cpu().numpy()[items], items, prior, shares).to(self.codes.device)
