"""What a user hands in, checked: histories, lists of items, features of new items.

Legend: n new items, F feature width.
"""
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_macrec.data.atomic import AtomicFormat, read_items, readable_token
from recbole_macrec.data.features import listing
from recbole_macrec.errors import UserError

Sequences = Sequence[Sequence[str]] | Mapping[Any, Sequence[str]]


def histories(sequences: Sequences, numbers: Mapping[str, int]) -> tuple[list, list[list[int]]]:
    """The users, numbered from 0 where they have no names, and the item numbers of each.

    Args:
        numbers: item token -> number.

    Raises:
        UserError: for an item that the catalogue lacks, an empty history, and what is no list of histories.
    """
    if isinstance(sequences, str) or not isinstance(sequences, Iterable):
        raise UserError(f"sequences is {sequences!r}; give a list of histories, each a list of item tokens.")
    if isinstance(sequences, Mapping | pd.Series):
        pairs = [(user, row) for user, row in sequences.items()]
    else:
        pairs = list(enumerate(sequences))
    users = [user for user, _ in pairs]
    rows = [item_numbers(row, numbers, f"The history of user {user!r}") for user, row in pairs]
    empty = [user for user, row in zip(users, rows) if not row]
    if empty:
        raise UserError(f"{listing(empty, 'user')} without history; give every user at least one item, or leave the user "
                        "out.")
    return users, rows


def item_numbers(tokens: Iterable[str], numbers: Mapping[str, int], where: str) -> list[int]:
    """The numbers of ``tokens``; ``where`` begins the message of a UserError."""
    if isinstance(tokens, str) or not isinstance(tokens, Iterable):
        raise UserError(f"{where} is {tokens!r}; give a list of item tokens.")
    tokens = list(tokens)
    strange = next((token for token in tokens if not isinstance(token, str)), None)
    if strange is not None:
        raise UserError(f"{where} holds {strange!r} of type {type(strange).__name__}; give item tokens as texts, as they stand "
                        "in the atomic files.")
    unknown = [token for token in dict.fromkeys(tokens) if token not in numbers]
    if unknown:
        raise UserError(f"{where} holds {listing(unknown, 'item')} that the catalogue of the model lacks; leave them out, or add "
                        "them with add_items.")
    return [numbers[token] for token in tokens]


def new_tokens(features: Mapping[str, Mapping[str, Any]], modalities: Sequence[str], numbers: Mapping[str, int]) -> list[str]:
    """The items that ``features`` (modality -> item token -> row) bring, in the order of the first modality.

    Raises:
        UserError: unless every modality has the same items, each new and with a token that RecBole can read.
    """
    missing = [m for m in modalities if m not in features]
    if missing:
        raise UserError(f"The new items have no features of modality '{missing[0]}'; the model reads {list(modalities)}.")
    tokens = list(features[modalities[0]])
    for m in modalities:
        different = sorted(set(tokens) ^ set(features[m]), key=str)
        if different:
            raise UserError(f"{listing(different, 'new item')} with features of '{modalities[0]}' or of '{m}', but not of "
                            "both; give every new item a row in each modality.")
    bad = [token for token in tokens if not readable_token(token)]
    if bad:
        raise UserError(f"{listing(bad, 'new item')} with a token that no atomic file can hold; give texts without tabs, line "
                        "breaks and outer spaces that are no word for a missing value.")
    known = [token for token in tokens if token in numbers]
    if known:
        raise UserError(f"{listing(known, 'new item')} already in the catalogue, where semantic IDs never change; leave them out.")
    return tokens


def feature_matrix(modality: str, rows: Mapping[str, Any], tokens: Sequence[str], width: int) -> np.ndarray:
    """float32 [n, F] of ``tokens``; a UserError unless every row is ``width`` = F finite numbers."""
    matrix = np.zeros((len(tokens), width), dtype=np.float32)
    for i, token in enumerate(tokens):
        try:
            with np.errstate(over="ignore"):  # what overflows float32 is reported below
                row = np.asarray(rows[token], dtype=np.float32)
        except (TypeError, ValueError):
            raise UserError(f"The '{modality}' features of new item '{token}' are no row of numbers; give {width} "
                            "numbers.") from None
        if row.shape != (width,) or not np.isfinite(row).all():
            seen = f"have shape {row.shape}" if row.shape != (width,) else "hold NaN or infinite values"
            raise UserError(f"The '{modality}' features of new item '{token}' {seen}; give {width} finite numbers, made the way "
                            "of the features that the semantic IDs were learnt from.")
        matrix[i] = row
    return matrix


def item_titles(config, item_tokens: Sequence[str]) -> dict[str, str]:
    """Item token -> title: the first column of ``text_fields`` that ``NAME.item`` has; empty where there is none.

    A model that reads no texts has no ``text_fields``; then it is the column ``title``.
    """
    folder, name = Path(config["data_path"]), config["dataset"]
    if not (folder / f"{name}.item").is_file():
        return {}
    items = read_items(folder, name, AtomicFormat.of(config))
    fields = config["text_fields"] if "text_fields" in config else ["title"]
    column = next((field for field in fields or [] if field in items), None)
    if column is None:
        return {}
    titles = dict(zip(items["item_id"], items[column]))
    return {token: titles[token] for token in item_tokens if titles.get(token)}
