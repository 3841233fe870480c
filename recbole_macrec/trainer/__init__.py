"""The RecBole trainer of the generative models."""
from recbole_macrec.trainer.trainer import GenerativeTrainer

__all__ = ["GenerativeTrainer"]
