"""Training speed and memory of the general recommenders on synthetic catalogues.

Shapes: U users, N items, E interactions, F_m width of the features of modality m.
"""
import json
import math
import sys
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from scipy.sparse import coo_matrix, csc_matrix

import recbole_macrec  # noqa: F401  a new process has to register the models
from recbole_macrec.baselines import BASELINES
from recbole_macrec.baselines.pairwise import PairwiseRecommender
from recbole_macrec.benchmark.speed.measure import in_own_process, median_seconds, seconds_of
from recbole_macrec.config.options import config_of
from recbole_macrec.config.validation import check_whole
from recbole_macrec.errors import one_line
from recbole_macrec.utils.hardware import keep_freed_memory, peak_host_memory

MODELS: dict[str, type[PairwiseRecommender]] = {
    model.__name__: model for model in BASELINES if issubclass(model, PairwiseRecommender)
}
FEATURES = {"visual": 128, "acoustic": 128, "textual": 128}  # as in TikTok
MESSAGE = 200  # characters of an error message in a row
USER_INTERACTIONS = 20  # mean number of a user in the synthetic catalogues


class Size(NamedTuple):
    """U, N and E of a dataset."""

    users: int
    items: int
    interactions: int


TIKTOK = Size(36_656, 76_085, 726_065)  # of MMGRec's paper


class SyntheticDataset:
    """The part of a dataset that a model reads; interactions and features are random, popular items have small numbers."""

    def __init__(self, size: Size, config: Config):
        self.uid_field, self.iid_field, self.time_field = (config[f"{name}_FIELD"] for name in ("USER_ID", "ITEM_ID", "TIME"))
        fields = self.uid_field, self.iid_field
        self.user_num, self.item_num = size.users + 1, size.items + 1
        rng = np.random.default_rng(0)
        users = 1 + rng.integers(size.users, size=size.interactions)
        items = 1 + (size.items * rng.random(size.interactions) ** 2).astype(np.int64)
        self.numbers = dict(zip(fields, (self.user_num, self.item_num)))
        self.inter_feat = Interaction(dict(zip(fields, (torch.from_numpy(users), torch.from_numpy(items)))))
        self.field2id_token = {
            field: np.array(["[PAD]", *map(str, range(1, number))]) for field, number in self.numbers.items()
        }
        self.item_features = {}
        for modality, width in FEATURES.items():
            matrix = rng.standard_normal((size.items + 1, width), dtype=np.float32)
            matrix[0] = 0
            self.item_features[modality] = matrix

    def num(self, field: str) -> int:
        """Number of users or items, including the padding."""
        return self.numbers[field]

    def training_interactions(self) -> csc_matrix:
        """Number of interactions of each user and item."""
        ends = [values.numpy() for values in self.inter_feat.interaction.values()]
        return csc_matrix(coo_matrix((np.ones(len(ends[0])), ends), shape=tuple(self.numbers.values())))


def graph_scale(args) -> dict:
    """Return ``rows``, one for each model and size; each row is also printed to stderr as soon as it is measured.

    Each is measured in a process of its own, so that peaks of memory do not mix. If a process is killed or has too little
    memory, its row says so as ``failed``, and the other rows are measured.
    """
    check_whole(USER_INTERACTIONS, interactions=args.interactions)
    sizes = [Size(args.interactions // USER_INTERACTIONS, items, args.interactions) for items in args.items or (10**4, 10**5)]
    if not args.items:
        sizes.append(TIKTOK)
    rows = []
    for size in sizes:
        for name in args.models:
            row = {"model": name, **size._asdict()}
            try:
                row |= in_own_process(measure, name, size, args.timed_steps, torch.get_num_threads())
            except BrokenProcessPool:
                row["failed"] = "The process ended without a result; it may have been killed because memory was insufficient."
            except (MemoryError, RuntimeError) as error:  # torch raises RuntimeError where memory is insufficient
                row["failed"] = one_line(error, MESSAGE)
            print(json.dumps(row), file=sys.stderr, flush=True)
            rows.append(row)
    return {"rows": rows}


def measure(name: str, size: Size, timed_steps: int, threads: int) -> dict:
    """Train some steps of a model.

    An epoch is estimated as its first step, with the preparation of the epoch, and the median of ``timed_steps`` others for the
    rest. The mask of InvRL, which is learnt once, is left out.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
    config = config_of(name, "synthetic", [], {"state": "ERROR", "seed": 1})
    torch.manual_seed(1)
    dataset = SyntheticDataset(size, config)
    model = MODELS[name](config, dataset).to(config["device"])
    if name == "InvRL":
        model.mask_is_learnt.fill_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=config["learning_rate"])
    batch = dataset.inter_feat[: config["train_batch_size"]].to(model.device)
    batch.update(Interaction({model.NEG_ITEM_ID: torch.randint(1, model.n_items, (len(batch),), device=model.device)}))

    def step():
        optimizer.zero_grad()
        model.calculate_loss(batch).backward()
        optimizer.step()

    def first_step():
        model.train()
        model.before_epoch(0)
        step()

    def represent():
        model.eval()
        model.final_representations()

    first = seconds_of(first_step)
    usual = median_seconds(step, timed_steps, warmup=0)
    steps = math.ceil(size.interactions / config["train_batch_size"])
    ranking = seconds_of(represent)
    on_gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if on_gpu else peak_host_memory()
    return {
        "steps": steps,
        "first_step_s": round(first, 3),
        "step_s": round(usual, 4),
        "epoch_s": round(first + (steps - 1) * usual, 3),
        "representations_s": round(ranking, 2),
        "peak_gib": round(peak / 2**30, 2),
        "memory": "GPU" if on_gpu else "host",
    }
