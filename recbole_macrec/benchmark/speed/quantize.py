"""Speed of an epoch of the cross-modal RQ-VAE compared with a loop over a DataLoader that searches positives one by one."""
from unittest.mock import patch

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from recbole_macrec.benchmark.quantizers import read_features
from recbole_macrec.benchmark.speed.catalogues import measure_catalogues
from recbole_macrec.benchmark.speed.measure import median_seconds
from recbole_macrec.semantic_ids.quantizers import cross_modal
from recbole_macrec.semantic_ids.quantizers.rqvae_training import GRADIENT_CLIP, RQVAETraining
from recbole_macrec.semantic_ids.settings import SemanticIDSettings
from recbole_macrec.utils.hardware import keep_freed_memory


def quantize(args) -> dict:
    """Return seconds per epoch with the paper's layer widths, without encoding all items and restarting dead codes.

    With ``args.items``, return seconds and memory on catalogues of these sizes; see :func:`measure_catalogues`.
    """
    if args.items:
        return measure_catalogues(args)
    keep_freed_memory()  # for both implementations
    features = read_features(args.features) if args.features else random_features()
    # the default settings are those of the paper
    settings = SemanticIDSettings.from_options({"quantizer": "cross_modal_rqvae"}, list(features))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours = RQVAETraining(features, settings, device)
    for tower, x in zip(ours.model.towers, ours.x):
        tower.quantizer.initialise(tower.encode(x), seed=0)
    seconds = median_seconds(lambda: ours.epoch(ours.losses), args.repeats)
    with patch.object(cross_modal, "sample_positives", positives_one_by_one):
        reference_seconds = median_seconds(lambda: data_loader_epoch(ours), args.reference_repeats)
    return {
        "seconds_per_epoch": round(seconds, 3),
        "reference_seconds_per_epoch": round(reference_seconds, 3),
        "speedup": round(reference_seconds / seconds, 2),
        "items": len(next(iter(features.values()))),
        "features": "files" if args.features else "random numbers",
    }


def random_features() -> dict[str, np.ndarray]:
    """Return random features of two modalities, with as many items as Instruments has."""
    rng = np.random.default_rng(0)
    return {modality: rng.standard_normal((6250, 768), dtype=np.float32) for modality in ("text", "image")}


def data_loader_epoch(training: RQVAETraining) -> None:
    """Train one epoch as it is commonly written, with a DataLoader that collates item by item."""
    inputs = [x for x in training.x if isinstance(x, torch.Tensor)]  # features that are not streamed
    columns = [x.cpu() for x in inputs] + (training.labels or [])
    loader = DataLoader(TensorDataset(*columns), batch_size=training.settings.rqvae_batch_size, shuffle=True)
    device, modalities = training.x[0].device, len(training.x)
    for batch in loader:
        loss = training.model([x.to(device) for x in batch[:modalities]], batch[modalities:])
        training.optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(training.model.parameters(), GRADIENT_CLIP)
        training.optimizer.step()
        loss.total.item()


def positives_one_by_one(labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Like ``sample_positives``, with one search per row."""
    positives = []
    for i, label in enumerate(labels):
        others = [j for j in (labels == label).nonzero()[:, 0].tolist() if j != i]
        positives.append(others[int(torch.randint(len(others), (), generator=generator))] if others else i)
    return torch.tensor(positives, device=labels.device)
