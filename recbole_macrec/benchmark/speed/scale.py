"""Cost of trie, decoding and collision resolution on synthetic catalogues of growing size, compared with scoring every item."""
import math
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from recbole_macrec.benchmark.speed.graph import graph_scale
from recbole_macrec.benchmark.speed.measure import median_seconds
from recbole_macrec.config.validation import check_whole
from recbole_macrec.errors import UserError
from recbole_macrec.generation.decoding.search import beam_search
from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.generation.decoding.trie_decoder import TrieDecoder
from recbole_macrec.generation.network.layers import TransformerSettings
from recbole_macrec.generation.network.packing import pack
from recbole_macrec.generation.network.set_encoder import SetEncoder
from recbole_macrec.generation.network.transformer import Transformer
from recbole_macrec.generation.vocabulary import Vocabulary
from recbole_macrec.semantic_ids.collisions import Geometry, resolve
from recbole_macrec.utils.hardware import keep_freed_memory, peak_host_memory

SIZES, WIDTH, BEAMS, HISTORY = (256,) * 4, 32, 20, 5
MMGREC = TransformerSettings(d_model=64, d_ff=256, num_heads=4, d_kv=16, encoder_layers=2, decoder_layers=2)
ITEMS = (10**4, 10**5, 10**6)  # default catalogue sizes
READ = 32  # history length of MMGRec
SCORES_AT_ONCE = 2**25  # 128 MiB of float32
COSTS = {
    "decode_ms_per_user": "generation, 4 + 4 layers of width 128",
    "mmgrec_ms_per_user": "generation, MMGRec (2 + 2 layers of width 64)",
    "factorisation_ms_per_user": "matrix factorisation, 64 factors",
}


def scale(args) -> dict:
    """Measure every catalogue size, with random codes, networks and factors.

    Returns:
        ``rows``, one per size; and ``cheaper_from_items``, the number of items from which generation is cheaper than scoring
        every item by matrix factorisation (None if the measured sizes do not include it).
    """
    if args.part == "graph":
        if args.plot:
            raise UserError("--plot is for the part decoding; leave it out with --part=graph.")
        return graph_scale(args)
    check_whole(BEAMS, items=min(args.items or ITEMS))
    keep_freed_memory()
    rows = [measure(items, args) for items in args.items or ITEMS]
    if args.plot:
        plot_costs(rows, COSTS, args.plot)
    *generation, factorisation = COSTS
    return {"rows": rows, "cheaper_from_items": {name: crossing(rows, name, factorisation) for name in generation}}


@torch.no_grad()
def measure(items: int, args) -> dict:
    """Measure one catalogue size."""
    codes, geometry = synthetic_codes(items)
    begin = time.perf_counter()
    resolved = resolve("reassign", codes, SIZES, geometry).codes
    resolve_seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    trie = Trie(resolved, np.arange(1, items + 1))
    trie_seconds = time.perf_counter() - begin
    torch.manual_seed(0)
    vocabulary = Vocabulary({"text": SIZES})
    network = Transformer(len(vocabulary)).eval()
    rng = np.random.default_rng(1)
    history = torch.from_numpy(resolved[rng.integers(items, size=(args.scale_users, HISTORY))])
    tokens = (history + torch.tensor(vocabulary.offsets["text"])).flatten(1)
    source = pack(tokens, torch.full((len(tokens),), tokens.shape[1]))

    def decode():
        decoder = TrieDecoder(network, vocabulary, "text", trie, len(tokens) * BEAMS)
        return beam_search(decoder, network.encode(source), BEAMS)

    return {
        "items": items,
        "collisions": round(1 - len(np.unique(codes, axis=0)) / items, 4),
        "trie_seconds": round(trie_seconds, 3),
        "trie_bytes_per_item": round(sum(b.numel() * b.element_size() for b in trie.buffers()) / items, 1),
        "decode_ms_per_user": round(1000 * median_seconds(decode, args.repeats) / len(tokens), 3),
        "mmgrec_ms_per_user": round(1000 * mmgrec_seconds(trie, items, args), 3),
        "factorisation_ms_per_user": round(1000 * factorisation_seconds(items, args), 3),
        "resolve_seconds": round(resolve_seconds, 3),
        "peak_rss_mb": round(peak_host_memory() / 2**20),
    }


@torch.no_grad()
def mmgrec_seconds(trie: Trie, items: int, args) -> float:
    """Return seconds per user of MMGRec: encoding ``READ`` items, and beam search."""
    torch.manual_seed(0)
    vocabulary = Vocabulary({"graph": SIZES})
    network = Transformer(len(vocabulary), replace(MMGREC, encoder_layers=0)).eval()
    reader = SetEncoder(MMGREC, MMGREC.d_model, "relation_aware").eval()
    users = args.scale_users
    source = pack(torch.zeros(users, READ, dtype=torch.long), torch.full((users,), READ))
    vectors, tastes = torch.randn(users * READ, MMGREC.d_model), torch.randn(users, MMGREC.d_model)

    def decode():
        decoder = TrieDecoder(network, vocabulary, "graph", trie, users * BEAMS)
        return beam_search(decoder, reader(source, vectors, tastes), BEAMS)

    return median_seconds(decode, args.repeats) / users


@torch.no_grad()
def factorisation_seconds(items: int, args) -> float:
    """Return seconds per user of scoring every item by an inner product and selecting the best ``BEAMS``."""
    factors = torch.randn(MMGREC.d_model, items, generator=torch.Generator().manual_seed(0))
    users = torch.randn(args.scale_users, MMGREC.d_model, generator=torch.Generator().manual_seed(1))
    at_once = max(1, SCORES_AT_ONCE // items)

    def score():
        return [(batch @ factors).topk(BEAMS) for batch in users.split(at_once)]

    return median_seconds(score, args.repeats) / len(users)


def synthetic_codes(items: int) -> tuple[np.ndarray, Geometry]:
    """Return random codes [items, 4], of which about 5 % collide, with codebooks and item vectors near their codewords."""
    rng = np.random.default_rng(0)
    codes = rng.integers(256, size=(items, len(SIZES)))
    copies = rng.choice(items, size=items // 20, replace=False)
    codes[copies] = codes[rng.integers(items, size=len(copies))]
    codebooks = rng.standard_normal((len(SIZES), 256, WIDTH), dtype=np.float32)
    codebooks *= np.array([8, 4, 2, 1], dtype=np.float32)[:, None, None]
    z = 0.3 * rng.standard_normal((items, WIDTH), dtype=np.float32)
    for level, codebook in enumerate(codebooks):
        z += codebook[codes[:, level]]
    return codes, Geometry(z, codebooks)


def crossing(rows: list[dict], cost: str, other: str) -> int | None:
    """Return the number of items from which ``cost`` is below ``other``, interpolated linearly in log-log scale.

    None if the lines do not cross between the measured sizes.
    """
    points = [(math.log(row["items"]), math.log(row[cost] / row[other])) for row in sorted(rows, key=lambda row: row["items"])]
    for (x, y), (next_x, next_y) in pairwise(points):
        if y > 0 >= next_y:
            return round(math.exp(x + (next_x - x) * y / (y - next_y)))
    return None


def plot_costs(rows: list[dict], costs: dict[str, str], path: str) -> None:
    """Plot milliseconds per user against the number of items to the file ``path``, one line per entry of ``costs``.

    Args:
        costs: column -> label.
    """
    from matplotlib.figure import Figure  # imported late: it takes a second, and most commands draw nothing

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log", xlabel="items", ylabel="ms per user")
    for name, label in costs.items():
        axes.plot([row["items"] for row in rows], [row[name] for row in rows], marker="o", label=label)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
