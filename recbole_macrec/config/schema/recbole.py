"""RecBole's options of which a wrong value would fail late or without notice, and the options of our protocol."""
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from recbole.evaluator.register import metric_types
from recbole.utils import EvaluatorType

from recbole_macrec.config.schema.base import (
    Above0,
    Count,
    Described,
    Flag,
    NotNegative,
    OptionGroup,
    Options,
    Positive,
    Seed,
    Text,
    as_list,
    option,
)
from recbole_macrec.errors import UserError, nearest

_Lower = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
_Mode = Annotated[
    Text, Field(pattern=r"^(full|labeled|(uni|pop)\d{1,9})$"), Described("full, labeled, uni100 or pop100 (or another number)")
]
_GPU = r"(\d{1,9}|GPU-[\w-]+|MIG-[\w/-]+)"
_GPUs = Annotated[
    Text,
    BeforeValidator(lambda value: ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)),
    Field(pattern=rf"^(|-1|{_GPU}(, ?{_GPU})*)$"),
    Described("numbers of GPUs, such as 0 or 0,1, or nothing for the CPU"),
]
_Columns = dict[Text, list[Text] | Literal["*"]] | None
_BOUND = r" *[+-]?(\d+\.?\d*([eE][+-]?\d+)?|inf) *"
_INTERVAL = rf" *[\[(]{_BOUND},{_BOUND}[\])] *"
_Intervals = Annotated[
    Text, Field(pattern=rf"^{_INTERVAL}(;{_INTERVAL})*$"), Described("intervals such as '[3,inf)' or '[1,2];[4,5]'")
]
_Separator = Annotated[Text, Field(min_length=1), Described("one or more characters")]


_Shares = Annotated[
    tuple[Above0, NotNegative, NotNegative] | None,
    Described("three numbers >= 0, the first above 0, such as [0.8, 0.1, 0.1]"),
]


class _Split(OptionGroup):
    RS: _Shares = None
    LS: Literal["valid_and_test", "valid_only", "test_only"] | None = None
    TS: _Shares = None

    @model_validator(mode="after")
    def _check_number(self) -> "_Split":
        if len(self.model_fields_set) != 1 or self.RS == self.LS == self.TS:
            raise UserError(
                f"eval_args.split has {' and '.join(sorted(self.model_fields_set)) or 'no split'}; expected one of "
                "RS: [0.8, 0.1, 0.1], LS: valid_and_test, and TS: [0.8, 0.1, 0.1]."
            )
        return self


class _Modes(OptionGroup):
    valid: _Mode = "full"
    test: _Mode = "full"


class EvalArgs(OptionGroup):
    """``eval_args``."""

    split: _Split | None = option(None, "RS: shares of a random split; LS: leave-one-out; TS: shares of a split at a time")
    group_by: Literal["user", "none"] | None = option("user", "Split each user's interactions, or all together")
    order: Literal["RO", "TO"] = option("RO", "Random or temporal order")
    mode: _Mode | _Modes = option("full", "Candidates that are ranked")

    @model_validator(mode="after")
    def _check_order(self) -> "EvalArgs":
        """RecBole takes the rows of a user for sorted when it compares them with the time of the split."""
        if self.split and self.split.TS and self.order != "TO":
            raise UserError(f"eval_args has the split TS and the order {self.order}; set order to TO.")
        return self


class RecBoleOptions(Options):
    """Options of RecBole. Options that are not listed here are passed to RecBole as they are."""

    gpu_id: _GPUs = option("0", "GPUs to use; nothing: the CPU")
    use_gpu: Flag = option(True, "Show the memory of the GPU. It does not select the device: an empty gpu_id selects the CPU")
    seed: Seed = option(2020, "Seed of all random numbers")
    reproducibility: Flag = option(True, "Deterministic algorithms of cuDNN")
    state: Annotated[Literal["debug", "info", "warning", "error", "critical"], _Lower] = option(
        "INFO", "Lowest level of log messages"
    )
    worker: Count = option(0, "Processes that load batches")
    show_progress: Flag = option(True, "Show progress bars")
    save_dataset: Flag = option(False, "Save the filtered dataset")
    save_dataloaders: Flag = option(False, "Save the split data")
    log_wandb: Flag = option(False, "Log to Weights & Biases, with the package wandb")
    shuffle: Flag = option(True, "Shuffle the training data before each epoch")

    epochs: Count = option(
        300, "Number of epochs. With scheduler: cosine or linear, the learning rate is zero after the last one. Early stopping "
        "(stopping_step) can end training sooner")
    train_batch_size: Positive = option(
        2048, "Training samples of an optimizer step; with training: per_user users, or windows of long histories")
    learner: Annotated[Literal["adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam"], _Lower] = option(
        "adam", "Optimizer"
    )
    learning_rate: NotNegative = option(0.001, "Learning rate; with a schedule its peak")
    weight_decay: NotNegative = option(0.0, "Weight decay; our models exempt norms, biases and relative position biases")
    clip_grad_norm: dict[Text, Any] | None = option(
        None, "Arguments of torch.nn.utils.clip_grad_norm_, such as {max_norm: 1.0}"
    )
    eval_step: Count = option(1, "Epochs from one validation to the next; 0: no validation")
    stopping_step: Count = option(
        10, "Training stops when more validations than this in a row have a lower valid_metric than the best one")
    loss_decimal_place: Annotated[Count, Field(le=15)] = option(4, "Decimal places of losses in the log")

    eval_args: EvalArgs = option({"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user", "order": "RO", "mode": "full"},
                                 "Split and candidates of the evaluation")
    repeatable: Flag | Literal["auto"] = option(
        False, "Items of the history stay candidates; auto: of sequential models, not of general ones. Sequential models "
        "always need True or auto")
    exclude_seen: Flag = option(
        False, "Leave the items of the history that a sequential model reads out of its full rankings, except the target; also "
        "in full_sort_topk, and the default of Recommender.recommend")
    metrics: Text | Annotated[list[Text], Field(min_length=1)] = option(
        ["Recall", "MRR", "NDCG", "Hit", "Precision"], "Metrics")
    topk: Positive | list[Positive] = option([10], "Lengths k of the ranked lists")
    valid_metric: Text = option("MRR@10", "Metric that selects the best epoch and ends training")
    valid_users: Positive | None = option(
        None, "Number of users for validation, the same ones for every model and seed; None: all. Testing is on all users")
    eval_batch_size: Positive = option(
        4096,
        "Users ranked at once; for general models scores computed at once, 1048576 also for RecBole's if they rank all items; "
        "fewer if they do not fit into memory",
    )
    metric_decimal_place: Annotated[Count, Field(le=15)] = option(4, "Decimal places of metrics")

    field_separator: _Separator = option("\t", "Separator of columns in atomic files")
    seq_separator: _Separator = option(" ", "Separator within sequences in atomic files")
    load_col: Annotated[_Columns, Described("a dictionary such as {inter: [user_id, item_id]}, or None")] = option(
        {"inter": ["user_id", "item_id"]}, "Columns to load, by suffix of the file")
    unload_col: Annotated[_Columns, Described("a dictionary such as {inter: [rating]}, or None")] = option(
        None, "Columns not to load, by suffix of the file")
    val_interval: Annotated[
        dict[Text, _Intervals | list[Text]] | None,
        Described("a dictionary such as {rating: '[3,inf)', user_id: [u1, u2]}, or None"),
    ] = option(None, "Values to keep, by column: intervals of numbers, or a list of tokens")
    user_inter_num_interval: _Intervals | None = option("[0,inf)", "Numbers of interactions of the users to keep")
    item_inter_num_interval: _Intervals | None = option("[0,inf)", "Numbers of interactions of the items to keep")
    rm_dup_inter: Literal["first", "last"] | None = option(
        None, "Interaction to keep of several of a user with the same item; None: all")
    benchmark_filename: Annotated[list[Text] | None, Described("a list such as ['train', 'valid', 'test'], or None")] = option(
        None, "Parts of a dataset that is split already, NAME.train.inter and so on; None: split NAME.inter by eval_args")
    MAX_ITEM_LIST_LENGTH: Positive = option(50, "Number of newest items of a history that a model reads")
    trust_checkpoint: Flag = option(False, "Unpickle checkpoints and datasets, which can run any code; never set by a file")

    @field_validator("log_wandb")
    @classmethod
    def _check_wandb(cls, value: bool) -> bool:
        if value and find_spec("wandb") is None:
            raise UserError(
                "log_wandb is True, but the package wandb is not installed; pip install wandb, or set log_wandb to False."
            )
        return value

    @model_validator(mode="after")
    def _check_metrics(self) -> "RecBoleOptions":
        """RecBole's metrics are computed from rankings (Hit, NDCG) or from the labels of samples (AUC, LogLoss, MAE, RMSE)."""
        known = sorted(metric_types)
        for metric in as_list(self.metrics):
            if metric.lower() not in known:
                raise UserError(f"There is no metric named '{metric}'.{nearest(metric.lower(), known)}")
        of_labels = label_metrics(self)
        of_rankings = [metric for metric in as_list(self.metrics) if metric not in of_labels]
        if of_labels and of_rankings:
            raise UserError(
                f"metrics contains {of_labels[0]}, which is computed from the labels of samples, and {of_rankings[0]}, which "
                "is computed from rankings; RecBole computes one kind in a run. Remove one of them."
            )
        modes = evaluation_modes(self)
        if of_labels and "full" in modes:
            raise UserError(
                f"metrics contains {of_labels[0]}, which is computed from the labels of samples, but the mode of eval_args is "
                "full, which ranks all items; choose metrics of rankings, such as Hit and NDCG, or set the mode to labeled."
            )
        if of_rankings and "labeled" in modes:
            raise UserError(
                f"metrics contains {of_rankings[0]}, which is computed from rankings, but the mode of eval_args is labeled, "
                "which ranks no items; set the mode to full or uni100, or choose metrics of labels, such as AUC."
            )
        return self


def evaluation_modes(options: Any) -> list[str]:
    """The modes of ``eval_args``: one for validation and test, or one for each."""
    mode = options.eval_args.mode
    if isinstance(mode, str):
        return [mode]
    given = [getattr(mode, name) for name in sorted(mode.model_fields_set)]  # RecBole gives the other one the same mode
    return given or ["full"]


def label_metrics(options: Any) -> list[str]:
    """The names in ``metrics`` that RecBole computes from the labels of samples."""
    return [metric for metric in as_list(options.metrics) if metric_types.get(metric.lower()) == EvaluatorType.VALUE]
