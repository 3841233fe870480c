"""VBPR compared with the VBPR of the package cornac, with the same data, features, settings and evaluation.

Shapes: U users, N items, both including the padding (number 0), which cornac does not have; F width of all features together, d
factors, B batch.
"""
import json
import statistics
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_trainer, init_seed
from torch import Tensor

from recbole_macrec.baselines.vbpr import VBPR
from recbole_macrec.config.options import config_of
from recbole_macrec.errors import UserError

SETTINGS = {
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user", "order": "RO", "mode": "full"},
    "metrics": ["Recall", "NDCG"],
    "topk": [10, 20],
    "valid_metric": "Recall@10",
    "biases": True,  # cornac's VBPR always has them
    "scheduler": "constant",
    "show_progress": False,
    "state": "ERROR",
}


def peer(args) -> dict:
    """Train both on one random split of 80/10/10 with ``args.seeds`` seeds, for ``args.epochs`` epochs without early stopping.

    cornac's parameters are copied into our model, which then ranks for cornac, so that one evaluator computes all metrics. The
    metrics of each seed are also printed to stderr as soon as they are known.

    Returns:
        ``ours``, ``cornac``: metric on the test data -> [mean, standard deviation over the seeds]; ``score_difference``: the
        largest difference between cornac's scores and those of our model with its parameters.

    Raises:
        UserError: if cornac is not installed.
    """
    if find_spec("cornac") is None:
        raise UserError("This benchmark compares with the package cornac, which is not installed: pip install cornac")
    settings = {"data_path": args.data_path, "epochs": args.epochs, "train_batch_size": args.batch, **SETTINGS}
    config = config_of(VBPR, args.dataset, [], settings)
    init_seed(config["seed"], True)
    train, _, test = data_preparation(config, create_dataset(config))
    results: dict[str, list[dict[str, float]]] = {"ours": [], "cornac": []}
    differences = []
    for seed in range(config["seed"], config["seed"] + args.seeds):
        init_seed(seed, True)
        model = VBPR(config, train.dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], "VBPR")(config, model)
        trainer.fit(train, saved=False, verbose=False)
        results["ours"].append(dict(trainer.evaluate(test, load_best_model=False)))
        theirs = train_cornac(model, config, seed)
        copy_parameters(theirs, model)
        differences.append(score_difference(theirs, model))
        results["cornac"].append(dict(trainer.evaluate(test, load_best_model=False)))
        print(json.dumps({"seed": seed, **{name: runs[-1] for name, runs in results.items()}}), file=sys.stderr, flush=True)
    return {**{name: mean_and_deviation(runs) for name, runs in results.items()}, "score_difference": max(differences)}


def train_cornac(model: VBPR, config, seed: int):
    """Train cornac's VBPR on the interactions and features of ``model``, with the same factors, loss and optimizer.

    Two differences remain. cornac adds the bias differences c . (x_i - x_j) of a batch as a column [B, 1] to the other score
    differences as a row [B], so its loss is a sum over B^2 combinations; ours is a mean over B pairs, and the weights of the
    penalty are multiplied accordingly. And cornac multiplies the penalty of the bias of negative items by 0.1.
    """
    from cornac.data import Dataset, ImageModality
    from cornac.models import VBPR as CornacVBPR

    users, items = (ends.astype(np.int64) - 1 for ends in model.interactions.nonzero())
    number_of_users, number_of_items = model.n_users - 1, model.n_items - 1
    data = Dataset(
        number_of_users,
        number_of_items,
        dict(enumerate(range(number_of_users))),
        dict(enumerate(range(number_of_items))),
        (users, items, np.ones(len(users), dtype=np.float32)),
        seed=seed,
    )
    features = model.x[1:].cpu().numpy()
    data.add_modalities(item_image=ImageModality(features=features))
    batch, weight = config["train_batch_size"], config["reg_weight"]
    return CornacVBPR(
        k=model.width,
        k2=model.width,
        n_epochs=config["epochs"],
        batch_size=batch,
        learning_rate=config["learning_rate"],
        lambda_w=batch * weight,
        lambda_b=batch * weight,
        lambda_e=batch**2 * weight,
        init_params={"Bp": np.zeros((features.shape[1], 1), dtype=np.float32)},
        use_gpu=model.device.type == "cuda",
        verbose=False,
        seed=seed,
    ).fit(data)


@torch.no_grad()
def copy_parameters(theirs, model: VBPR) -> None:
    """Copy the parameters of cornac's VBPR into ``model``, which has biases."""
    assert model.item_bias is not None and model.feature_bias is not None
    pairs: list[tuple[Any, np.ndarray]] = [
        (model.users[1:], theirs.gamma_user),  # [U - 1, d]
        (model.items[1:], theirs.gamma_item),  # [N - 1, d]
        (model.tastes[1:], theirs.theta_user),  # [U - 1, d]
        (model.project, theirs.emb_matrix),  # [F, d]
        (model.item_bias[1:], theirs.beta_item),  # [N - 1]
        (model.feature_bias, theirs.beta_prime.ravel()),  # [F]
    ]
    for own, value in pairs:
        own.copy_(torch.from_numpy(value))


def score_difference(theirs, model: VBPR) -> float:
    """Largest difference of the scores of all users and items."""
    users = torch.arange(1, model.n_users, device=model.device)
    own: Tensor = model.full_sort_predict({model.USER_ID: users})[:, 1:]
    scores = np.stack([theirs.score(user) for user in range(len(users))])
    return float(np.abs(own.cpu().numpy() - scores).max())


def mean_and_deviation(runs: list[dict[str, float]]) -> dict[str, list[float]]:
    """Mean and standard deviation of each metric over the runs."""
    values = {metric: [run[metric] for run in runs] for metric in runs[0]}
    return {m: [round(statistics.mean(v), 4), round(statistics.stdev(v), 4) if len(v) > 1 else 0.0] for m, v in values.items()}
