"""Baselines: sequential models, the text-to-text models P5, VIP5 and LCRec, and the general recommenders of MMGRec."""
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_macrec.baselines.gat import GAT
from recbole_macrec.baselines.graphsage import GraphSAGE
from recbole_macrec.baselines.grcn import GRCN
from recbole_macrec.baselines.invrl import InvRL
from recbole_macrec.baselines.lattice import LATTICE
from recbole_macrec.baselines.lightgt import LightGT
from recbole_macrec.baselines.missrec import MISSRec
from recbole_macrec.baselines.mmgcn import MMGCN
from recbole_macrec.baselines.sasrec_per_user import SASRecPerUser
from recbole_macrec.baselines.sequential_ease import SequentialEASE
from recbole_macrec.baselines.text_to_text import P5, VIP5, LCRec
from recbole_macrec.baselines.vbpr import VBPR

BASELINES: list[type[AbstractRecommender]] = [
    SASRecPerUser, SequentialEASE, MISSRec, P5, VIP5, LCRec, GraphSAGE, GAT, VBPR, MMGCN, GRCN, LATTICE, InvRL, LightGT,
]  # fmt: skip

__all__ = [
    "BASELINES", "GAT", "GRCN", "GraphSAGE", "InvRL", "LATTICE", "LCRec", "LightGT", "MISSRec", "MMGCN", "P5", "SASRecPerUser",
    "SequentialEASE", "VBPR", "VIP5",
]  # fmt: skip
