"""A dataset with a pattern that general recommenders can learn: users interact with the items of one group, and the features of
an item show its group."""
from pathlib import Path

import numpy as np
from small_models import prepare_run

from recbole_macrec.data.features import FeatureTable

NAME = "planted"
GROUPS, USERS, ITEMS, EACH = 8, 96, 160, 6  # groups; users and items in all; interactions of a user
GROUP_ITEMS = ITEMS // GROUPS
SMALL = {
    "eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "RO", "group_by": "user", "mode": "full"},
    "metrics": ["Recall", "NDCG"], "topk": [10], "valid_metric": "Recall@10",
    "embedding_size": 16, "learning_rate": 0.01, "train_batch_size": 64, "epochs": 3, "eval_step": 1,
    "show_progress": False, "state": "ERROR",
}
OWN = {  # options of single models
    "InvRL": {"n_negatives": 10, "feature_embedding_size": 16, "pretrain_epochs": 3, "mask_rounds": 1, "n_environments": 2,
              "environment_updates": 1, "environment_steps": 2, "mask_steps": 4},
    "LightGT": {"n_layers": 2, "n_graph_layers": 2, "max_sequence_items": 3},
    "LATTICE": {"n_neighbours": 5},
}


def interactions() -> list[tuple[int, int]]:
    """Pairs of user and item; the items of a user are distinct and of the user's group."""
    rng = np.random.default_rng(0)
    pairs = [(user, user % GROUPS + GROUPS * item)
             for user in range(USERS) for item in rng.choice(GROUP_ITEMS, EACH, replace=False)]
    return [pairs[row] for row in rng.permutation(len(pairs))]


def write_interactions(folder: Path, pairs: list[tuple[int, int]]) -> None:
    rows = [f"u{user}\ti{item}\t{time}\n" for time, (user, item) in enumerate(pairs)]
    (folder / f"{NAME}.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "".join(rows))


def write_planted(data_path: Path, permuted: bool = False) -> Path:
    """Write the dataset with features ``text`` and ``image``, with ``permuted`` in random order of the items."""
    folder = data_path / NAME
    folder.mkdir(parents=True)
    write_interactions(folder, interactions())
    (folder / f"{NAME}.item").write_text("item_id:token\n" + "".join(f"i{item}\n" for item in range(ITEMS)))
    rng = np.random.default_rng(1)
    order = rng.permutation(ITEMS) if permuted else np.arange(ITEMS)
    for modality, width in (("text", 12), ("image", 9)):
        centres = rng.standard_normal((GROUPS, width))
        features = centres[order % GROUPS] + 0.1 * rng.standard_normal((ITEMS, width))
        FeatureTable(tuple(f"i{item}" for item in range(ITEMS)), features.astype(np.float32)).save(folder, modality)
    return data_path


def prepare(name: str, data_path: Path, **options):
    """Config, model, trainer and data loaders of a small model on the planted dataset."""
    return prepare_run(name, NAME, {**SMALL, **OWN.get(name, {}), "data_path": str(data_path), **options})
