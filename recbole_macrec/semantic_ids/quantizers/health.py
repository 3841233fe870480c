"""Health of codebooks during training: records per epoch, and warnings."""
import logging

import numpy as np

from recbole_macrec.semantic_ids.settings import SemanticIDSettings
from recbole_macrec.semantic_ids.statistics import collision_rate, usage_and_perplexity

logger = logging.getLogger(__name__)

LOW_USAGE = 0.5  # share of the codes that the items can use
LOW_PERPLEXITY = 0.1


def code_health(codes: np.ndarray, sizes: tuple[int, ...]) -> dict:
    """Usage and perplexity per level and the collision rate of ``codes`` [N, L]."""
    usage, perplexity = usage_and_perplexity(codes, sizes)
    return {"usage": usage, "perplexity": perplexity, "collision_rate": collision_rate(codes)}


def health_warning(modality: str, health: dict, items: int, settings: SemanticIDSettings) -> str | None:
    """A warning that names a collapsing codebook and the option to change, or None."""
    reachable = min(settings.codebook_size, items)
    for level, (usage, perplexity) in enumerate(zip(health["usage"], health["perplexity"])):
        if usage < LOW_USAGE * reachable or perplexity < LOW_PERPLEXITY * reachable:
            return (f"Codebook {level} of modality '{modality}' is collapsing: {usage} of {settings.codebook_size} "
                    f"codes in use, perplexity {perplexity:.1f}, collision rate {health['collision_rate']:.1%}. "
                    f"{_advice(settings)}")
    return None


def _advice(settings: SemanticIDSettings) -> str:
    if not settings.standardize:
        return "Set standardize to True."
    if not settings.restart_dead_codes:
        return "Set restart_dead_codes to True."
    if settings.rqvae_warmup_epochs == 0:
        return "Set rqvae_warmup_epochs to 10."
    contrasts = settings.joins_modalities and settings.lambda_con > 0
    if contrasts and max(settings.con_layers, default=0) > 0:
        return "Lower lambda_con, or set rqvae_preset to default, which keeps L_con to the first layer."
    return "Lower codebook_size, rqvae_learning_rate or commitment_weight; or look for items with equal features."


def warn_once(modality: str, health: dict, items: int, settings: SemanticIDSettings, warned: set[str]) -> None:
    """Log the warning for a modality and add it to ``warned``, unless it is already there."""
    message = None if modality in warned else health_warning(modality, health, items, settings)
    if message:
        warned.add(modality)
        logger.warning(message)
