"""Representations of users and items, learnt on the graph of their training interactions."""
from recbole_macrec.semantic_ids.quantizers.graph.joint import JointTraining
from recbole_macrec.semantic_ids.quantizers.graph.training import GraphTraining

__all__ = ["GraphTraining", "JointTraining"]
