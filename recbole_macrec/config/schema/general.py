"""All options of the general recommenders in baselines/, with the values of their papers or released code."""
from typing import Any, Literal

from pydantic import model_validator

from recbole_macrec.config.schema.base import (
    AtLeast2,
    Count,
    Dropout,
    Flag,
    Fraction,
    Layers,
    NotNegative,
    Options,
    Positive,
    Width,
    derive,
    option,
)
from recbole_macrec.config.schema.protocol import EVAL_BATCH_SCORES, PROTOCOL, AnyModelOptions
from recbole_macrec.config.schema.training import TrainingOptions
from recbole_macrec.errors import UserError


class PairwiseOptions(AnyModelOptions, TrainingOptions):
    """Options of all general recommenders."""

    embedding_size: Width = option(64, "Width of the trained vectors of users and items", 64)
    reg_weight: NotNegative = option(1e-5, "Weight of the penalty that the model's class describes")


class FeatureReaderOptions(Options):
    """Options of models that read item features."""

    feature_scaling: Literal["rows", "columns"] = option(
        "rows", "rows: L2-normalise the features of each item; columns: standardise each feature")


class LayerOptions(Options):
    """Options of models with layers."""

    n_layers: Layers = option(2, "Layers of the graph network, of LightGT its transformer", 2)


class _GraphSAGEOptions(PairwiseOptions, FeatureReaderOptions, LayerOptions):
    node_features: Literal["ids", "both"] = option("ids", "Input of an item: trained vectors, or half of it projected features")
    normalize: Flag = option(False, "Give representations norm 1", True)

    @model_validator(mode="after")
    def _check_width(self) -> "_GraphSAGEOptions":
        if self.node_features == "both" and self.embedding_size < 2:
            raise UserError(f"embedding_size is {self.embedding_size}; expected at least 2 with node_features: both.")
        return self


class _GATOptions(PairwiseOptions, LayerOptions):
    n_heads: Positive = option(4, "Attention heads; a divisor of embedding_size", 8)
    dropout_prob: Dropout = option(0.1, "Dropout of layer inputs and attention weights", 0.6)

    @model_validator(mode="after")
    def _check_heads(self) -> "_GATOptions":
        if self.embedding_size % self.n_heads:
            raise UserError(f"n_heads is {self.n_heads}; expected a divisor of embedding_size ({self.embedding_size}).")
        return self


class _VBPROptions(PairwiseOptions, FeatureReaderOptions):
    biases: Flag = option(True, "Bias of each item and bias of its features", True)


class _MMGCNOptions(PairwiseOptions, FeatureReaderOptions, LayerOptions):
    max_feature_width: Width = option(256, "Wider features are projected to this width", 256)
    combination: Literal["concat", "add"] = option("concat", "How a layer combines neighbours and the node itself", "concat")


class _GRCNOptions(PairwiseOptions, FeatureReaderOptions):
    routing_rounds: Count = option(3, "Rounds of neighbour routing", 3)
    prune: Flag = option(False, "Set negative edge weights to 0", False)


class _LATTICEOptions(PairwiseOptions, FeatureReaderOptions, LayerOptions):
    n_neighbours: Positive = option(10, "Similar items that an item is connected with, itself included", 10)
    n_item_layers: Layers = option(1, "Propagations on the graph of the items", 1)
    feature_graph_weight: Fraction = option(0.9, "Weight of the graph of the features themselves", 0.9)
    cf: Literal["lightgcn", "mf"] = option("lightgcn", "Collaborative model", "lightgcn")
    train_features: Flag = option(False, "Also train the features", True)


class _InvRLOptions(PairwiseOptions, FeatureReaderOptions):
    feature_embedding_size: Width = option(64, "Width of the projected features", 64)
    n_negatives: Positive = option(50, "Random items for an interaction", 50)
    pretrain_epochs: Count = option(50, "Epochs of the backbone that the mask is learnt with", 500)
    mask_rounds: Count = option(2, "Rounds of environments and mask; 0: no mask", 5)
    n_environments: AtLeast2 = option(10, "Environments", 10)
    environment_updates: Count = option(2, "Maximum number of updates of the environments in a round", 10)
    environment_steps: Count = option(50, "Optimizer steps of an environment's projection in an update; official: 20 epochs")
    environment_l1: NotNegative = option(0.01, "Weight of mean |W * mask| in an environment", 0.01)
    mask_steps: Count = option(100, "Optimizer steps of the mask in a round; official: 40 epochs")
    mask_batch_size: Positive = option(512, "Interactions of an environment in a step of its projection and of the mask", 512)
    mask_learning_rate: NotNegative = option(0.01, "Learning rate of the environments and of the mask", 0.001)
    gradient_weight: NotNegative = option(1.0, "Weight of the difference of gradients; times 1.05 after each round", 1.0)
    mask_weight: NotNegative = option(0.1, "Weight of |mu|^2; times 1.05 after each round", 0.1)
    feature_reg_weight: NotNegative = option(0.01, "Weight of |W|^2 + |b|^2 of the projection", 0.01)


class _LightGTOptions(PairwiseOptions, FeatureReaderOptions, LayerOptions):
    n_graph_layers: Layers = option(4, "Layers of LightGCN, at least n_layers", 4)
    max_sequence_items: Positive = option(
        50, "Items of a user that the transformer reads: in training random ones, in ranking the latest", 50
    )
    target_in_input: Flag = option(False, "Leave the item to predict in the sequence", True)
    id_weight: Fraction = option(0.05, "Weight of the collaborative vectors in the score", 0.05)
    dropout_prob: Dropout = option(0.1, "Dropout of attention weights", 0.1)

    @model_validator(mode="after")
    def _check_layers(self) -> "_LightGTOptions":
        if self.n_graph_layers < self.n_layers:
            raise UserError(
                f"n_graph_layers is {self.n_graph_layers}; expected at least n_layers ({self.n_layers}), as each layer reads "
                "the mean of one more graph layer."
            )
        return self


_DEFAULTS = PROTOCOL | {"epochs": 1000, "scheduler": "constant", "warmup_ratio": 0.0, "precision": "fp32", "stopping_step": 20,
                        "eval_batch_size": EVAL_BATCH_SCORES}
_UNKNOWN = dict.fromkeys(("training_preset", "training", "scheduler", "warmup_ratio"))


def _options(base: type[Options], defaults: dict[str, Any], **paper: Any) -> type[Options]:
    types = {"precision": Literal["fp32"], "training": Literal["per_target"]}
    known = _UNKNOWN | {"learner": "adam", "stopping_step": 20} | paper
    return derive(base.__name__.removeprefix("_"), base, _DEFAULTS | defaults, known, types)


GraphSAGEOptions: Any = _options(_GraphSAGEOptions, {}, embedding_size=None)
GATOptions: Any = _options(_GATOptions, {}, embedding_size=None, learning_rate=0.005)
VBPROptions: Any = _options(_VBPROptions, {}, embedding_size=10, learner="sgd")
MMGCNOptions: Any = _options(_MMGCNOptions, {"learning_rate": 1e-4, "reg_weight": 1e-4, "train_batch_size": 1024},
                             learning_rate=1e-4, reg_weight=1e-4, train_batch_size=1024, epochs=1000)
GRCNOptions: Any = _options(_GRCNOptions, {"learning_rate": 1e-4, "reg_weight": 1e-4, "train_batch_size": 1024},
                            learning_rate=1e-4, reg_weight=1e-4, train_batch_size=1024)
LATTICEOptions: Any = _options(_LATTICEOptions, {"learning_rate": 5e-4, "train_batch_size": 1024, "epochs": 200},
                               learning_rate=5e-4, reg_weight=1e-5, train_batch_size=1024, epochs=200, stopping_step=10)
InvRLOptions: Any = _options(_InvRLOptions, {"reg_weight": 1e-4, "train_batch_size": 512, "epochs": 500},
                             learning_rate=1e-3, reg_weight=1e-4, train_batch_size=512, epochs=500, stopping_step=40)
LightGTOptions: Any = _options(_LightGTOptions, {"n_layers": 4, "reg_weight": 0.01},
                               n_layers=4, learning_rate=0.01, reg_weight=0.01, train_batch_size=2048)

GENERAL: dict[str, type[Options]] = {
    "GraphSAGE": GraphSAGEOptions,
    "GAT": GATOptions,
    "VBPR": VBPROptions,
    "MMGCN": MMGCNOptions,
    "GRCN": GRCNOptions,
    "LATTICE": LATTICEOptions,
    "InvRL": InvRLOptions,
    "LightGT": LightGTOptions,
}
