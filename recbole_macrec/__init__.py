"""Generative sequential recommendation over multimodal semantic IDs, as RecBole models."""
from recbole_macrec import compat

compat.apply()
