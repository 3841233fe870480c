"""Generative models as RecBole sequential recommenders."""
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_macrec.model.macrec import MACRec
from recbole_macrec.model.mmgrec import MMGRec
from recbole_macrec.model.mql4grec import MQL4GRec
from recbole_macrec.model.tiger import TIGER

MODELS: list[type[AbstractRecommender]] = [MACRec, MQL4GRec, TIGER, MMGRec]

__all__ = ["MACRec", "MMGRec", "MODELS", "MQL4GRec", "TIGER"]
