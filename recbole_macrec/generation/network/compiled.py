"""torch.compile for the layers whose shapes vary in the number of rows alone."""
import logging

import torch
from torch import nn

from recbole_macrec.generation.network.layers import FeedForward

logger = logging.getLogger(__name__)


def compile_layers(network: nn.Module, precision: torch.dtype | None = None) -> bool:
    """Compile the feed-forward layers, half of the network's arithmetic; meant for GPUs: on CPU it is slower than cpu.py.

    They are tried out at once, forward and backward, under autocast to ``precision`` if there is one. Where
    torch.compile does not work, a warning says why and the layers stay as they are.

    Returns:
        Whether they are compiled.
    """
    layers = [module for module in network.modules() if isinstance(module, FeedForward)]
    weight = layers[0].up.weight
    rows = torch.zeros(2, weight.shape[1], device=weight.device, requires_grad=True)
    try:
        for layer in layers:
            layer.compile(dynamic=True)
        with torch.autocast(weight.device.type, dtype=precision, enabled=precision is not None):
            y = layers[0](rows)
        torch.autograd.grad(y.float().sum(), rows)
    except Exception as error:  # whatever compiler, driver or platform lacks
        for layer in layers:
            layer._compiled_call_impl = None
        reason = " ".join(str(error).split())[:200]
        logger.warning("compile: True, but torch.compile fails here (%s: %s); going on without.", type(error).__name__, reason)
        return False
    return True
