"""Checks of a dataset split before training: it has training and test interactions, the same in all processes."""
import hashlib
from collections import Counter

import numpy as np
from recbole.utils import ModelType, set_color

from recbole_macrec.errors import UserError


def check_split(dataset, parts: list) -> None:
    """Check the parts ``[train, valid, test]`` of a split dataset; warn if the validation part is empty.

    A sequential model trains on prefixes of histories, so the first interaction of a user is never a target. RecBole leaves
    out histories that are too short for a split: a user with two interactions has no test interaction.

    Raises:
        UserError: if ``benchmark_filename`` does not list three files, if the training part is empty, or the test part is empty
            although ``eval_args`` defines one.
    """
    if len(parts) != 3:
        raise UserError(
            f"benchmark_filename is {dataset.config['benchmark_filename']}; expected three files, to train, validate and test "
            "on, such as ['train', 'valid', 'test']."
        )
    train, valid, test = parts
    if not len(train):
        raise UserError(_empty_part_message(dataset, parts, "train on"))
    if not len(test) and has_test_data(dataset.config):
        raise UserError(_empty_part_message(dataset, parts, "test"))
    if not len(valid):
        dataset.logger.warning(
            set_color("No interaction is left to validate on; the weights of the last epoch are kept.", "yellow")
        )


def checksums(dataset, parts: list) -> dict[str, str]:
    """Return checksums of tokens and rows by name, which must be the same in all processes that train together."""
    tokens = hashlib.sha256()
    for field in (dataset.uid_field, dataset.iid_field):
        tokens.update("\0".join(map(str, dataset.field2id_token.get(field, ()))).encode())
    rows = hashlib.sha256()
    for part in parts:
        for field, values in part.inter_feat.interaction.items():
            rows.update(field.encode())
            rows.update(np.ascontiguousarray(values.numpy()).data)
    return {"the users and items": tokens.hexdigest(), "the rows to train and test on": rows.hexdigest()}


def has_test_data(config) -> bool:
    """Return whether the dataset has test data, by ``eval_args`` or ``benchmark_filename``."""
    if config["benchmark_filename"]:
        return True
    ((mode, value),) = config["eval_args"]["split"].items()
    return value != "valid_only" if mode == "LS" else value[-1] > 0


def _empty_part_message(dataset, parts: list, purpose: str) -> str:
    """Return the message for a part without interactions."""
    config = dataset.config
    if config["benchmark_filename"]:
        files = config["benchmark_filename"]
        return f"{config['dataset']}: the benchmark files {files} contain no interaction to {purpose}; add some."
    sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    rows = Counter(user for part in parts for user in part.inter_feat[part.uid_field].tolist())
    longest = max(rows.values(), default=0) + sequential
    needed = (
        "three per user (input, training target, test target)" if sequential else "two per user (one to train on, one to test)"
    )
    return (
        f"{config['dataset']}: the split {config['eval_args']['split']} leaves no interaction to {purpose}: the "
        f"{dataset.user_num - 1} users have at most {longest} interaction{'s' * (longest != 1)} each, and {config['model']} "
        f"needs {needed}; use data with longer histories, or another split in eval_args."
    )
