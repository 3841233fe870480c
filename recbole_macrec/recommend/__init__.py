"""Use a trained model: recommend items for any history, add new items, save the model as a folder."""
from recbole_macrec.recommend.recommender import Recommender

__all__ = ["Recommender"]
