"""Baselines of this project, trained with the same trainer as the generative models."""
from recbole_macrec.baselines.sasrec_per_user import SASRecPerUser

BASELINES = [SASRecPerUser]

__all__ = ["BASELINES", "SASRecPerUser"]
