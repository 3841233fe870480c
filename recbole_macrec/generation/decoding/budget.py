"""Number of users whose rankings fit into memory."""
import torch

from recbole_macrec.utils.hardware import free_memory

# float32 numbers per user and item that ranking and evaluating a batch need
NUMBERS_PER_SCORE = {"beam": 4, "certified": 4, "exact": 24}


def max_users_in_memory(n_items: int, decode: str, device: torch.device) -> int:
    """Number of users whose scores of ``n_items`` need at most a quarter of the free memory of ``device``; at least 1."""
    return max(1, free_memory(device) // 4 // (4 * NUMBERS_PER_SCORE[decode] * n_items))
