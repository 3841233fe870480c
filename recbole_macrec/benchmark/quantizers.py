"""Compare quantizers on the same features: collisions, reconstruction error, information in the codes, and time.

    python -m recbole_macrec.benchmark.quantizers --features text=F.npy image=G.npy [--rqvae_epochs 30] [...]
    python -m recbole_macrec.benchmark.quantizers --dataset shop --data_path data --rank MACRec [--epochs 1] [...]

A feature file has the shape [N, F_m]; row i is item i. With --rank, a model is also trained on the IDs of each quantizer and
tested. TIGER reads only the IDs of the first modality; a cross-modal quantizer learns them together with the other modalities.
Results are kept in --output: a quantizer that is finished with the same options is not repeated. Prints a Markdown table. The
collision rate is that before resolution.
"""
import argparse
import hashlib
import json
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from recbole_macrec.benchmark.compare.run_files import write_json
from recbole_macrec.benchmark.compare.run_model import Request, run_model
from recbole_macrec.config.options import check_dataset, check_model, config_of
from recbole_macrec.data import DATA_PATH
from recbole_macrec.errors import UserError
from recbole_macrec.model.preparation import reads_semantic_ids
from recbole_macrec.semantic_ids import Execution, SemanticIDSettings, represent_and_learn
from recbole_macrec.semantic_ids.dataset_settings import modalities_of
from recbole_macrec.semantic_ids.presets import PRESETS
from recbole_macrec.semantic_ids.statistics import code_statistics
from recbole_macrec.utils.reporting import run_command

COLUMNS = ("quantizer", "modality", "collisions", "perplexity", "reconstruction", "own R2", "other R2", "seconds")


def quantizer_options(modalities: int) -> dict[str, dict[str, str]]:
    """Return name -> options of every quantizer; cross-modal ones need at least two modalities."""
    choices = {name: {"quantizer": name} for name in ("rq_kmeans", "rqvae")}
    if modalities > 1:
        choices |= {f"cross_modal_rqvae, {preset}": {"quantizer": "cross_modal_rqvae", "rqvae_preset": preset}
                    for preset in PRESETS}
    return choices


def compare(features: dict[str, np.ndarray], options: dict, device: str = "cpu") -> list[dict]:
    """Return one row per quantizer and modality, with the columns COLUMNS. ``seconds`` covers all modalities."""
    rows = []
    for name, choice in quantizer_options(len(features)).items():
        settings = SemanticIDSettings.from_options(options | choice, list(features))
        start = time.perf_counter()
        learnt = represent_and_learn(features, None, settings, Execution(device))
        seconds = time.perf_counter() - start
        sizes = (settings.codebook_size,) * settings.codebook_levels
        for modality, part in learnt.modalities.items():
            statistics = code_statistics(part.codes, sizes, part.codes, features, settings.semantic_id_seed,
                                         part.reconstruction_error)
            rows.append(row(name, modality, statistics, seconds))
    return rows


def compare_by_ranking(model: str, request: Request, output: Path) -> list[dict]:
    """Like :func:`compare` on the features of ``request.dataset``, plus the :func:`ranking` of ``model`` with these IDs.

    Raises:
        UserError: if ``model`` reads no semantic IDs.
    """
    rows = []
    config = config_of(model, request.dataset, [], request.settings)
    if not reads_semantic_ids(config):
        raise UserError(f"--rank={model}: {model} reads no semantic IDs; choose a model that does, such as MACRec or TIGER.")
    modalities = modalities_of(config, Path(config["data_path"]))
    for name, choice in quantizer_options(len(modalities)).items():
        settings = {**request.settings, **choice, "semantic_ids": "learn"}
        spec = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        file = output / f"{model}-{request.dataset}-{name.replace(', ', '-')}-{spec}.json"
        if file.is_file():
            record = json.loads(file.read_text())
        else:
            record = run_model(model, replace(request, settings=settings))
            write_json(record, file)
        for modality, statistics in record["semantic_ids"].items():
            measured = ranking(record["test_detail"], modality, max(config["topk"]))
            rows.append(row(name, modality, statistics, record["seconds"]["data"]) | measured)
    return rows


def ranking(detail: dict, modality: str, k: int) -> dict[str, str]:
    """Format the metrics at ``k`` of a modality and of the fused ranking as columns."""
    own, fused = detail[modality]["item"], detail["fused"]["item"]
    values = {f"hit@{k}": own[f"hit@{k}"], **{f"fused {name}@{k}": fused[f"{name}@{k}"] for name in ("hit", "ndcg")}}
    return {column: f"{value:.4f}" for column, value in values.items()}


def row(name: str, modality: str, statistics: dict, seconds: float) -> dict[str, str]:
    """Format the statistics of a modality as the columns COLUMNS."""
    error = statistics.get("reconstruction_error")
    predictability = {m: number(r2) for m, r2 in statistics["predictability"].items()}
    own = predictability.pop(modality)
    values = (name, modality, f"{statistics['collision_rate']:.2%}", " ".join(f"{p:.0f}" for p in statistics["perplexity"]),
              number(error), own, " ".join(predictability.values()) or "-", f"{seconds:.0f}")
    return dict(zip(COLUMNS, values, strict=True))


def number(value: float | None) -> str:
    """Format a number that may be missing."""
    return "-" if value is None else f"{value:.3f}"


def table(rows: list[dict]) -> str:
    """Format rows as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: list[str] | None = None) -> int:
    """Print the table. An error that the user can correct is one line on stderr, with exit code 1."""
    return run_command(_run, sys.argv[1:] if argv is None else argv)


def _run(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m recbole_macrec.benchmark.quantizers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--features", nargs="+", metavar="MODALITY=FILE.npy")
    source.add_argument("--rank", metavar="MODEL", help="train and test this model with the IDs of each quantizer")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dataset", default="arts-toy", help="with --rank")
    parser.add_argument("--data_path", default=DATA_PATH, help="with --rank")
    parser.add_argument("--output", type=Path, default=Path("results/quantizers"), help="with --rank: folder for the results")
    parser.add_argument("--modalities", nargs="+", help="with --rank")
    for name in ("rqvae_epochs", "rqvae_warmup_epochs", "rqvae_batch_size", "rqvae_projection", "codebook_levels",
                 "codebook_size", "code_dim", "pseudo_labels", "semantic_id_seed", "epochs", "train_batch_size", "eval_step"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--rqvae_hidden_sizes", type=int, nargs="+")
    parser.add_argument("--collision")
    args = parser.parse_args(argv)
    ours = ("features", "rank", "device", "dataset", "output")
    options = {name: value for name, value in vars(args).items() if name not in ours and value is not None}
    if args.rank:
        check_model(args.rank)
        check_dataset(args.dataset, args.data_path, False)
        rows = compare_by_ranking(args.rank, Request(args.dataset, settings=options), args.output)
    else:
        features = read_features(args.features)
        print(f"{len(next(iter(features.values())))} items")
        rows = compare(features, options, args.device)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(table(rows))
    return 0


def read_features(pairs: list[str]) -> dict[str, np.ndarray]:
    """Load the features of every ``MODALITY=FILE.npy``, as float32."""
    features = {}
    for pair in pairs:
        modality, _, file = pair.partition("=")
        if not file or not Path(file).is_file():
            raise UserError(f"--features {pair}: expected MODALITY=FILE.npy with a file that exists.")
        features[modality] = np.load(file).astype(np.float32)
    return features


if __name__ == "__main__":
    sys.exit(main())
