"""Quantizers side by side on the same features: collisions, reconstruction, what the codes tell, seconds.

    python -m recbole_macrec.benchmark.quantizers --features text=F.npy image=G.npy [--rqvae_epochs 30] [...]

A feature file is [N, F_m], row i is item i. Prints a markdown table; the collision rate is the one before resolution.
"""
import argparse
import platform
import time
from pathlib import Path

import numpy as np
import torch

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.learn import learn
from recbole_macrec.semantic_ids.presets import PRESETS
from recbole_macrec.semantic_ids.settings import SemanticIDSettings
from recbole_macrec.semantic_ids.statistics import code_statistics

COLUMNS = ("quantizer", "modality", "collisions", "perplexity", "reconstruction", "own R2", "other R2", "seconds")


class Options(dict):
    """Options as RecBole's Config hands them over: an absent one reads as None."""

    def __getitem__(self, name):
        return self.get(name)


def contenders(modalities: list[str], options: dict) -> dict[str, SemanticIDSettings]:
    """Name -> settings; the cross-modal ones only where there are two modalities or more."""
    choices = {name: {"quantizer": name} for name in ("rq_kmeans", "rqvae")}
    if len(modalities) > 1:
        choices |= {f"cross_modal_rqvae, {preset}": {"quantizer": "cross_modal_rqvae", "rqvae_preset": preset}
                    for preset in PRESETS}
    return {name: SemanticIDSettings.from_config(Options(options | choice), modalities)
            for name, choice in choices.items()}


def compare(features: dict[str, np.ndarray], options: dict, device: str = "cpu") -> list[dict]:
    """One row per quantizer and modality, with the columns of COLUMNS; seconds are those of all modalities."""
    rows = []
    for name, settings in contenders(list(features), options).items():
        start = time.perf_counter()
        learnt = learn(features, settings, device)
        seconds = time.perf_counter() - start
        sizes = (settings.codebook_size,) * settings.codebook_levels
        for modality, part in learnt.modalities.items():
            found = code_statistics(part.codes, sizes, part.codes, features, settings.semantic_id_seed,
                                    part.reconstruction_error)
            others = [r2 for m, r2 in found["predictability"].items() if m != modality]
            values = (name, modality, f"{found['collision_rate']:.2%}",
                      " ".join(f"{p:.0f}" for p in found["perplexity"]), f"{found['reconstruction_error']:.3f}",
                      f"{found['predictability'][modality]:.3f}", " ".join(f"{r2:.3f}" for r2 in others) or "-",
                      f"{seconds:.0f}")
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def table(rows: list[dict]) -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", nargs="+", required=True, metavar="MODALITY=FILE.npy")
    parser.add_argument("--device", default="cpu")
    for name in ("rqvae_epochs", "rqvae_warmup_epochs", "rqvae_batch_size", "rqvae_projection", "codebook_levels",
                 "codebook_size", "code_dim", "pseudo_labels", "semantic_id_seed"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--rqvae_hidden_sizes", type=int, nargs="+")
    options = vars(parser.parse_args(arguments))
    files, device = options.pop("features"), options.pop("device")
    features = {}
    for pair in files:
        modality, _, file = pair.partition("=")
        if not file or not Path(file).is_file():
            raise SystemExit(f"--features {pair}: expected MODALITY=FILE.npy with a file that exists.")
        features[modality] = np.load(file).astype(np.float32)
    try:
        rows = compare(features, {name: value for name, value in options.items() if value is not None}, device)
    except UserError as error:
        raise SystemExit(str(error)) from None
    items = len(next(iter(features.values())))
    print(f"{items} items, {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(table(rows))


if __name__ == "__main__":
    main()
