"""Whether a split leaves interactions to train on and to test, the same in all processes, said before anything is trained."""
import hashlib
from collections import Counter

import numpy as np
from recbole.utils import ModelType, set_color

from recbole_macrec.errors import UserError


def check_parts(dataset, parts: list) -> None:
    """Check the parts ``[train, valid, test]`` that ``dataset`` was split into.

    A sequential model trains on prefixes, so the first interaction of a user is only read, and RecBole leaves out what is too
    short for a split: of a user with two interactions nothing is tested.

    Raises:
        UserError: when nothing is left to train on, or nothing to test although ``eval_args`` sets test data aside.
    """
    if len(parts) != 3:  # benchmark files, of which benchmark_filename names some alone
        return
    train, valid, test = parts
    if not len(train):
        raise UserError(_nothing_left(dataset, parts, "train on"))
    if not len(test) and tests(dataset.config):
        raise UserError(_nothing_left(dataset, parts, "test"))
    if not len(valid):
        dataset.logger.warning(set_color("No interaction is left to validate: the weights of the last epoch are kept.", "yellow"))


def checksums(dataset, parts: list) -> dict[str, str]:
    """What has to be the same in all processes that train together, by name: tokens, and the rows of each part."""
    tokens = hashlib.sha256()
    for field in (dataset.uid_field, dataset.iid_field):
        tokens.update("\0".join(map(str, dataset.field2id_token.get(field, ()))).encode())
    rows = hashlib.sha256()
    for part in parts:
        for field, values in part.inter_feat.interaction.items():
            rows.update(field.encode())
            rows.update(np.ascontiguousarray(values.numpy()).data)
    return {"the users and items": tokens.hexdigest(), "the rows to train and test on": rows.hexdigest()}


def tests(config) -> bool:
    """Whether ``eval_args`` sets test data aside."""
    if config["benchmark_filename"]:
        return True
    ((mode, value),) = config["eval_args"]["split"].items()
    return value != "valid_only" if mode == "LS" else value[-1] > 0


def _nothing_left(dataset, parts: list, purpose: str) -> str:
    """The sentence for a part without rows."""
    config = dataset.config
    if config["benchmark_filename"]:
        return f"{config['dataset']}: the benchmark files {config['benchmark_filename']} hold no interaction to {purpose}; add some."
    sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    rows = Counter(user for part in parts for user in part.inter_feat[part.uid_field].tolist())
    most = max(rows.values(), default=0) + sequential
    needed = "three of a user (one to read, one to train on, one to test)" if sequential else "two of a user (one to train on, one to test)"
    return (
        f"{config['dataset']}: the split {config['eval_args']['split']} leaves no interaction to {purpose}: the {dataset.user_num - 1} "
        f"users have at most {most} interaction{'s' * (most != 1)} each, and {config['model']} needs {needed}; use data with longer "
        "histories, or another split in eval_args."
    )
