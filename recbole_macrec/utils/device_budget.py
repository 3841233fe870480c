"""Amounts of work that a device processes at once."""
from dataclasses import dataclass, replace

import torch

from recbole_macrec.utils.hardware import free_memory

FREE_SHARE = 4  # a computation may use a quarter of the free memory; the rest is for its intermediate results
FLOAT_BYTES = 4  # float32


@dataclass(frozen=True)
class DeviceBudget:
    """Amounts of work that a device processes at once.

    They determine speed and memory. Results depend on them only by rounding. :meth:`of` chooses them for a device.

    Attributes:
        pass_positions: positions of a forward pass in training and ranking (option ``pass_tokens``). A position is a token of
            the encoder's input. On a CPU the activations of a pass should stay in the cache: one of width 1,024 has 16 MB at
            4,096 positions. A GPU needs long passes to use all its cores: 131,072 positions take about 8 GB in training.
        pass_multiple: the number of passes of a batch is a multiple of this, if there are enough users. 2 on a CPU, where
            threads run passes side by side. It is a constant, so that no result depends on the number of threads.
        joins_sources: whether the histories in different modalities go through the network together. It halves the number of
            kernels of a GPU, which takes as long to launch one as to compute it. On a CPU shorter passes stay in the cache.
        group_multiplications: time of one more group of users of equal length (packing.py), in multiplications of a weight by
            an activation. On a CPU a group costs some milliseconds of Python and small products, as long as 7e7
            multiplications. None: use ``group_positions``.
        group_positions: time of one more group, in positions. On a GPU launching the kernels of a group takes as long as
            computing 8,192 positions.
        padded_users: users whose padded histories go through a network together, where they are not packed. Equal groups of
            similar length have little padding and few different shapes; oneDNN compiles a kernel for every shape of a bf16
            product, which takes longer than the product. None: as many as there are.
        ranked_users: maximum number of users ranked together by beams. On a CPU the keys and values of 128 users and 20 beams
            stay in the cache. None: as many as fit into memory.
        certified_prefixes: maximum number of prefixes that a certified ranking keeps for the users ranked together. On a CPU
            131,072 prefixes take 1 GB for 4 layers of width 384. None: as many as fit into memory.
        traversal_rows: (user, prefix) pairs decoded at once when the whole trie is traversed. The size is chosen as for
            ``pass_positions``; a pair is one position, with attention to a whole history.
        tabulated_prefixes: maximum number of prefixes of a level whose first-layer output is kept in a table; 64 MB at width
            128.
        tabulated_at_once: prefixes computed together for such a table.
        encoded_items: items that a quantizer encodes or decodes at once, without gradients; 64 MB at width 2,048.
    """

    pass_positions: int
    pass_multiple: int
    joins_sources: bool
    group_multiplications: float | None
    group_positions: int
    padded_users: int | None
    ranked_users: int | None
    certified_prefixes: int | None
    traversal_rows: int
    tabulated_prefixes: int = 131_072
    tabulated_at_once: int = 4_096
    encoded_items: int = 8_192

    @classmethod
    def of(cls, device: torch.device, pass_positions: int | None = None) -> "DeviceBudget":
        """Choose the budget of a device.

        Args:
            pass_positions: overrides the default if it is given.
        """
        budget = CPU if device.type == "cpu" else GPU
        return replace(budget, pass_positions=pass_positions) if pass_positions else budget

    def group_overhead(self, network: torch.nn.Module) -> int:
        """Cost of one more group in ``network``, in positions; see :func:`~recbole_macrec.generation.network.packing.pack`."""
        if self.group_multiplications is None:
            return self.group_positions
        return round(self.group_multiplications / sum(p.numel() for p in network.parameters()))


CPU = DeviceBudget(
    pass_positions=4_096,
    pass_multiple=2,
    joins_sources=False,
    group_multiplications=7e7,
    group_positions=0,
    padded_users=128,
    ranked_users=128,
    certified_prefixes=131_072,
    traversal_rows=4_096,
)
GPU = DeviceBudget(
    pass_positions=131_072,
    pass_multiple=1,
    joins_sources=True,
    group_multiplications=None,
    group_positions=8_192,
    padded_users=None,
    ranked_users=None,
    certified_prefixes=None,
    traversal_rows=65_536,
)


def count_that_fits(numbers: int, device: torch.device) -> int:
    """Number of users, items or rows that fit into the usable part of the free memory of ``device``; at least 1.

    Args:
        numbers: float32 numbers needed for each of them.
    """
    return max(1, free_memory(device) // FREE_SHARE // (FLOAT_BYTES * numbers))
