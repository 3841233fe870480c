"""Seconds and peak memory of quantizers on catalogues of several sizes.

Shapes: N items, F feature width.
"""
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from recbole_macrec.benchmark.speed.measure import in_own_process
from recbole_macrec.data.features import check_modality
from recbole_macrec.semantic_ids import Execution, FeatureRows, SemanticIDSettings, build_semantic_ids
from recbole_macrec.semantic_ids.build import check_enough_items
from recbole_macrec.semantic_ids.quantizers.rqvae_training import RQVAETraining
from recbole_macrec.semantic_ids.rows import StreamedFeatures, select_rows
from recbole_macrec.utils.blocks import BLOCK
from recbole_macrec.utils.hardware import peak_host_memory

WIDTH = 768
TIMED = 2**14  # items of the timed epoch; times of larger catalogues are extrapolated in proportion


def measure_catalogues(args) -> dict:
    """Measure rq_kmeans and the default quantizer on random features of every size in ``args.items``.

    Returns:
        ``rows``, one per size and quantizer; with several sizes also ``bytes_per_item``, the growth of the peak memory of
        rq_kmeans per item, between the smallest and the largest size.
    """
    for modality in args.modalities:
        check_modality(modality)
    check_enough_items(SemanticIDSettings.from_options({}, args.modalities), min(args.items))
    rows = []
    for items in args.items:
        with tempfile.TemporaryDirectory(prefix=".quantize-", dir=".") as folder:
            for seed, modality in enumerate(args.modalities):
                write_random(Path(folder, f"{modality}.npy"), items, seed)
            rows += [in_own_process(measure, folder, args.modalities) for measure in (measure_rq_kmeans, measure_default)]
    peaks = {row["items"]: row["peak_memory_mib"] for row in rows if row["quantizer"] == "rq_kmeans"}
    if len(peaks) == 1:
        return {"rows": rows}
    few, many = min(peaks), max(peaks)
    return {"rows": rows, "bytes_per_item": round(2**20 * (peaks[many] - peaks[few]) / (many - few))}


def write_random(path: Path, items: int, seed: int) -> None:
    """Write a feature file [N, F] of random numbers, block by block."""
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (items, WIDTH)})
        for begin in range(0, items, BLOCK):
            rng.standard_normal((min(BLOCK, items - begin), WIDTH), dtype=np.float32).tofile(file)


def measure_rq_kmeans(folder: str, modalities: list[str]) -> dict:
    """Measure the whole path from feature files to semantic IDs: quantization, collisions, statistics and files."""
    features = _mapped(folder, modalities)
    items = len(features[modalities[0]])
    settings = SemanticIDSettings.from_options({"quantizer": "rq_kmeans"}, modalities)
    begin = _clocks()
    tokens = [f"i{i:09d}" for i in range(items)]
    ids = build_semantic_ids(features, tokens, settings, Path(folder, "ids"), Execution(show_progress=False))
    seconds, cpu_seconds = (_clocks() - begin).tolist()
    return {
        "items": items,
        "quantizer": settings.quantizer,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "peak_memory_mib": _peak_mib(),
        "collision_rate": round(max(values["collision_rate"] for values in ids.statistics.values()), 5),
    }


def measure_default(folder: str, modalities: list[str]) -> dict:
    """Measure one epoch of the default quantizer, including the codes of all items after it, and extrapolate to all epochs."""
    features = _mapped(folder, modalities)
    items = len(features[modalities[0]])
    settings = SemanticIDSettings.from_options({}, modalities)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    subset = np.arange(min(items, TIMED))
    training = RQVAETraining({m: select_rows(x, subset) for m, x in features.items()}, settings, device)
    for tower, x in zip(training.model.towers, training.x):
        tower.quantizer.initialise(tower.encode(x), seed=0)
    training.epoch(training.losses)  # warm-up
    begin = _clocks()
    training.epoch(training.losses)
    seconds, cpu_seconds = (_clocks() - begin) * items / len(subset)
    del training
    training = RQVAETraining(features, settings, device)
    begin = _clocks()
    for tower, x in zip(training.model.towers, training.x):
        tower.quantizer.codes(tower.encode(x))
    seconds, cpu_seconds = ((_clocks() - begin) + (seconds, cpu_seconds)).tolist()
    return {
        "items": items,
        "quantizer": settings.quantizer,
        "seconds_per_epoch": round(seconds, 1),
        "cpu_seconds_per_epoch": round(cpu_seconds, 1),
        "hours_in_all": round(seconds * (settings.rqvae_warmup_epochs + settings.rqvae_epochs) / 3600, 2),
        "peak_memory_mib": _peak_mib(),
        "features": "read in every epoch" if isinstance(training.x[0], StreamedFeatures) else "in memory",
        "device": device,
    }


def _clocks() -> np.ndarray:
    """Return wall-clock seconds and CPU seconds of this process, [2]."""
    return np.array([time.perf_counter(), time.process_time()])


def _mapped(folder: str, modalities: list[str]) -> dict[str, FeatureRows]:
    maps = {m: np.load(Path(folder, f"{m}.npy"), mmap_mode="r") for m in modalities}
    return {m: FeatureRows(x, np.arange(len(x))) for m, x in maps.items()}


def _peak_mib() -> float:
    return round(peak_host_memory() / 2**20, 1)
