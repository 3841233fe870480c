"""Using a trained model: recommendations for any history, new items, and the folder that a model travels in."""
from recbole_macrec.recommend.recommender import Recommender

__all__ = ["Recommender"]
