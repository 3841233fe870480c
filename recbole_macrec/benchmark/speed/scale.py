"""Synthetic catalogues of growing size: trie, decoding, collision resolution, memory."""
import time

import numpy as np
import psutil
import torch

from recbole_macrec.benchmark.speed.measure import median_seconds
from recbole_macrec.generation.packing import pack
from recbole_macrec.generation.search import beam_search
from recbole_macrec.generation.transformer import Transformer
from recbole_macrec.generation.trie import Trie
from recbole_macrec.generation.vocabulary import Vocabulary
from recbole_macrec.semantic_ids.resolve import Geometry, resolve

SIZES, WIDTH, BEAMS, HISTORY = (256,) * 4, 32, 20, 5


def scale(args) -> dict:
    """One row per catalogue size; the codes, their geometry and the network are random."""
    return {"rows": [measure(items, args) for items in args.items]}


@torch.no_grad()
def measure(items: int, args) -> dict:
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
        return beam_search(network, vocabulary, "text", trie, network.encode(source), BEAMS)

    return {
        "items": items,
        "collisions": round(1 - len(np.unique(codes, axis=0)) / items, 4),
        "trie_seconds": round(trie_seconds, 3),
        "trie_bytes_per_item": round(sum(b.numel() * b.element_size() for b in trie.buffers()) / items, 1),
        "decode_ms_per_user": round(1000 * median_seconds(decode, args.repeats) / len(tokens), 3),
        "resolve_seconds": round(resolve_seconds, 3),
        "peak_rss_mb": round(peak_memory() / 2**20),
    }


def synthetic_codes(items: int) -> tuple[np.ndarray, Geometry]:
    """Random codes [items, 4] of which a few per cent collide, codebooks, and items near their codewords."""
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


def peak_memory() -> int:
    """Most bytes this process has held so far."""
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
