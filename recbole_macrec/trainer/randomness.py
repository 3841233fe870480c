"""State of the random generators that training uses."""
import random

import numpy as np
import torch

from recbole_macrec.errors import UserError
from recbole_macrec.utils.distributed import current_group


def randomness(train_data) -> dict:
    """The state of all random generators that training uses, as tensors and plain values.

    Args:
        train_data: the training data loader, whose generator shuffles; None without one.
    """
    mersenne_twister = np.random.get_state(legacy=False)
    key, position = mersenne_twister["state"]["key"], mersenne_twister["state"]["pos"]
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [
            mersenne_twister["bit_generator"],
            torch.from_numpy(key.astype(np.int64)),
            position,
            mersenne_twister["has_gauss"],
            mersenne_twister["gauss"],
        ],
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if train_data is not None:
        state["shuffle"] = train_data.generator.get_state()
    return state


def randomness_of_all(train_data) -> dict | list[dict]:
    """Like :func:`randomness`; with several processes a list in the order of their ranks. All processes must call it."""
    group = current_group()
    return randomness(train_data) if group.size == 1 else group.gather(randomness(train_data))


def restore_own_randomness(states: dict | list[dict], train_data) -> None:
    """Restore the state of this process's random generators.

    Args:
        states: from :func:`randomness_of_all`.

    Raises:
        UserError: if it is from another number of processes.
    """
    group, states = current_group(), [states] if isinstance(states, dict) else states
    if len(states) != group.size:
        raise UserError(
            f"The checkpoint was written by {len(states)} processes, and this run has {group.size}; resume with the same "
            "number (--nproc, --world_size; torchrun: --nproc_per_node, --nnodes)."
        )
    restore_randomness(states[group.rank], train_data)


def restore_randomness(state: dict, train_data) -> None:
    """Restore the state of all random generators from :func:`randomness`."""
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"][: torch.cuda.device_count()]])
    if "shuffle" in state:
        train_data.generator.set_state(state["shuffle"].cpu())
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])
