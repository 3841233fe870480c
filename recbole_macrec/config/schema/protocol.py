"""Options of every model, RecBole's included, and the protocol of ``properties/overall.yaml``."""
from typing import Literal

from recbole_macrec.config.schema.base import option
from recbole_macrec.config.schema.features import FeatureOptions
from recbole_macrec.config.schema.recbole import RecBoleOptions

PROTOCOL = {
    "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
    "metrics": ["Hit", "NDCG"],
    "topk": [1, 5, 10],
    "valid_metric": "NDCG@10",
    "repeatable": "auto",
    "MAX_ITEM_LIST_LENGTH": 20,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]},
}

# eval_batch_size of general models, where RecBole counts scores instead of users: its own default, 4,096, ranks one user at a
# time if there are more than 2,048 items.
EVAL_BATCH_SCORES = 2**20


class AnyModelOptions(RecBoleOptions, FeatureOptions):
    """Options of every model, RecBole's included."""


class OwnRecBoleOptions(AnyModelOptions):
    """Options of RecBole's models, with those of which a wrong value would fail late, without naming the option."""

    loss_type: Literal["CE", "BPR", "BCE", "MSE", "NLL"] | None = option(None, "Loss of the model")
    hidden_act: Literal["gelu", "relu", "swish", "tanh", "sigmoid"] | None = option(None, "Activation of a transformer")
