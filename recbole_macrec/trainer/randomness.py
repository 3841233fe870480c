"""The random generators that training draws from."""
import random

import numpy as np
import torch


def randomness(train_data) -> dict:
    """The state of every random generator that training draws from, as plain values."""
    kind, keys, *rest = np.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if train_data is not None:
        state["shuffle"] = train_data.generator.get_state()
    return state


def restore_randomness(state: dict, train_data) -> None:
    """Set every random generator to what :func:`randomness` saw."""
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"][: torch.cuda.device_count()]])
    if "shuffle" in state:
        train_data.generator.set_state(state["shuffle"].cpu())
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])
