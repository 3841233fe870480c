"""Groups of similar length, so that nobody pays for padding.

Legend: B samples.
"""
import torch


def length_buckets(lengths: torch.Tensor, budget: int, waste: float = 0.1) -> list[torch.Tensor]:
    """Cut a batch into parts whose samples are nearly equally long.

    Args:
        lengths: int [B], tokens of each sample.
        budget: most tokens of a part, padding included; a single longer sample is a part of its own.
        waste: largest share of padding in a part of at least half the budget.

    Returns:
        Index tensors that together hold every sample once, shorter samples first.
    """
    order = torch.argsort(lengths, stable=True)
    buckets, begin, real = [], 0, 0
    ordered = lengths[order].tolist()
    for end, length in enumerate(ordered):
        padded = length * (end - begin + 1)
        full = padded > budget
        wasteful = padded >= budget / 2 and padded - real - length > waste * padded
        if end > begin and (full or wasteful):
            buckets.append(order[begin:end])
            begin, real = end, 0
        real += length
    if ordered:
        buckets.append(order[begin:])
    return buckets
