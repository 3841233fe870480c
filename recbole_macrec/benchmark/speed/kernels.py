"""The hand-written kernels for CPUs: what each of them gains over the plain layers, and that both compute the same.

A kernel is measured alone, and by switching it off in a training step and in a ranking while all others stay on. The two sides
of a comparison run in turn, so that a change of the machine's load affects both.

Shapes: B users, S source positions, L levels.
"""
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn

from recbole_macrec.generation.decoding.search import beam_search
from recbole_macrec.generation.decoding.trie_decoder import TrieDecoder
from recbole_macrec.generation.id_table import IDTable
from recbole_macrec.generation.loss import id_cross_entropy
from recbole_macrec.generation.network import cpu
from recbole_macrec.generation.network.dropout import dropout
from recbole_macrec.generation.network.layers import (
    CrossAttention,
    FeedForward,
    RelativeBias,
    RMSNorm,
    SelfAttention,
    TransformerSettings,
)
from recbole_macrec.generation.network.memory import Memory
from recbole_macrec.generation.network.transformer import Transformer
from recbole_macrec.generation.network.windows import Target, Windows
from recbole_macrec.generation.vocabulary import Vocabulary
from recbole_macrec.utils.device_budget import DeviceBudget
from recbole_macrec.utils.hardware import keep_freed_memory

SIZES = TransformerSettings()  # those of TIGER
LEVELS, CODES, HISTORY, BEAMS = 4, 256, 20, 20  # codes of an ID, codes of a level, items of a history, beams
CATALOGUE = 6_250  # items, as many as Instruments has


def kernels(args) -> dict:
    """Gains of all kernels in percent: 25 means that the plain layer takes 1.25 times as long."""
    positions = args.positions or DeviceBudget.of(torch.device("cpu")).pass_positions
    users = max(1, positions // (HISTORY * LEVELS))
    torch.manual_seed(0)
    keep_freed_memory()
    cases = [*layer_cases(users), *network_cases(users, min(args.users, 128))]
    return {"positions": positions, "kernels": [compared(*case, args.repeats) for case in cases]}


def layer_cases(users: int) -> Iterator[tuple[str, str, Callable[[float], list[torch.Tensor]]]]:
    """Each layer alone: kernel, what is measured, and a function of the dropout probability that returns output and gradients."""
    source, target = HISTORY * LEVELS, LEVELS
    x = torch.randn(users * source, SIZES.d_model)  # the positions of all histories
    y = torch.randn(users * target, SIZES.d_model)  # the positions of all targets
    bias = RelativeBias(SIZES, bidirectional=True)(torch.arange(source), torch.arange(source)).detach()
    own, cross = SelfAttention(SIZES), CrossAttention(SIZES)
    memory = Memory(x, [(users, source)], None)
    layers: dict[tuple[str, str], tuple[nn.Module, Callable, torch.Tensor]] = {}
    norm, feed_forward = RMSNorm(SIZES.d_model), FeedForward(SIZES)
    layers["rms_norm", "layer"] = norm, norm, x
    layers["feed_forward", "layer"] = feed_forward, feed_forward, x
    layers["attention", "layer, among a history"] = own, lambda z: own(z, [(users, source)], bias), x
    layers["attention", "layer, among an ID"] = own, lambda z: own(z, [(users, target)], bias), y
    layers["attention", "layer, from an ID to a history"] = cross, lambda z: cross(z, memory, [target]), y
    for (kernel, name), (module, function, rows) in layers.items():
        yield kernel, f"{name}, training", partial(gradients, module, function, rows)
        yield kernel, f"{name}, ranking", partial(output, module, function, rows)
    yield "dropout", "layer, training", lambda p: [dropout(x, p, training=p > 0)]


def network_cases(users: int, ranked: int) -> Iterator[tuple[str, str, Callable[[float], list[torch.Tensor]]]]:
    """A training step and a ranking of a network with the sizes of TIGER, for every kernel."""
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(0, CODES, (CATALOGUE, LEVELS)), axis=0)
    vocabulary, table = Vocabulary({"text": [CODES] * LEVELS}), IDTable(codes, codes)
    network = Transformer(len(vocabulary), SIZES)
    items = torch.from_numpy(rng.integers(1, len(codes) + 1, (max(users, ranked), HISTORY + 1)))
    tokens = vocabulary.tokens("text", table.codes[items])
    front = torch.zeros(0, dtype=torch.long)
    length = torch.full((users,), HISTORY + 1)
    windows = Windows(items[:users], length, length - 1)
    target = Target(tokens[:users], vocabulary.start["text"], own=True)

    def loss(z: torch.Tensor) -> torch.Tensor:
        states = network.window_states(front, z, windows, [target])[0]
        return id_cross_entropy(network, vocabulary, "text", table, None, states, windows.target_items())

    def ranking(z: torch.Tensor) -> torch.Tensor:
        memory = network.read(z, torch.full((len(z),), z.shape[1]))
        return beam_search(TrieDecoder(network, vocabulary, "text", table.trie), memory, BEAMS).scores

    for kernel in cpu.KERNELS:
        if kernel != "hidden_parts":
            yield kernel, "training step", partial(gradients, network, loss, tokens[:users])
        if kernel != "dropout":
            yield kernel, "ranking", partial(output, network, ranking, tokens[:ranked, :-1].flatten(1))


def gradients(module: nn.Module, function: Callable, rows: torch.Tensor, p: float) -> list[torch.Tensor]:
    """Output of ``function`` for ``rows`` in training with dropout ``p``, and the gradients of its sum."""
    module.train()
    set_dropout(module, p)
    inputs = rows.detach().requires_grad_(rows.is_floating_point())
    leaves = [*module.parameters(), *([inputs] if inputs.requires_grad else [])]
    y = function(inputs)
    return [y.detach(), *(g for g in torch.autograd.grad(y.sum(), leaves, allow_unused=True) if g is not None)]


def output(module: nn.Module, function: Callable, rows: torch.Tensor, p: float) -> list[torch.Tensor]:
    """Output of ``function`` for ``rows`` in ranking, where dropout ``p`` has no effect."""
    module.eval()
    with torch.no_grad():
        return [function(rows)]


def set_dropout(module: nn.Module, p: float) -> None:
    """Set the dropout probability of all layers of ``module``."""
    if isinstance(module, Transformer):
        module.settings = replace(module.settings, dropout=p)
    for layer in module.modules():
        if isinstance(layer, SelfAttention | CrossAttention | FeedForward):
            layer.dropout = p


def compared(kernel: str, measured: str, run: Callable[[float], list[torch.Tensor]], repeats: int) -> dict:
    """Compare a computation with and without ``kernel``.

    Returns:
        Medians in milliseconds with dropout, the gain in percent, and the largest difference of the results without dropout,
        relative to the largest entry of each result.
    """
    sides: dict[str, Callable[[], AbstractContextManager]] = {"kernel": nullcontext, "plain": lambda: cpu.without(kernel)}
    results: dict[str, list[torch.Tensor]] = {}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for side, context in sides.items():  # also warms up
        with context():
            results[side] = run(0.0)
            run(SIZES.dropout)
    for _ in range(repeats):
        for side, context in sides.items():
            with context():
                begin = time.perf_counter()
                run(SIZES.dropout)
                seconds[side].append(time.perf_counter() - begin)
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    difference = max(
        ((a - b).abs().max() / b.abs().max().clamp_min(1e-9)).item() for a, b in zip(results["kernel"], results["plain"])
    )
    return {
        "kernel": kernel,
        "measured": measured,
        "kernel_ms": round(1000 * medians["kernel"], 4),
        "plain_ms": round(1000 * medians["plain"], 4),
        "gain_percent": round(100 * (medians["plain"] / medians["kernel"] - 1), 1),
        "difference": round(difference, 7),
    }
