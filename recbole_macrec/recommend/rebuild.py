"""Build a model from its options and semantic IDs, without RecBole's Config and Dataset."""
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from recbole.utils import get_model

from recbole_macrec.config.plain import plain_config
from recbole_macrec.config.registry import model_names
from recbole_macrec.config.validation import check_network_options
from recbole_macrec.errors import UserError, nearest
from recbole_macrec.semantic_ids import SemanticIDs


class SavedOptions(dict):
    """Options by name; missing ones are None, as in RecBole's Config. ``read`` contains the names that were read."""

    def __init__(self, values: Mapping):
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, name: str):
        self.read.add(name)
        return self.get(name)


@dataclass(frozen=True)
class CatalogueDataset:
    """The part of a dataset that a model needs: items and, unless it has none, their semantic IDs."""

    semantic_ids: SemanticIDs

    def num(self, field: str) -> int:
        """Number of items, including the padding."""
        return len(self.semantic_ids.item_tokens) + 1

    @property
    def field2id_token(self) -> Mapping[str, np.ndarray]:
        """Field -> its tokens by number. The items are the only field of a catalogue."""
        return defaultdict(lambda: np.array(["[PAD]", *self.semantic_ids.item_tokens], dtype=object))


def ranking_options(model) -> dict:
    """Options from which ``model`` is created for ranking, as plain values."""
    options = dict(model.config) if isinstance(model.config, SavedOptions) else plain_config(model.config)
    return options | model.saved_options()


def build(name: str, options: SavedOptions, ids: SemanticIDs, device: torch.device | str):
    """Create a model for ranking, with untrained weights.

    Raises:
        UserError: ``name`` is no model of this package, or an option is invalid.
    """
    if name not in model_names():
        raise UserError(f"Unknown model '{name}'.{nearest(name, model_names())} Known models: {', '.join(model_names())}.")
    check_network_options(options, name)
    options["device"] = torch.device(device)
    with torch.random.fork_rng(devices=[]):  # the weights are replaced later; keep the caller's random state
        return get_model(name)(options, CatalogueDataset(ids)).to(device).eval()


def with_items_of(model, ids: SemanticIDs):
    """Extend ``model`` to the items of ``ids``, which start with those of the model; the weights are shared, not copied."""
    extended = build(type(model).__name__, SavedOptions(ranking_options(model)), ids, model.device)
    extended.load_state_dict(model.state_dict(), assign=True)
    return extended
