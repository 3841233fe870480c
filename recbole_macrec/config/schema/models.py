"""All options of each model, with its defaults and the values of its paper."""
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from recbole.evaluator.register import metric_information

from recbole_macrec.config.schema.alignment import ExplicitOptions, ImplicitOptions
from recbole_macrec.config.schema.base import (
    Above0,
    Described,
    Dropout,
    FilePath,
    Flag,
    Fraction,
    Layers,
    NotNegative,
    Number,
    Options,
    Positive,
    Width,
    as_list,
    choices,
    derive,
    option,
)
from recbole_macrec.config.schema.general import GENERAL
from recbole_macrec.config.schema.network import NetworkOptions, SizeOptions
from recbole_macrec.config.schema.protocol import PROTOCOL, AnyModelOptions
from recbole_macrec.config.schema.ranking import PrecisionOptions, RankingOptions
from recbole_macrec.config.schema.recbole import evaluation_modes
from recbole_macrec.config.schema.semantic_ids import SemanticIDOptions, TokenizationOptions
from recbole_macrec.config.schema.text_to_text import InstructionOptions, TextOptions, VisualOptions
from recbole_macrec.config.schema.training import RankedOptions, SequenceOptions, TrainingOptions
from recbole_macrec.errors import UserError

WHOLE_ORDER = "rec.meanrank"  # data needed by RecBole's metrics over the whole ranking, such as GAUC

_TRAINING = {
    "epochs": 200,
    "learner": "adamw",
    "weight_decay": 0.01,
    "clip_grad_norm": {"max_norm": 1.0},
    "eval_batch_size": 1024,
}
_PAPER = {"epochs": 200, "train_batch_size": 2048, "learner": "adamw", "learning_rate": 0.001, "weight_decay": 0.01,
          "eval_step": 1, "MAX_ITEM_LIST_LENGTH": 20}


RANK_METRICS = ("hit", "mrr", "ndcg", "recall")  # metrics of the target's rank, by which the weight of a dense head is chosen


def _refuse_whole_order(options: Any, reason: str) -> None:
    """Refuse ``metrics`` of the whole order in a ranking of all items; ``reason`` ends the message."""
    if "full" not in evaluation_modes(options):
        return
    for metric in as_list(options.metrics):
        if WHOLE_ORDER in metric_information[metric.lower()]:
            raise UserError(f"metrics contains {metric}, which needs a ranking of all items, but {reason}")


def _check_ranked_items(options: Any) -> None:
    """Check ``metrics`` and ``topk`` against the items that ``decode`` ranks: only ``exact`` puts all items in order, and a
    list of k items needs k beams."""
    ranked = {
        "beam": "the items that its beams find", "fused": "the items that its beams find",
        "certified": "the first max(topk) items",
    }.get(options.decode)  # fmt: skip
    if ranked is None:
        return
    exact = "set decode: exact, or " if "exact" in choices(type(options).model_fields["decode"]) else ""
    _refuse_whole_order(options, f"decode: {options.decode} ranks only {ranked}; {exact}remove the metric.")
    largest = max(as_list(options.topk), default=0)
    if options.decode != "certified" and options.num_beams < largest:
        raise UserError(
            f"num_beams is {options.num_beams}; expected at least {largest}, the largest topk, as a list of {largest} items "
            "needs as many beams. Raise num_beams or lower topk."
        )


class _GenerativeOptions(
    AnyModelOptions, SemanticIDOptions, TokenizationOptions, TrainingOptions, SequenceOptions, NetworkOptions, RankingOptions
):
    @model_validator(mode="after")
    def _check_attention(self) -> "_GenerativeOptions":
        if (self.training, self.network, self.encoder_attention) == ("per_user", "encoder_decoder", "bidirectional"):
            raise UserError(
                "training is per_user and encoder_attention is bidirectional: the encoder would see the items to predict. Set "
                "encoder_attention to causal, or training to per_target."
            )
        return self

    @model_validator(mode="after")
    def _check_head_width(self) -> "_GenerativeOptions":
        if self.network == "decoder_only" and self.d_kv % 2:
            raise UserError(
                f"d_kv is {self.d_kv} and network is decoder_only, whose rotary positions rotate pairs of entries; expected an "
                "even d_kv."
            )
        return self

    @model_validator(mode="after")
    def _check_prompt(self) -> "_GenerativeOptions":
        if self.prompt == "task" and self.network == "decoder_only":
            raise UserError(
                "prompt is task and network is decoder_only, which predicts all targets of a source in one pass without a "
                "prompt; set prompt to source, or network to encoder_decoder."
            )
        return self

    @model_validator(mode="after")
    def _check_dense_head(self) -> "_GenerativeOptions":
        if self.dense_head and self.network != "decoder_only":
            raise UserError(
                f"dense_head is True and network is {self.network}; set network to decoder_only, or dense_head to False."
            )
        if self.decode != "fused":
            return self
        if not self.dense_head:
            raise UserError(
                "decode is fused and dense_head is False; set dense_head to True, or decode to beam, certified or exact."
            )
        mode = self.eval_args.mode if isinstance(self.eval_args.mode, str) else self.eval_args.mode.valid
        if mode != "full":
            raise UserError(
                f"decode is fused and the mode of eval_args is {mode} for validation, but the weight of the dense head is "
                "chosen on a ranking of all items; set it to full."
            )
        if self.valid_metric.lower().partition("@")[0] not in RANK_METRICS:
            raise UserError(
                f"decode is fused and valid_metric is {self.valid_metric}, by which the weight of the dense head is chosen; "
                "expected Hit@k, MRR@k, NDCG@k or Recall@k."
            )
        return self

    @model_validator(mode="after")
    def _check_tuning(self) -> "_GenerativeOptions":
        count = self.tokenizations or 1
        if self.tokenization_tuning and count == 1:
            raise UserError(
                f"tokenization_tuning is {self.tokenization_tuning} and tokenizations is 1; set tokenizations to 2 or more, or "
                "tokenization_tuning to 0."
            )
        if self.tokenization_tuning and self.tokenization_tuning >= self.epochs:
            raise UserError(
                f"tokenization_tuning is {self.tokenization_tuning} and epochs is {self.epochs}, so no epoch trains all "
                "tokenizations; expected fewer than epochs."
            )
        if (self.ranked_tokenizations or 1) > count:
            raise UserError(
                f"ranked_tokenizations is {self.ranked_tokenizations} and tokenizations is {count}; expected at most {count}, "
                "or None for all."
            )
        return self

    @model_validator(mode="after")
    def _check_ranking(self) -> "_GenerativeOptions":
        _check_ranked_items(self)
        return self


GenerativeOptions: Any = derive(
    "GenerativeOptions", _GenerativeOptions, PROTOCOL | _TRAINING | {"rqvae_preset": "default"}, _PAPER
)

# a narrow network that learns most in an hour of a CPU; the presets of the models have other values
_RECIPE = {
    "network": "decoder_only", "training": "per_user", "output": "trie", "decode": "certified", "d_ff": 512, "num_heads": 4,
    "d_kv": 32, "dropout_prob": 0.15, "epochs": 12, "eval_step": 4, "train_batch_size": 64, "learning_rate": 0.002,
    "weight_decay": 0.05, "warmup_ratio": 0.02,
}  # fmt: skip
_ALIGNED_RECIPE = _RECIPE | {"fusion": "lse", "cross_task_ratio": 0.25, "item_task_ratio": 0.075}

TIGEROptions: Any = derive(
    "TIGEROptions", GenerativeOptions,
    defaults=_RECIPE | {"max_modalities": 1, "quantizer": "rqvae", "collision": "extra_token", "prompt_length": 0},
    paper={"quantizer": "rqvae", "collision": "extra_token", "rqvae_preset": None, "con_layers": None, "con_positives": None,
           "lambda_con": None, "lambda_align": None, "pseudo_labels": None, "contrast_temperature": None,
           "con_denominator": None, "fusion": None, "prompt": None},
)  # fmt: skip


class _MQL4GRecOptions(GenerativeOptions, ExplicitOptions):
    @model_validator(mode="after")
    def _check_ids(self) -> "_MQL4GRecOptions":
        if self.representation != "modality":
            name, expected = "representation", "modality"
        elif self.max_modalities == 1:
            name, expected = "max_modalities", "2 or more"
        elif self.quantizer == "cid" and self.semantic_ids != "published":
            name, expected = "quantizer", "one that reads features"
        else:
            return self
        raise UserError(
            f"{name} is {getattr(self, name)}, so an item has one ID, but the model fuses rankings of two or more modalities; "
            f"set {name} to {expected}, or use --model=TIGER or MMGRec."
        )

    @model_validator(mode="after")
    def _check_history(self) -> "_MQL4GRecOptions":
        if self.history == "both" and self.network != "decoder_only":
            raise UserError(
                f"history is both and network is {self.network}; set network to decoder_only, or history to single."
            )
        return self

    @model_validator(mode="after")
    def _check_tokenizations(self) -> "_MQL4GRecOptions":
        if (self.ranked_tokenizations or self.tokenizations or 1) > 1 and self.fusion == "official":
            raise UserError(
                f"tokenizations is {self.tokenizations} and fusion is official, a rule for one ranking per modality; set "
                "fusion to lse or mean, or ranked_tokenizations to 1."
            )
        return self

    @model_validator(mode="after")
    def _check_fused_items(self) -> "_MQL4GRecOptions":
        if self.decode == "exact" and self.fusion == "official":
            _refuse_whole_order(
                self,
                "fusion: official ranks only the first num_beams items of each modality; set fusion: mean or lse, or remove "
                "the metric.",
            )
        return self


class _MACRecOptions(_MQL4GRecOptions, ImplicitOptions):
    pass


MQL4GRecOptions: Any = derive(
    "MQL4GRecOptions", _MQL4GRecOptions,
    defaults=_ALIGNED_RECIPE | {"quantizer": "rqvae"},
    paper={"quantizer": "rqvae", "sinkhorn_epsilon": 0.003, "learning_rate": 0.0005, "train_batch_size": 987,
           "rqvae_preset": None, "con_layers": None, "con_positives": None, "lambda_con": None, "lambda_align": None,
           "pseudo_labels": None, "contrast_temperature": None, "con_denominator": None},
)  # fmt: skip
MACRecOptions: Any = derive("MACRecOptions", _MACRecOptions, _ALIGNED_RECIPE, paper={"train_batch_size": 987})


class _MMGRecOptions(GenerativeOptions):
    momentum: Fraction = option(0.0, "Momentum of learner: sgd", 0.99)
    attention: Literal["relation_aware", "positions", "sinusoidal", "none"] = option(
        "relation_aware",
        "Attention of the encoder: scaled by the user's representation; or plain, with relative, sinusoidal or no positions",
        "relation_aware",
    )
    norm: Literal["pre_rms", "post_layer"] = option(
        "pre_rms", "RMSNorm before each layer of the network, or LayerNorm after its residual connection", "post_layer")
    decoder_positions: Literal["relative", "sinusoidal"] = option(
        "relative",
        "Positions of the decoder: relative position biases, or sinusoidal encodings added to the embeddings",
        "sinusoidal",
    )


_NOT_IN_PAPER = (
    "rqvae_preset", "rqvae_projection", "rqvae_hidden_sizes", "rqvae_epochs", "rqvae_batch_size", "rqvae_learning_rate",
    "rqvae_weight_decay", "rqvae_warmup_epochs", "restart_dead_codes", "commitment_weight", "residual", "con_layers",
    "con_positives", "lambda_con", "lambda_align", "pseudo_labels", "contrast_temperature", "con_denominator", "code_dim",
    "epochs", "dropout_prob", "fusion", "decode", "num_beams", "output", "encoder_attention", "prompt", "eval_step",
    "MAX_ITEM_LIST_LENGTH",
)  # fmt: skip
MMGRecOptions: Any = derive(
    "MMGRecOptions", _MMGRecOptions,
    defaults={
        "representation": "graph", "quantizer": "rqvae", "collision": "popularity", "codebook_levels": 3, "codebook_size": 128,
        "rqvae_projection": 0, "rqvae_hidden_sizes": (64,), "rqvae_epochs": 200, "rqvae_preset": "paper",
        "encoder_input": "graph", "train_batch_size": 256, "encoder_attention": "bidirectional", "d_model": 64, "d_ff": 256,
        "num_heads": 4, "d_kv": 16, "encoder_layers": 2, "decoder_layers": 2, "dropout_prob": 0.2, "prompt_length": 0,
        "MAX_ITEM_LIST_LENGTH": 32, "precision": "fp32",
    },
    paper=dict.fromkeys(_NOT_IN_PAPER) | {
        "representation": "graph", "quantizer": "rqvae", "collision": "popularity", "codebook_levels": 3, "codebook_size": 128,
        "graph_sizes": (128, 128, 64), "graph_dropout": (0.5, 0.2), "graph_batch_size": 3000, "graph_learning_rate": 1e-3,
        "graph_weight_decay": 1e-6, "graph_negatives": 5, "graph_training": "joint", "encoder_input": "graph", "learner": "sgd",
        "learning_rate": 0.001, "weight_decay": 1e-5, "scheduler": "constant", "warmup_ratio": 0.0,
        "train_batch_size": 500, "stopping_step": 20, "valid_metric": "Recall@10", "d_model": 64, "d_ff": 64, "num_heads": 4,
        "d_kv": 64, "encoder_layers": 2, "decoder_layers": 2,
    },
    types={"network": Literal["encoder_decoder"], "encoder_attention": Literal["bidirectional"],
           "training": Literal["per_target"], "tokenizations": Literal[1], "tokenization_tuning": Literal[0],
           "ranked_tokenizations": Literal[None], "dense_head": Literal[False],
           "decode": Literal["beam", "certified", "exact"]},
)  # fmt: skip


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("odd")
    return value


class _SASRecPerUserOptions(
    AnyModelOptions, SemanticIDOptions, TrainingOptions, SequenceOptions, SizeOptions, PrecisionOptions
):
    item_features: Literal["none", "codes"] = option(
        "none", "Vector of an item: an embedding of its own, or that plus the embeddings of its semantic codes")


SASRecPerUserOptions: Any = derive(
    "SASRecPerUserOptions", _SASRecPerUserOptions,
    defaults=PROTOCOL | _TRAINING | {
        "epochs": 30, "train_batch_size": 128, "eval_step": 2, "warmup_ratio": 0.0125, "training": "per_user", "d_ff": 512,
        "num_heads": 4, "d_kv": 32, "decoder_layers": 2, "dropout_prob": 0.25, "rqvae_preset": "default",
    },
    paper=dict.fromkeys(_SASRecPerUserOptions.model_fields),
    types={"training": Literal["per_user"], "tokenizations": Literal[1],
           "d_kv": Annotated[Width, AfterValidator(_even), Described("an even whole number, as rotary positions rotate pairs "
                                                                     "of entries")]},
)  # fmt: skip


class _SequentialEASEOptions(AnyModelOptions, RankedOptions):
    reg_weight: Above0 = option(100.0, "Weight of the squared weights")
    decay: Annotated[Number, Field(gt=0, le=1)] = option(
        0.8, "Factor by which an item of the history counts less than the next one; 1: all count alike, as in EASE", 1.0)


SequentialEASEOptions: Any = derive(
    "SequentialEASEOptions", _SequentialEASEOptions, defaults=PROTOCOL | {"eval_batch_size": 1024}, paper={"decay": 1.0},
)  # fmt: skip


class _MISSRecOptions(AnyModelOptions, TrainingOptions, PrecisionOptions):
    embedding_size: Width = option(
        300, "Width D of item vectors, positions and both transformers; a multiple of num_heads", 300
    )
    num_heads: Positive = option(4, "Attention heads", 4)
    d_ff: Width = option(256, "Width of the feed-forward layers", 256)
    encoder_layers: Layers = option(1, "Layers of the encoder, which reads the interests", 1)
    decoder_layers: Layers = option(1, "Layers of the decoder, which reads the history", 1)
    dropout_prob: Dropout = option(0.5, "Dropout probability", 0.5)
    use_ids: Flag = option(True, "Give every item an embedding of its own beside its features", True)
    temperature: Above0 = option(0.07, "Temperature of the softmax over all items", 0.07)
    reg_weight: NotNegative = option(
        1e-4, "Weight of the norm of the pooled interests, a mean over the batch; the official code sums it", 1e-4
    )
    interest_ratio: Annotated[Number, Field(gt=0, le=1)] = option(
        0.1, "Clusters as a share of all item vectors; many make k-means the slowest step", 0.5)
    pre_model_path: FilePath | None = option(
        None, "Checkpoint of MISSRec on another dataset, with the same encoders of features: training starts from its weights, "
        "except for those of its items")
    freeze_pretrained: Flag = option(True, "Do not train the positions and the Transformer of pre_model_path", True)
    pass_tokens: Positive | None = option(
        None, "About the maximum number of items of a forward pass; None: 4,096 on CPU, 131,072 on GPU"
    )

    @model_validator(mode="after")
    def _check_heads(self) -> "_MISSRecOptions":
        if self.embedding_size % self.num_heads:
            raise UserError(f"num_heads is {self.num_heads}; expected a divisor of embedding_size ({self.embedding_size}).")
        return self


MISSRecOptions: Any = derive(
    "MISSRecOptions", _MISSRecOptions,
    defaults=PROTOCOL | _TRAINING | {"epochs": 300, "train_batch_size": 512, "learner": "adam", "weight_decay": 0.0,
                                     "scheduler": "constant", "warmup_ratio": 0.0, "clip_grad_norm": None},
    paper=dict.fromkeys(("training_preset", "training", "scheduler", "warmup_ratio")) | {"epochs": 300, "train_batch_size": 512,
                               "learner": "adam", "learning_rate": 0.001, "stopping_step": 10, "MAX_ITEM_LIST_LENGTH": 20},
    types={"training": Literal["per_target"]},
)  # fmt: skip


class _TextOptions(AnyModelOptions, SemanticIDOptions, TrainingOptions, SizeOptions, PrecisionOptions, TextOptions):
    pass_tokens: Positive | None = option(
        None, "On a GPU: about the maximum number of tokens of a part of a batch; None: 131,072. Not used on a CPU"
    )

    @model_validator(mode="after")
    def _check_ranking(self) -> "_TextOptions":
        _check_ranked_items(self)
        return self


class _VIP5Options(_TextOptions, VisualOptions):
    pass


class _LCRecOptions(_TextOptions, InstructionOptions):
    encoder_layers: Layers = option(2, "Not used, as the backbone has no encoder")
    d_kv: Width = option(64, "Not used: the width of a head is d_model / num_heads")
    dropout_prob: Dropout = option(0.1, "Dropout of the attention of backbone: tiny; a pretrained backbone has its own", 0.1)

    @model_validator(mode="after")
    def _check_heads(self) -> "_LCRecOptions":
        if self.backbone == "tiny" and self.d_model % (2 * self.num_heads):  # rotary positions rotate pairs
            raise UserError(f"num_heads is {self.num_heads}; expected half of d_model ({self.d_model}) to be a multiple of it.")
        return self


_TEXT = PROTOCOL | _TRAINING | {
    "max_modalities": 1, "rqvae_preset": "default", "eval_batch_size": 256, "d_model": 64, "d_ff": 256, "num_heads": 4,
    "d_kv": 16, "decoder_layers": 2,
}  # fmt: skip
_T5 = _TEXT | {"quantizer": "cid", "scheduler": "linear"}
# the papers' backbones have their own
_NOT_OF_THE_BACKBONES = dict.fromkeys([*SemanticIDOptions.model_fields, *SizeOptions.model_fields])
P5Options: Any = derive(
    "P5Options", _TextOptions,
    defaults=_T5 | {"train_batch_size": 128, "warmup_ratio": 0.05},
    paper=_NOT_OF_THE_BACKBONES | {
        "backbone": "t5-small", "item_index": "cid", "quantizer": "cid", "cid_clusters": 20, "cid_leaf_size": 500,
        "train_batch_size": 128, "learner": "adamw", "learning_rate": 0.001, "weight_decay": 0.01, "scheduler": "linear",
        "warmup_ratio": 0.05, "dropout_prob": 0.1, "MAX_ITEM_LIST_LENGTH": 20, "training_preset": None,
    },
    types={"training": Literal["per_target"], "tokenizations": Literal[1]},
)  # fmt: skip
VIP5Options: Any = derive(
    "VIP5Options", _VIP5Options,
    defaults=_T5 | {"train_batch_size": 144, "warmup_ratio": 0.1, "clip_grad_norm": {"max_norm": 5.0}},
    paper=_NOT_OF_THE_BACKBONES | {
        "backbone": "t5-small", "item_index": "random_digits", "train_batch_size": 144, "learner": "adamw",
        "learning_rate": 0.001, "weight_decay": 0.01, "scheduler": "linear", "warmup_ratio": 0.1, "dropout_prob": 0.1,
        "training_preset": None,
    },
    types={"training": Literal["per_target"], "tokenizations": Literal[1]},
)  # fmt: skip
LCRecOptions: Any = derive(
    "LCRecOptions", _LCRecOptions,
    defaults=_TEXT | {
        "item_index": "codes", "quantizer": "rqvae", "collision": "sinkhorn", "epochs": 4, "train_batch_size": 128,
        "learning_rate": 0.00005,
    },
    paper=_NOT_OF_THE_BACKBONES | {
        "item_index": "codes", "quantizer": "rqvae", "collision": "sinkhorn", "codebook_levels": 4, "codebook_size": 256,
        "code_dim": 32, "epochs": 4, "train_batch_size": 128, "learner": "adamw", "learning_rate": 0.00005,
        "weight_decay": 0.01, "scheduler": "cosine", "warmup_ratio": 0.01, "MAX_ITEM_LIST_LENGTH": 20, "training_preset": None,
    },
    types={"training": Literal["per_target"], "tokenizations": Literal[1], "item_index": Literal["codes", "cid"]},
)  # fmt: skip

MODELS: dict[str, type[Options]] = {
    "TIGER": TIGEROptions,
    "MQL4GRec": MQL4GRecOptions,
    "MACRec": MACRecOptions,
    "MMGRec": MMGRecOptions,
    "SASRecPerUser": SASRecPerUserOptions,
    "SequentialEASE": SequentialEASEOptions,
    "MISSRec": MISSRecOptions,
    "P5": P5Options,
    "VIP5": VIP5Options,
    "LCRec": LCRecOptions,
    **GENERAL,
}
