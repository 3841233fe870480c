"""Baselines of our own, trained as carefully as the generative models they are compared with."""
from recbole_macrec.baselines.sasrec_per_user import SASRecPerUser

BASELINES = [SASRecPerUser]

__all__ = ["BASELINES", "SASRecPerUser"]
