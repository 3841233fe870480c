"""Compare quantizers on the same features: collisions, reconstruction error, information in the codes, and time.

    python -m recbole_macrec.benchmark quantizers --features text=F.npy image=G.npy [--rqvae_epochs=30 ...]
    python -m recbole_macrec.benchmark quantizers --dataset=shop [--data_path=data] [--rqvae_epochs=30 ...]

A feature file has the shape [N, F_m]; row i is item i. With --dataset the features in its folder are used, imported or computed
by an earlier run. Prints a Markdown table of all quantizers that read only these features, with the columns

collisions       1 - distinct IDs / items, before collisions are resolved
perplexity       per level, the number of equally frequent codes that would have the same entropy
reconstruction   mean squared error of the standardized features
own R2           share of the variance of the features that the codes predict, on items that were held out: 1 is perfect, 0 is
                 the prediction of the mean, below 0 is worse
other R2         the same for the features of the other modalities
seconds          of all modalities together

``benchmark study quantizers`` compares the ranking of models with the IDs.
"""
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from recbole_macrec.benchmark.arguments import read_settings
from recbole_macrec.benchmark.compare.table_formats import markdown_lines
from recbole_macrec.config.options import check_dataset
from recbole_macrec.config.schema.semantic_ids import SemanticIDOptions
from recbole_macrec.data import DATA_PATH
from recbole_macrec.data.features import FeatureTable, available_modalities, check_modality, read_matrix
from recbole_macrec.errors import UserError, nearest
from recbole_macrec.semantic_ids import Execution, SemanticIDSettings, build_semantic_ids
from recbole_macrec.semantic_ids.build import check_enough_items
from recbole_macrec.semantic_ids.collisions import RESOLUTIONS
from recbole_macrec.semantic_ids.presets import PRESETS
from recbole_macrec.semantic_ids.quantizers import QUANTIZERS
from recbole_macrec.utils.arguments import CommandParser, modality_files
from recbole_macrec.utils.hardware import available_device

NOT_OPTIONS = ("quantizer", "representation", "rqvae_preset", "tokenizations", "semantic_ids")
COLUMNS = ("quantizer", "modality", "collisions", "perplexity", "reconstruction", "own R2", "other R2", "seconds")


def main(argv: list[str]) -> int:
    """The command ``quantizers``; returns the exit code."""
    epilog = "Every other --key=value is an option of the semantic IDs, such as --rqvae_epochs=30."
    parser = CommandParser("python -m recbole_macrec.benchmark quantizers", __doc__, epilog=epilog)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--features", nargs="+", metavar="MODALITY=FILE.npy", help="feature files of the same items")
    source.add_argument("--dataset", help="a dataset with features")
    parser.add_argument("--data_path", default=DATA_PATH, help=f"folder of the datasets (default: {DATA_PATH})")
    parser.add_argument("--device", default="cpu", help="device of the quantizers (default: cpu)")
    args, options = read_settings(parser, argv)
    device = str(available_device(args.device))
    known = SemanticIDOptions.model_fields
    if unknown := [name for name in options if name not in known]:
        raise UserError(f"--{unknown[0]} is not an option of the semantic IDs.{nearest(unknown[0], known)}")
    if varied := [name for name in NOT_OPTIONS if name in options]:
        given = f"--{varied[0]}={options[varied[0]]}"
        raise UserError(f"{given}: the table does not use this option, or has rows of all its values; leave it out.")
    if args.features:
        features = read_features(args.features)
        tokens: Sequence[str] = [str(i) for i in range(len(next(iter(features.values()))))]
    else:
        check_dataset(args.dataset, args.data_path, benchmark=True)  # its interactions are not needed
        tokens, features = features_of(Path(args.data_path) / args.dataset)
    rows = compare(features, tokens, options, device)
    threads = torch.get_num_threads()
    print(f"{len(tokens)} items; {platform.machine()}, {threads} threads, torch {torch.__version__}\n\n{markdown_table(rows)}")
    return 0


def read_features(pairs: Sequence[str]) -> dict[str, np.ndarray]:
    """Load the features of every ``MODALITY=FILE.npy``, as float32.

    Raises:
        UserError: a pair has another form, or a file is unusable.
    """
    features = {}
    for modality, file in modality_files("--features", pairs, ".npy").items():
        check_modality(modality)
        features[modality] = read_matrix(file)
    return features


def features_of(folder: Path) -> tuple[Sequence[str], dict[str, np.ndarray]]:
    """The items of a dataset, in the order of its first features, and all its features.

    Raises:
        UserError: the dataset has no features, or not of all items.
    """
    tables = {modality: FeatureTable.load(folder, modality) for modality in available_modalities(folder)}
    if not tables:
        raise UserError(f"{folder} has no features; import some, or run a model, which computes them from texts and images.")
    tokens = next(iter(tables.values())).item_tokens
    return tokens, {modality: features.select(tokens) for modality, features in tables.items()}


def quantizer_options(modalities: int) -> dict[str, dict[str, str]]:
    """Name -> options of every quantizer that reads features only; cross-modal ones need at least two modalities."""
    usable = [name for name, quantizer in QUANTIZERS.items() if not (
        quantizer.reads_interactions or quantizer.auxiliary_features or (quantizer.joins_modalities and modalities < 2)
    )]
    choices = {name: {"quantizer": name} for name in usable if name != "cross_modal_rqvae"}
    if "cross_modal_rqvae" in usable:
        choices |= {f"cross_modal_rqvae, {preset}": {"quantizer": "cross_modal_rqvae", "rqvae_preset": preset}
                    for preset in PRESETS}
    return choices


def compare(features: Mapping[str, np.ndarray], tokens: Sequence[str], options: Mapping[str, Any],
            device: str = "cpu") -> list[dict[str, str]]:
    """One row per quantizer and modality, with the columns COLUMNS. ``seconds`` covers all modalities.

    Args:
        features: modality -> float32 [N, F_m].
        tokens: the N items.
        options: options of all quantizers.

    Raises:
        UserError: for invalid features, and options that do not fit them.
    """
    settings = {name: SemanticIDSettings.from_options({**options, **choice}, list(features))
                for name, choice in quantizer_options(len(features)).items()}
    for of_quantizer in settings.values():  # all before the first is trained
        check_enough_items(of_quantizer, len(tokens))
        if RESOLUTIONS[of_quantizer.collision].reads_counts:
            raise UserError(f"collision is {of_quantizer.collision}, which reads training interactions, but this command reads "
                            "features only; set another one.")
    rows = []
    for name, of_quantizer in settings.items():
        start = time.perf_counter()
        with TemporaryDirectory() as folder:
            ids = build_semantic_ids(features, tokens, of_quantizer, Path(folder), Execution(device))
        seconds = time.perf_counter() - start
        rows += [format_row(name, modality, statistics, seconds) for modality, statistics in ids.statistics.items()]
    return rows


def format_row(name: str, modality: str, statistics: dict, seconds: float) -> dict[str, str]:
    """Format the statistics of a modality as the columns COLUMNS."""
    r2 = {m: format_number(value) for m, value in statistics["predictability"].items()}
    own = r2.pop(modality)
    values = (name, modality, f"{statistics['collision_rate']:.2%}", " ".join(f"{p:.0f}" for p in statistics["perplexity"]),
              format_number(statistics.get("reconstruction_error")), own, " ".join(r2.values()) or "-", f"{seconds:.0f}")
    return dict(zip(COLUMNS, values, strict=True))


def format_number(value: float | None) -> str:
    """Format a number that may be missing."""
    return "-" if value is None else f"{value:.3f}"


def markdown_table(rows: list[dict[str, str]]) -> str:
    """Format rows as a Markdown table."""
    return "\n".join(markdown_lines(list(rows[0]), [list(row.values()) for row in rows]))
