"""Datasets: files are prepared before RecBole reads them, and splits are checked."""
import functools
from glob import escape
from pathlib import Path

import pandas as pd
from recbole.data.dataset import Dataset
from recbole.sampler import Sampler
from recbole.utils import EvaluatorType, FeatureSource, FeatureType, ModelType

from recbole_macrec.config.schema.base import shown
from recbole_macrec.data.atomic import AtomicFormat
from recbole_macrec.data.attributes import choose_attributes
from recbole_macrec.data.columns import check_columns, is_sorted_by_time
from recbole_macrec.data.numbers import first_unreadable
from recbole_macrec.data.splits import check_split, checksums
from recbole_macrec.errors import UserError
from recbole_macrec.model.preparation import prepare_dataset
from recbole_macrec.utils.distributed import current_group
from recbole_macrec.utils.share_files import share_files


def prepare_before_loading() -> None:
    """Let every dataset class, RecBole's included, prepare its files before it reads them.

    A dataset with a ``source`` is downloaded, all processes get the same files, the columns are checked, and item attributes
    are chosen. A number that RecBole cannot read, a missing time and an unsuitable ``val_interval`` raise a UserError. A
    warning counts the interactions whose item or user has no row in its file.
    """
    load = Dataset._load_data

    @functools.wraps(load)
    def _load_data(self, token, dataset_path):
        prepare_dataset(self.config)
        share_files(Path(dataset_path), f"{escape(token)}.*")
        check_columns(self.config, Path(dataset_path), token)
        choose_attributes(self.config, Path(dataset_path), token)
        load(self, token, dataset_path)

    load_file = Dataset._load_feat

    @functools.wraps(load_file)
    def _load_feat(self, filepath, source):
        try:
            frame = load_file(self, filepath, source)
        except ValueError:
            error = first_unreadable(Path(filepath), AtomicFormat.from_config(self.config), self.field2type)
            if error is None:
                raise
            raise error from None
        if source == FeatureSource.INTERACTION and is_sorted_by_time(self.config):
            _check_times(self, frame, filepath)
        return frame

    filter_values = Dataset._filter_by_field_value

    @functools.wraps(filter_values)
    def _filter_by_field_value(self):
        _check_value_filter(self)
        filter_values(self)

    filter_unknown = Dataset._filter_inter_by_user_or_item

    @functools.wraps(filter_unknown)
    def _filter_inter_by_user_or_item(self):
        before = len(self.inter_feat)
        filter_unknown(self)
        if dropped := before - len(self.inter_feat):
            self.logger.warning(
                f"{dropped:,} of {before:,} interactions are left out, because {self.dataset_name}.item or "
                f"{self.dataset_name}.user has no row of their item or user."
            )

    Dataset._load_data, Dataset._load_feat, Dataset._filter_by_field_value = _load_data, _load_feat, _filter_by_field_value
    Dataset._filter_inter_by_user_or_item = _filter_inter_by_user_or_item


def _check_times(dataset: Dataset, interactions: pd.DataFrame, path: str) -> None:
    """Raise a UserError if one of the interactions has no time, since RecBole would give it the mean time."""
    time = dataset.time_field
    missing = interactions[time].isna().to_numpy()
    if missing.any():
        row = int(missing.argmax())
        raise UserError(
            f"{path} has no {time} in row {row + 1} below its first line, for user '{interactions[dataset.uid_field][row]}' "
            f"and item '{interactions[dataset.iid_field][row]}'; add a number, or remove the row."
        )


def _check_value_filter(dataset: Dataset) -> None:
    """Raise a UserError if ``val_interval`` names a column of sequences, or has a list for a column of numbers, or intervals
    for a column of tokens."""
    for column, kept in (dataset.config["val_interval"] or {}).items():
        if column not in dataset.field2type:
            continue  # RecBole reports it
        if dataset.field2type[column].value.endswith("_seq"):
            raise UserError(
                f"val_interval names the column {column}, which has sequences; RecBole filters only by columns with one value "
                "per row."
            )
        numbers = dataset.field2type[column] == FeatureType.FLOAT
        if numbers != isinstance(kept, str):
            expected = "intervals such as '[3,inf)'" if numbers else "a list of the tokens to keep, such as ['a', 'b']"
            raise UserError(
                f"val_interval is {shown(kept)} for the column {column}, which has {'numbers' if numbers else 'tokens'}; "
                f"expected {expected}."
            )


def report_users_without_negatives() -> None:
    """Let RecBole raise a UserError, not a ValueError, if a user interacted with all items, so that none can be sampled."""
    find_used = Sampler.get_used_ids

    @functools.wraps(find_used)
    def get_used_ids(self):
        try:
            return find_used(self)
        except ValueError:
            raise UserError(
                f"A user of {self.datasets[0].dataset_name} interacted with all {self.item_num - 1} items, so no negative item "
                "can be sampled for this user; leave the user out with val_interval or user_inter_num_interval."
            ) from None

    Sampler.get_used_ids = get_used_ids


def check_splits() -> None:
    """Let every dataset class, RecBole's included, check its split.

    There must be interactions to train on and to test, labels if the model needs them, as many items as ``topk`` ranks, and the
    same data in all processes.
    """
    build = Dataset.build

    @functools.wraps(build)
    def checked_build(self):
        parts = build(self)
        check_split(self, parts)
        _check_labels(self, parts[0])
        if self.config["eval_type"] == EvaluatorType.RANKING and max(self.config["topk"], default=0) >= self.item_num:
            raise UserError(f"topk is {self.config['topk']}; expected at most {self.item_num - 1}, the number of items of "
                            f"{self.dataset_name}.")
        if current_group().size > 1:
            current_group().check_same(checksums(self, parts))
        return parts

    Dataset.build = checked_build


def _check_labels(dataset: Dataset, train: Dataset) -> None:
    """Raise a UserError if the model is trained on labels (DeepFM, xgboost) and ``train`` has none.

    RecBole adds labels to sampled negatives.
    """
    config, label = dataset.config, dataset.label_field
    if config["MODEL_TYPE"] not in (ModelType.CONTEXT, ModelType.DECISIONTREE) or label in train.inter_feat:
        return
    if config["train_neg_sample_args"]["distribution"] == "none":
        raise UserError(
            f"{config['model']} is trained on labels, but {config['dataset']} has no column '{label}' (LABEL_FIELD); load one "
            "with load_col, compute it with threshold, such as {'rating': 4}, or sample negatives with "
            "train_neg_sample_args={'distribution': 'uniform', 'sample_num': 1}."
        )
