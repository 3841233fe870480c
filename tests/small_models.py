"""Small models on the dataset ``tiny``, for tests of several packages."""
import copy
import logging
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, write_tiny_dataset
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from recbole_macrec.data.features import FeatureTable
from recbole_macrec.generation.decoding.teacher_forcing import sequence_log_probs
from recbole_macrec.semantic_ids import build
from recbole_macrec.semantic_ids.bundle import bundle_inputs, bundle_name
from recbole_macrec.trainer.callbacks import TrainingCallback
from recbole_macrec.trainer.epoch_checkpointer import Paused
from recbole_macrec.utils.distributed import ALONE

ITEMS = 30
SMALL = {
    "modalities": ["text", "image"],
    "codebook_levels": 2,
    "codebook_size": 8,
    "code_dim": 4,
    "rqvae_projection": 0,
    "rqvae_hidden_sizes": [16],
    "rqvae_epochs": 10,
    "rqvae_warmup_epochs": 5,
    "rqvae_precision": "fp32",
    "con_layers": [1],
    "pseudo_labels": 4,
    "eval_step": 1,
    "d_model": 32,
    "d_ff": 64,
    "num_heads": 2,
    "d_kv": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "num_beams": 20,
    "train_batch_size": 64,
    "learning_rate": 0.01,
    "epochs": 4,
    "show_progress": False,
    "state": "ERROR",
}
T5 = {"network": "encoder_decoder", "training": "per_target", "output": "level", "decode": "beam"}
ALIGNED = {"fusion": "official", "cross_task_ratio": 1.0, "item_task_ratio": 0.25}
PAPERS = {"TIGER": T5, "MQL4GRec": T5 | ALIGNED, "MACRec": T5 | ALIGNED}  # the papers' network, trained once per target
QUICK = {"graph_epochs": 5, "graph_sizes": [16, 16, 8], "rqvae_epochs": 3, "rqvae_warmup_epochs": 2, "epochs": 2}


LEARNT = {}  # name of a bundle -> what represent_and_learn returned for its inputs


@pytest.fixture
def data_path(tmp_path, monkeypatch):
    """The dataset ``tiny`` with features of two modalities, neither of which distinguishes all items.

    Tests whose semantic IDs have the same inputs share what was learnt from them.
    """
    learn = build.represent_and_learn

    def learn_once(features, interactions, settings, execution):
        if execution.group is not ALONE:
            return learn(features, interactions, settings, execution)
        name = bundle_name(bundle_inputs(features, (), settings, interactions))
        if name not in LEARNT:
            LEARNT[name] = learn(features, interactions, settings, execution)
        return copy.deepcopy(LEARNT[name])

    monkeypatch.setattr(build, "represent_and_learn", learn_once)
    return write_small_dataset(tmp_path / "data")


def write_small_dataset(path: Path) -> Path:
    """Write the dataset of the fixture ``data_path``."""
    write_tiny_dataset(path)
    rng = np.random.default_rng(0)
    tokens = tuple(f"i{i}" for i in range(ITEMS))
    for modality, classes in (("text", np.arange(ITEMS) // 2), ("image", np.arange(ITEMS) % 15)):
        centres = rng.standard_normal((ITEMS, 12))
        matrix = centres[classes] + 0.05 * rng.standard_normal((ITEMS, 12))
        FeatureTable(tokens, matrix.astype(np.float32)).save(path / TINY, modality)
    return path


def prepare(name: str, data_path, **options):
    """Create config, model, trainer and data loaders of a small model on the dataset ``tiny``.

    Generative models have the papers' network and training; the command line has the defaults.
    """
    return prepare_run(name, TINY, {**SMALL, **PAPERS.get(name, {}), "data_path": str(data_path), **options})


def prepare_run(name: str, dataset: str, options: dict):
    """Create config, model, trainer and data loaders as RecBole's quick_start does."""
    config = Config(name, dataset, config_dict=options)
    logging.getLogger().setLevel(logging.ERROR)
    init_seed(config["seed"], config["reproducibility"])
    loaders = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(name)(config, loaders[0]._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    return config, model, trainer, loaders


class PauseAfter(TrainingCallback):
    """Pauses training once more than ``epochs`` epochs, such as 1.5, are complete."""

    def __init__(self, epochs: float):
        self.epochs = epochs

    def on_batch_end(self, trainer, epoch, batches, total, loss):
        if epoch + batches / total > self.epochs:
            trainer.pause()


def train_until(trainer, epochs: float, *data) -> None:
    """Train, and pause once more than ``epochs`` epochs are complete, as at a deadline."""
    trainer.callbacks.append(PauseAfter(epochs))
    with pytest.raises(Paused):
        trainer.fit(*data)


def batch_of(loader):
    """Return all users of an evaluation loader as one batch."""
    return loader._dataset[np.arange(len(loader._dataset))]


def scores_one_by_one(model, modality: str, memory, items):
    """Log-probability of items [B, G] divided by the length of their IDs, each ID by teacher forcing; [B, G]."""
    codes = model.tables[modality].codes[items]
    softmax_trie = model.softmax_trie(modality)
    return sequence_log_probs(model.network, model.vocabulary, modality, memory, codes, softmax_trie=softmax_trie)
