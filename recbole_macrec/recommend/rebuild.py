"""Builds a model without RecBole's Config and Dataset, from the options and the semantic IDs alone."""
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from recbole.utils import get_model

from recbole_macrec.config.plain import plain_config
from recbole_macrec.errors import UserError, nearest
from recbole_macrec.model.base import generative_names
from recbole_macrec.semantic_ids import SemanticIDs


class Options(dict):
    """Options by name, None for one that is absent, as in RecBole's Config; ``read`` holds the names asked for."""

    def __init__(self, values: Mapping):
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, name: str):
        self.read.add(name)
        return self.get(name)


@dataclass(frozen=True)
class Catalogue:
    """What a model asks of a dataset: the items and their semantic IDs."""

    semantic_ids: SemanticIDs

    def num(self, field: str) -> int:
        """Items, padding included."""
        return len(self.semantic_ids.item_tokens) + 1


def options_of(model) -> dict:
    """The options that ``model`` was made with, as plain values."""
    return dict(model.config) if isinstance(model.config, Options) else plain_config(model.config)


def build(name: str, options: Options, ids: SemanticIDs, device: torch.device | str):
    """A model ready to rank, with fresh weights.

    Raises:
        UserError: when ``name`` is none of our models, or for options that it cannot have.
    """
    if name not in generative_names():
        raise UserError(f"Unknown model '{name}'.{nearest(name, generative_names())} Known models: {', '.join(generative_names())}.")
    options["device"] = torch.device(device)
    with torch.random.fork_rng(devices=[]):  # its weights come from elsewhere; the caller's generator stays as it is
        return get_model(name)(options, Catalogue(ids)).to(device).eval()


def with_items_of(model, ids: SemanticIDs):
    """``model`` over the catalogue of ``ids``, which begins with its own; the weights are shared, not copied."""
    grown = build(type(model).__name__, Options(options_of(model)), ids, model.device)
    grown.load_state_dict(model.state_dict(), assign=True)
    return grown
