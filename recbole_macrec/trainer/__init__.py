"""The RecBole trainer of our models."""
from recbole_macrec.trainer.trainer import GenerativeTrainer

__all__ = ["GenerativeTrainer"]
