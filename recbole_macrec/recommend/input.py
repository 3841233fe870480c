"""Check user input: histories, lists of items, features of new items.

Shapes: n new items, F feature width.
"""
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_macrec.config.validation import check_texts
from recbole_macrec.data.atomic import AtomicFormat, read_items, readable_token
from recbole_macrec.data.features import format_items
from recbole_macrec.errors import UserError

Sequences = Sequence[Sequence[str]] | Mapping[Any, Sequence[str]]


def histories(sequences: Sequences, numbers: Mapping[str, int]) -> tuple[list, list[list[int]]]:
    """Convert histories of item tokens to histories of item numbers.

    Args:
        sequences: a list of histories, or user -> history.
        numbers: item token -> number.

    Returns:
        The users (the keys, or the positions in the list), and the item numbers of each.

    Raises:
        UserError: for an item that is not in the catalogue, an empty history, or a wrong type.
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
        raise UserError(
            f"{format_items(empty, 'user')} without history; give every user at least one item, or remove the user."
        )
    return users, rows


def item_numbers(tokens: Iterable[str], numbers: Mapping[str, int], where: str) -> list[int]:
    """Item numbers of ``tokens``; ``where`` is the start of the message of a UserError."""
    if isinstance(tokens, str) or not isinstance(tokens, Iterable):
        raise UserError(f"{where} is {tokens!r}; give a list of item tokens.")
    tokens = list(tokens)
    check_texts(tokens, f"{where} contains")
    unknown = [token for token in dict.fromkeys(tokens) if token not in numbers]
    if unknown:
        raise UserError(
            f"{where} contains {format_items(unknown, 'item')} not in the catalogue of the model; remove them, or in "
            "Python add them with Recommender.add_items."
        )
    return [numbers[token] for token in tokens]


def read_candidates(path: Path) -> list[str]:
    """Item tokens of a text file, one per line. Outer spaces and empty lines are ignored.

    Raises:
        UserError: the file is missing or not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(
            f"Candidates file {path} can't be read ({reason}); give a UTF-8 text file with one item token per line."
        ) from None
    return [token for line in lines if (token := line.strip())]


def new_tokens(features: Mapping[str, Mapping[str, Any]], modalities: Sequence[str], numbers: Mapping[str, int]) -> list[str]:
    """Tokens of the new items in ``features`` (modality -> item token -> row), in the order of the first modality.

    Raises:
        UserError: unless all modalities have the same items, and every token is new and readable by RecBole.
    """
    given = features.values() if isinstance(features, Mapping) else [features]
    if wrong := [value for value in given if not isinstance(value, Mapping)]:
        raise UserError(
            f"The features of the new items contain a {type(wrong[0]).__name__}; give modality -> item token -> row of numbers."
        )
    missing = [m for m in modalities if m not in features]
    if missing:
        raise UserError(f"The new items have no features of modality '{missing[0]}'; the model needs {list(modalities)}.")
    tokens = list(features[modalities[0]])
    for m in modalities:
        different = sorted(set(tokens) ^ set(features[m]), key=str)
        if different:
            raise UserError(
                f"{format_items(different, 'new item')} with features of only one of '{modalities[0]}' and '{m}'; give "
                "every new item a row in each modality."
            )
    check_texts(tokens, "The new items contain")
    bad = [token for token in tokens if not readable_token(token)]
    if bad:
        raise UserError(
            f"{format_items(bad, 'new item')} with a token that an atomic file cannot store; use tokens without tabs, "
            "line breaks and outer spaces that are not read as a missing value."
        )
    known = [token for token in tokens if token in numbers]
    if known:
        raise UserError(
            f"{format_items(known, 'new item')} already in the catalogue, whose semantic IDs are fixed; remove them."
        )
    return tokens


def feature_matrix(features: Mapping[str, Mapping[str, Any]], tokens: Sequence[str], width: int) -> np.ndarray:
    """Features of ``tokens``, those of several modalities side by side; float32 [n, F].

    Args:
        features: modality -> item token -> row.

    Raises:
        UserError: unless every item has ``width`` = F finite numbers.
    """
    matrix, names = np.zeros((len(tokens), width), dtype=np.float32), " and ".join(f"'{m}'" for m in features)
    for i, token in enumerate(tokens):
        try:
            with np.errstate(over="ignore"):  # overflow of float32 is reported below
                rows = [np.asarray(of_modality[token], dtype=np.float32) for of_modality in features.values()]
                row = np.concatenate(rows) if len(rows) > 1 else rows[0]
        except (TypeError, ValueError):
            raise UserError(f"The {names} features of new item '{token}' are not a row of numbers; give {width} "
                            "numbers.") from None
        if row.shape != (width,) or not np.isfinite(row).all():
            problem = f"have shape {row.shape}" if row.shape != (width,) else "contain NaN or infinite values"
            raise UserError(f"The {names} features of new item '{token}' {problem}; give {width} finite numbers, computed "
                            "like the features that the semantic IDs were learnt from.")
        matrix[i] = row
    return matrix


def item_titles(config, item_tokens: Sequence[str]) -> dict[str, str]:
    """Item token -> title, from the first column of ``text_fields`` in ``NAME.item``; empty if there is none.

    For models without the option ``text_fields`` the column is ``title``.
    """
    folder, name = Path(config["data_path"]), config["dataset"]
    if not (folder / f"{name}.item").is_file():
        return {}
    items = read_items(folder, name, AtomicFormat.from_config(config))
    fields = config["text_fields"] if "text_fields" in config else ["title"]
    column = next((field for field in fields or [] if field in items), None)
    if column is None:
        return {}
    titles = dict(zip(items["item_id"], items[column]))
    return {token: titles[token] for token in item_tokens if titles.get(token)}
