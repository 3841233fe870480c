"""How many users fit into memory while they are ranked."""
import torch

from recbole_macrec.utils.hardware import free_memory

# float32 numbers per user and item while a batch is ranked and its ranks are read off
SCORES_HELD = {"beam": 4, "certified": 4, "exact": 24}


def rows_that_fit(n_items: int, decode: str, device: torch.device) -> int:
    """Users whose scores of ``n_items`` fill at most a quarter of the memory that is free on ``device``; at least 1."""
    return max(1, free_memory(device) // 4 // (4 * SCORES_HELD[decode] * n_items))
