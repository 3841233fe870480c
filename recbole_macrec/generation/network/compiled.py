"""torch.compile for the layers whose input shapes differ only in the number of rows."""
import logging

import torch
from torch import nn

from recbole_macrec.errors import one_line
from recbole_macrec.generation.network.layers import FeedForward

logger = logging.getLogger(__name__)


def compile_layers(network: nn.Module, precision: torch.dtype | None = None) -> bool:
    """Compile the feed-forward layers, half of the network's arithmetic. For GPUs.

    The compiled layers are run once, forward and backward, under autocast to ``precision`` if it is given. If
    torch.compile fails, a warning gives the reason and the layers stay uncompiled. A warning also says that a network has no
    such layers.

    Returns:
        Whether the layers are compiled.
    """
    layers = [module for module in network.modules() if isinstance(module, FeedForward)]
    if not layers:
        logger.warning("compile is True, but the model has no layers that are compiled; training without it.")
        return False
    weight = layers[0].up.weight
    rows = torch.zeros(2, weight.shape[1], device=weight.device, requires_grad=True)
    try:
        for layer in layers:
            layer.compile(dynamic=True)
        with torch.autocast(weight.device.type, dtype=precision, enabled=precision is not None):
            y = layers[0](rows)
        torch.autograd.grad(y.float().sum(), rows)
    except Exception as error:  # any error of a missing compiler, driver or platform feature
        for layer in layers:
            layer._compiled_call_impl = None
        reason = one_line(error, 200)
        kind = type(error).__name__
        logger.warning("compile is True, but torch.compile failed (%s: %s); continuing without it.", kind, reason)
        return False
    return True
