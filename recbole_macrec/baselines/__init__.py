"""Baselines: SASRecPerUser, trained like the generative models, and the general recommenders of MMGRec's comparison."""
from recbole_macrec.baselines.gat import GAT
from recbole_macrec.baselines.graphsage import GraphSAGE
from recbole_macrec.baselines.grcn import GRCN
from recbole_macrec.baselines.invrl import InvRL
from recbole_macrec.baselines.lattice import LATTICE
from recbole_macrec.baselines.lightgt import LightGT
from recbole_macrec.baselines.missrec import MISSRec
from recbole_macrec.baselines.mmgcn import MMGCN
from recbole_macrec.baselines.sasrec_per_user import SASRecPerUser
from recbole_macrec.baselines.vbpr import VBPR

BASELINES = [SASRecPerUser, MISSRec, GraphSAGE, GAT, VBPR, MMGCN, GRCN, LATTICE, InvRL, LightGT]

__all__ = ["BASELINES", "GAT", "GRCN", "GraphSAGE", "InvRL", "LATTICE", "LightGT", "MISSRec", "MMGCN", "SASRecPerUser", "VBPR"]
