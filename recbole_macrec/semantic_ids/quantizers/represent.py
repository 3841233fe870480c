"""Quantized representations: features of each modality, concatenated features, or graph representations.

Shapes: U users, N items, F_m feature width of modality m.
"""
from collections.abc import Mapping

import numpy as np
from scipy.sparse import csr_matrix

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.codes import LearntCodes
from recbole_macrec.semantic_ids.quantizers import QUANTIZERS
from recbole_macrec.semantic_ids.quantizers.base import Execution
from recbole_macrec.semantic_ids.quantizers.graph import GraphTraining, JointTraining
from recbole_macrec.semantic_ids.rows import ComputedRows, Features
from recbole_macrec.semantic_ids.settings import SemanticIDSettings


def represent_and_learn(features: Mapping[str, Features], interactions: csr_matrix | None, settings: SemanticIDSettings,
                        execution: Execution = Execution()) -> LearntCodes:
    """Learn codes of the representation given by ``settings``, and the graph if it is needed.

    Args:
        features: modality -> [N, F_m].
        interactions: training interactions [U, N], for the graph.
        execution: several processes, only for :attr:`SemanticIDSettings.trains_in_processes`.

    Raises:
        UserError: a graph is required, but there are no interactions.
    """
    quantizer = QUANTIZERS[settings.quantizer]()
    if settings.reads_interactions:
        if interactions is None:
            raise UserError(
                f"quantizer = {settings.quantizer} needs the training interactions, which are known after a run has split "
                "the data; run a model with it, or choose another quantizer."
            )
        return quantizer.learn(dict.fromkeys(settings.ids, interactions), settings, execution)
    if not settings.uses_graph:
        return quantizer.learn(_matrices_to_quantize(features, settings, None), settings, execution)
    if interactions is None:
        raise UserError("representation = graph and encoder_input = graph need the training interactions, which are known "
                        "after a run has split the data; run a model with them, or choose another representation.")
    if settings.trains_jointly:
        training = JointTraining(features, interactions, settings, execution.device)
        return training.run(execution.show_progress, execution.state_file("joint"))
    graph_training = GraphTraining(features, interactions, settings, execution.device)
    graph, history = graph_training.run(execution.show_progress, execution.state_file("graph-network"))
    learnt = quantizer.learn(_matrices_to_quantize(features, settings, graph.items), settings, execution)
    return learnt._replace(history=[*history, *learnt.history], graph=graph)


def _matrices_to_quantize(features: Mapping[str, Features], settings: SemanticIDSettings,
                          items: np.ndarray | None) -> Mapping[str, Features]:
    """Matrices to quantize, by the name of the ID."""
    if settings.representation == "modality":
        return features
    (name,), auxiliary = settings.ids, {name: features[name] for name in settings.auxiliary_features}
    if settings.representation == "graph":
        if items is None:
            raise ValueError("items is None; expected the graph's representations of the items")
        return {name: items, **auxiliary}
    modalities = tuple(features[m] for m in settings.modalities)
    width = sum(x.shape[1] for x in modalities)
    return {name: ComputedRows(modalities, lambda *parts: np.concatenate(parts, axis=1), width), **auxiliary}
