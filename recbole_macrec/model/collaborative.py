"""Collaborative vectors of items: the item embeddings of RecBole's SASRec, trained on the training part.

Shapes: N items without the padding, D width.
"""
import hashlib
import logging
from pathlib import Path

import numpy as np
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import SASRec
from tqdm import tqdm

from recbole_macrec.config.options import hidden_argv
from recbole_macrec.data.interactions import has_histories, history_column
from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.order import token_ranks
from recbole_macrec.utils.files import atomic_write, lock_folder

logger = logging.getLogger(__name__)

BATCH, LEARNING_RATE = 2048, 1e-3  # RecBole's defaults


def collaborative_vectors(part, folder: Path, width: int, epochs: int, seed: int, show_progress: bool = False) -> np.ndarray:
    """Train SASRec on ``part``, or read its vectors from ``folder`` if they were learnt from the same samples before.

    No validation or test interaction is read. All epochs are trained, as there is nothing to stop early by.

    Args:
        part: training part of a sequential dataset.
        folder: contains one file per samples, width, epochs and seed; created if missing.
        width: D.

    Returns:
        float32 [N, D], in the order of the dataset's items.

    Raises:
        UserError: the dataset is split by interactions and not by sequences.
    """
    config = part.config
    if not has_histories(part):
        raise UserError(
            "quantizer is letter, whose collaborative vectors need sequences; use a split of sequences, such as {LS: "
            "valid_and_test}, or another quantizer."
        )
    fields = history_column(config), config["ITEM_LIST_LENGTH_FIELD"], part.iid_field
    tokens = part.field2id_token[part.iid_field][1:].tolist()
    ranks = token_ranks(tokens)  # number the items by token: RecBole's numbers depend on held-out interactions
    numbers = torch.from_numpy(np.append(0, ranks + 1))
    samples = {field: part.inter_feat[field] for field in fields}
    samples |= {field: numbers[samples[field]] for field in (fields[0], fields[2])}
    digest = hashlib.sha256(f"SASRec {width} {epochs} {seed}\n".encode() + "\n".join(sorted(tokens)).encode())
    for values in samples.values():
        digest.update(np.ascontiguousarray(values.numpy()).tobytes())
    name = f"collaborative-{digest.hexdigest()[:16]}"
    with lock_folder(folder, f".{name}.lock", "collaborative vectors"):
        path = folder / f"{name}.npy"
        if not path.is_file():
            vectors = _train(config, part, Interaction(samples), width, epochs, seed, show_progress)
            with atomic_write(path) as fresh, open(fresh, "wb") as file:
                np.save(file, vectors)
            logger.info("Collaborative vectors written to %s", path)
        return np.load(path)[ranks]


def _train(config: Config, part, samples: Interaction, width: int, epochs: int, seed: int, show_progress: bool) -> np.ndarray:
    """Train SASRec on ``samples``; returns the item embeddings [N, D], in the order of the items' numbers."""
    options = {"hidden_size": width, "inner_size": 4 * width, "loss_type": "CE", "train_neg_sample_args": None}
    options["n_heads"] = 2 - width % 2  # RecBole's default, if it divides the width
    with hidden_argv():
        sasrec = Config("SASRec", config["dataset"], config_dict=options)
    shared = {
        name: value
        for name, value in config.final_config_dict.items()
        if name not in sasrec.final_config_dict or "FIELD" in name
    }
    sasrec.final_config_dict |= shared | {name: config[name] for name in ("device", "MAX_ITEM_LIST_LENGTH", "LIST_SUFFIX")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SASRec(sasrec, part).to(config["device"])
        optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
        for _ in tqdm(range(epochs), disable=not show_progress, desc="Collaborative vectors", unit="epoch"):
            for rows in torch.randperm(len(samples)).split(BATCH):
                optimizer.zero_grad()
                model.calculate_loss(samples[rows].to(config["device"])).backward()
                optimizer.step()
        return model.item_embedding.weight[1:].detach().cpu().numpy()
