"""Train one RQ-VAE, or several together, and compute the codes of all items.

Shapes: N items, F_m feature width of modality m.
"""
import copy
import logging
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.codes import LearntCodes, LearntModality
from recbole_macrec.semantic_ids.collisions.base import Geometry
from recbole_macrec.semantic_ids.quantizers.base import Execution, Quantizer
from recbole_macrec.semantic_ids.quantizers.cross_modal import CrossModalRQVAE
from recbole_macrec.semantic_ids.quantizers.health import code_health, warn_once
from recbole_macrec.semantic_ids.quantizers.kmeans import pseudo_labels
from recbole_macrec.semantic_ids.quantizers.residual_quantizer import ResidualQuantizer
from recbole_macrec.semantic_ids.quantizers.rqvae import RQVAE
from recbole_macrec.semantic_ids.quantizers.state_file import StateFile
from recbole_macrec.semantic_ids.rows import Features, Scale, StreamedFeatures, scale_features
from recbole_macrec.semantic_ids.settings import SemanticIDSettings
from recbole_macrec.utils.device_budget import DeviceBudget
from recbole_macrec.utils.distributed import ALONE, Group
from recbole_macrec.utils.distributed_tensors import Share, average_gradients

logger = logging.getLogger(__name__)

GRADIENT_CLIP = 1.0
LEARNS = "learns the semantic IDs"  # completes "Waiting for the first process, which ..."
LONG_TRAINING_SECONDS = 1800  # seconds; for longer training a log message suggests faster options
SETTLING_EPOCHS = 20  # no warnings about poor codebooks before this epoch, except in the last one


class RQVAETraining:
    """Warm-up as a plain auto-encoder, k-means initialisation on all items, then epochs with restarts of dead codes.

    All features stay on the device if they fit (rows.py). Every epoch shuffles the items. After an epoch all items are encoded,
    which gives codebook statistics, dead codes and the codes. ``codes_epoch`` selects the epoch whose codes and weights are
    returned: the last one, or per modality the one with the fewest collisions.

    The processes of ``group`` share every batch, and all items after an epoch. Up to rounding, the result is that of one
    process. Only the first process initialises codebooks and keeps the result.
    """

    def __init__(self, features: Mapping[str, Features], settings: SemanticIDSettings, device: str, group: Group = ALONE):
        seed = settings.semantic_id_seed
        self.settings, self.modalities, self.group = settings, tuple(features), group
        self.generator = torch.Generator().manual_seed(seed)
        self.scales = [Scale.fit(x, settings.standardize) for x in features.values()]
        self.x = [scale_features(x, s, device) for x, s in zip(features.values(), self.scales)]  # per modality [N, F_m]
        self.labels: list[Tensor] | None = None  # per modality [N], on the CPU
        if settings.uses_pseudo_labels:
            labels = group.by_first(lambda: [pseudo_labels(x, settings.pseudo_labels, seed) for x in features.values()], LEARNS)
            self.labels = [torch.from_numpy(of_modality) for of_modality in labels]
        widths = {m: x.shape[1] for m, x in features.items()}
        self.model = CrossModalRQVAE(widths, settings, self.generator).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=settings.rqvae_learning_rate,
                                           weight_decay=settings.rqvae_weight_decay, fused=True)
        self.history: list[dict] = []
        self.best: dict[str, LearntModality] = {}
        self.warned: set[str] = set()

    def run(self, show_progress: bool, state_file: Path | None = None) -> LearntCodes:
        """Train and return the codes.

        Args:
            state_file: where the first process keeps the state of the training. If the file exists, the training resumes from
                it and gives the same codes as an uninterrupted training.
        """
        s, begin = self.settings, time.perf_counter()
        epochs = s.rqvae_warmup_epochs + s.rqvae_epochs
        file = StateFile(state_file)
        state = self.group.by_first(file.read, LEARNS)
        if state is not None:
            self.load_state(state)
            logger.info("Semantic IDs: training resumes after %d of %d epochs from %s", len(self.history), epochs, state_file)
        with tqdm(total=epochs, initial=len(self.history), disable=not show_progress, unit="epoch",
                  desc=f"Semantic IDs ({', '.join(self.modalities)})") as bar:
            for epoch in range(len(self.history), epochs):
                warmup = epoch < s.rqvae_warmup_epochs
                if epoch == s.rqvae_warmup_epochs:
                    for tower, x in zip(self.model.towers, self.x):
                        self._initialise(tower.quantizer, self._encode(tower, x))
                epoch_begin = time.perf_counter()
                record = self._warmup_epoch() if warmup else self._training_epoch(last=epoch + 1 == epochs)
                seconds = time.perf_counter() - epoch_begin
                if epoch == 0 or epoch == s.rqvae_warmup_epochs:  # training epochs take longer than warm-up epochs
                    self._log_expected_time(epoch_begin - begin + seconds * (epochs - epoch))
                self.history.append(record)
                shown = {"recon": record["recon"]} if warmup else {"loss": record["total"], "collisions": "/".join(
                    f"{health['collision_rate']:.1%}" for health in record["health"].values())}
                bar.set_postfix(shown)
                bar.update()
                if self.group.first:
                    file.write_if_due(self.state)
        history = [{"epoch": i, "modalities": list(self.modalities), **entry} for i, entry in enumerate(self.history)]
        return LearntCodes(self.best, history)

    def _warmup_epoch(self) -> dict:
        """Train one epoch as a plain auto-encoder; returns its record in the history."""
        return {"phase": "warmup", **self.epoch(self._warmup_losses)}

    def _training_epoch(self, last: bool) -> dict:
        """Train one epoch with all losses; returns its record in the history."""
        self.before_epoch()
        loss = self.epoch(self.losses)
        return {"phase": "train", **loss, "health": self._end_epoch(last)}

    def state(self) -> dict:
        """Return everything that the epochs after this one depend on."""
        best = {m: {"codes": torch.from_numpy(part.codes), "z": torch.from_numpy(part.geometry.z), "weights": part.weights,
                    "error": part.reconstruction_error} for m, part in self.best.items() if part.geometry is not None}
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "history": self.history,
                "generator": self.generator.get_state(), "best": best, "warned": sorted(self.warned)}

    def load_state(self, state: dict) -> None:
        """Load a ``state`` returned by :meth:`state`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.history, self.warned = state["history"], set(state["warned"])
        for m, part in state["best"].items():
            geometry = Geometry(part["z"].numpy(), part["weights"]["quantizer.codebooks"].numpy())
            self.best[m] = LearntModality(part["codes"].numpy(), geometry, part["error"], part["weights"])

    def _log_expected_time(self, seconds: float) -> None:
        """Log the expected duration in ``seconds``; for long training, suggest faster options."""
        s = self.settings
        gpu = " or a GPU" if self.x[0].device.type == "cpu" else ""
        faster = f"; quantizer = rq_kmeans{gpu} is much faster, see docs/speed.md" if seconds > LONG_TRAINING_SECONDS else ""
        logger.info("Semantic IDs (%s): about %s for %d + %d epochs over %d items%s", ", ".join(self.modalities),
                    duration(seconds), s.rqvae_warmup_epochs, s.rqvae_epochs, len(self.x[0]), faster)

    def before_epoch(self) -> None:
        """Called before each epoch after the warm-up."""

    def epoch(self, losses) -> dict[str, float]:
        """Train one epoch and return the mean losses.

        Args:
            losses: called with item indices (on the CPU); returns named losses, of which ``total`` is minimised.

        Raises:
            UserError: if the loss is not finite.
        """
        self.model.train()
        order = torch.randperm(len(self.x[0]), generator=self.generator)
        sums: dict[str, Tensor] = {}
        batches = order.split(self.settings.rqvae_batch_size)
        for rows in batches:
            loss = losses(rows)
            self.optimizer.zero_grad()
            loss["total"].backward()
            if self.group.size > 1:
                # codebooks have none in the warm-up
                average_gradients([p for p in self.model.parameters() if p.grad is not None])
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_CLIP)
            self.optimizer.step()
            sums = {name: sums.get(name, 0) + value.detach() for name, value in loss.items()}
        means = {name: round(value / len(batches), 6) for name, value in self._mean_over_processes(sums).items()}
        self._align_weights()
        if not np.isfinite(means["total"]):
            raise self._divergence(f"The loss of the quantizer is {means['total']}")
        return means

    def _divergence(self, what: str) -> UserError:
        return UserError(
            f"{what} in epoch {len(self.history)} with rqvae_learning_rate = {self.settings.rqvae_learning_rate}; nothing was "
            "written: lower it (1e-3 is usual), or set standardize to True."
        )

    def _warmup_losses(self, rows: Tensor) -> dict[str, Tensor]:
        share = Share.divide(rows, self.group)
        recon = torch.stack([tower.autoencode(x) for tower, x in zip(self.model.towers, self.batch(share.rows))]).sum()
        return {"total": share.weight * recon, "recon": share.weight * recon}

    def losses(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the losses of the items ``rows`` [B]."""
        labels = [of_modality[rows] for of_modality in self.labels] if self.labels else None
        share = Share.divide(rows, self.group)
        return self.model(self.batch(share.rows), labels, share)._asdict()

    def batch(self, rows: Tensor) -> list[Tensor]:
        """Return the features of the items ``rows`` [B], per modality [B, F_m]."""
        return [x[rows.to(x.device)] for x in self.x]

    @torch.no_grad()
    def _encode(self, tower: RQVAE, x: Tensor | StreamedFeatures) -> Tensor:
        """Return the latent vectors z [N, D] of all items.

        Raises:
            UserError: the loss of the last batch was still finite, but its step made the weights too large.
        """
        if self.group.size == 1:
            z = tower.encode(x)
        else:
            share, at_once = Share.divide(torch.arange(len(x)), self.group), DeviceBudget.of(x.device).encoded_items
            z = share.gather(torch.cat([tower.encoder(x[rows.to(x.device)]) for rows in share.rows.split(at_once)]))
        for name, vectors in {"encoder outputs": z, "codewords": tower.quantizer.codebooks}.items():
            if not torch.isfinite(vectors.square().sum()):  # distances would be infinite
                raise self._divergence(f"The {name} of the quantizer became infinite")
        return z

    def _codes(self, quantizer: ResidualQuantizer, z: Tensor) -> Tensor:
        """Return the codes [N, L] of all items, given ``z`` [N, D]."""
        share = Share.divide(torch.arange(len(z)), self.group)
        return share.gather(quantizer.codes(z[share.rows.to(z.device)]) if self.group.size > 1 else quantizer.codes(z))

    @torch.no_grad()
    def _initialise(self, quantizer: ResidualQuantizer, z: Tensor) -> None:
        def codebooks() -> Tensor:
            quantizer.initialise(z, self.settings.semantic_id_seed)
            return quantizer.codebooks.detach().cpu()

        quantizer.codebooks.copy_(self.group.by_first(codebooks, LEARNS))

    def _mean_over_processes(self, sums: dict[str, Tensor]) -> dict[str, float]:
        gathered = self.group.gather([float(value) for value in sums.values()])
        return {name: sum(values) / len(values) for name, values in zip(sums, zip(*gathered))}

    @torch.no_grad()
    def _align_weights(self) -> None:
        """Copy the weights of the first process to all others, as different processors may round differently."""
        if self.group.size > 1:
            for weight in self.model.parameters():
                torch.distributed.broadcast(weight, src=0)

    @torch.no_grad()
    def _end_epoch(self, last: bool) -> dict[str, dict]:
        s = self.settings
        self.model.eval()
        result = {}
        for i, (modality, tower) in enumerate(zip(self.modalities, self.model.towers)):
            z = self._encode(tower, self.x[i])
            codes = self._codes(tower.quantizer, z)
            health = result[modality] = code_health(codes.cpu().numpy(), (s.codebook_size,) * s.codebook_levels)
            earlier = [e["health"][modality]["collision_rate"] for e in self.history if "health" in e]
            lowest = s.codes_epoch == "lowest_collision" and health["collision_rate"] < min(earlier, default=2.0)
            if self.group.first and (lowest or (last and s.codes_epoch == "last")):
                error = tower.reconstruction_error(self.x[i], z)
                if not np.isfinite(error):
                    raise self._divergence(f"The reconstruction error of the quantizer is {error}")
                weights = {"mean": self.scales[i].mean, "scale": self.scales[i].scale}
                weights |= {n: copy.deepcopy(w.cpu()) for n, w in tower.state_dict().items()}
                geometry = Geometry(z.cpu().numpy(), weights["quantizer.codebooks"].numpy())
                self.best[modality] = LearntModality(codes.cpu().numpy(), geometry, error, weights)
            if last or len(earlier) >= SETTLING_EPOCHS:
                warn_once(modality, health, len(z), s, self.warned)
            if s.restart_dead_codes and not last:
                tower.quantizer.restart_dead_codes(z, codes, self.optimizer, self.generator)
        return result


class RQVAEQuantizer(Quantizer):
    """An RQ-VAE for each modality (TIGER, MQL4GRec, MMGRec)."""

    shares_codewords = True
    trains_in_processes = True

    def learn(
        self, features: Mapping[str, Features], settings: SemanticIDSettings, execution: Execution = Execution()
    ) -> LearntCodes:
        """Train every modality alone, so that its codes do not depend on other modalities. See :meth:`Quantizer.learn`."""
        return learn_alone(features, settings, execution, RQVAETraining)

    def quantize(
        self, x: StreamedFeatures, weights: dict[str, Tensor], settings: SemanticIDSettings
    ) -> tuple[np.ndarray, Geometry]:
        model = RQVAE(x.shape[1], settings, torch.Generator()).eval()
        model.load_state_dict(weights)
        z, quantizer = model.encode(x), model.quantizer
        return quantizer.codes(z).numpy(), Geometry(z.numpy(), quantizer.codebooks.detach().numpy())


class CrossModalRQVAEQuantizer(RQVAEQuantizer):
    """An RQ-VAE for each modality, trained together with losses between modalities (MACRec)."""

    joins_modalities = True

    def learn(
        self, features: Mapping[str, Features], settings: SemanticIDSettings, execution: Execution = Execution()
    ) -> LearntCodes:
        training = RQVAETraining(features, settings, execution.device, execution.group)
        return training.run(execution.show_progress, execution.state_file("joint"))


def learn_alone(
    features: Mapping[str, Features], settings: SemanticIDSettings, execution: Execution, create: Callable[..., RQVAETraining]
) -> LearntCodes:
    """Train every modality alone; ``create`` takes the arguments of :class:`RQVAETraining`."""
    parts = []
    for modality, x in features.items():
        seed = (settings.semantic_id_seed + zlib.crc32(modality.encode()) % 10_000) % 2**32
        alone = settings.replace(modalities=(modality,), semantic_id_seed=seed)
        training = create({modality: x}, alone, execution.device, execution.group)
        parts.append(training.run(execution.show_progress, execution.state_file(modality)))
    return LearntCodes(
        {m: learnt for part in parts for m, learnt in part.modalities.items()}, [e for part in parts for e in part.history]
    )


def duration(seconds: float) -> str:
    """Format seconds as text.

    Example: ``duration(75)`` is ``"1 min 15 s"``, ``duration(8000)`` is ``"2 h 13 min"``.
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
