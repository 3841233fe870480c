"""Join feature and ID files to the items of a source by item token.

Shapes: n items in the feature file, d feature dimensions.
"""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recbole_macrec.data import features
from recbole_macrec.data.features import FeatureTable, format_items
from recbole_macrec.data.id_files import decode_ids, encode_ids, modality_of, read_array, tokenization_name
from recbole_macrec.data.importers.sources import Source, is_item_number
from recbole_macrec.data.json_files import read_json_object
from recbole_macrec.errors import UserError


def join_features(source: Source, files: Mapping[str, Path]) -> dict[str, FeatureTable]:
    """Return the features of every modality in catalogue order.

    If the catalogue of ``source`` is not fixed, features without item tokens extend it: row i belongs to item i.

    Raises:
        UserError: unless every file has exactly the items of the catalogue, or all of them and others if it was filtered.
    """
    raw = {modality: _read_rows(Path(path)) for modality, path in files.items()}
    if not source.fixed:
        _extend_catalogue(source, files, raw)
    return {modality: _join(source, modality, Path(files[modality]), *raw[modality]) for modality in raw}


def join_ids(source: Source, files: Mapping[str, Path]) -> dict[str, dict[str, list]]:
    """Return the published semantic IDs by item token, for every modality and tokenization.

    Raises:
        UserError: unless each file has exactly the catalogue's items, or all of them and others if it was filtered.
    """
    ids: dict[str, dict[str, list]] = {}
    for name, path in files.items():
        path = Path(path)
        found = _rows_by_item(source, name, path) if path.suffix == ".npy" else [_rekey(source, name, path)]
        first = sum(modality_of(known) == modality_of(name) for known in ids)
        ids |= {tokenization_name(modality_of(name), first + number): codes for number, codes in enumerate(found)}
    return ids


def _rows_by_item(source: Source, name: str, path: Path) -> list[dict[str, list]]:
    """The published IDs in a .npy file by item token, for each of its tokenizations."""
    option = f"--semantic_ids {modality_of(name)}={path}"
    tokenizations, rows = read_array(path), len(source.numbers) or len(source.catalogue)
    if set(source.numbers) != {str(number) for number in range(rows)}:
        raise UserError(f"{option}: row i belongs to item number i, but the items of {source.path} are not numbered from 0 to "
                        f"{rows - 1}; give a JSON file keyed by item")
    if len(tokenizations[0]) != rows:
        raise UserError(f"{option} has {len(tokenizations[0])} rows, but {source.path} has {rows} items; give one row per item")
    tokens = [source.numbers[str(number)] for number in range(rows)]
    found = [dict(zip(tokens, encode_ids(codes))) for codes in tokenizations]
    for ids in found:
        decode_ids(path, ids)
    return [{token: ids[token] for token in source.catalogue} for ids in found]


def _read_rows(path: Path) -> tuple[np.ndarray, list[str] | None]:
    """Return the matrix [n, d] and the item token of each row, None without ``FILE.items.txt`` beside ``FILE.npy``."""
    matrix, tokens_path = features.read_matrix(path), path.with_suffix(".items.txt")
    tokens = features.read_tokens(tokens_path) if tokens_path.exists() else None
    if tokens is not None and len(tokens) != len(matrix):
        raise UserError(f"feature file {path} has {len(matrix)} rows but {tokens_path.name} names {len(tokens)} items; "
                        "give one row per item")
    return matrix, tokens


def _extend_catalogue(source: Source, files: Mapping[str, Path], raw: dict) -> None:
    """Extend the catalogue to all rows of features without item tokens: row i is item i, even without interactions.

    A filtered catalogue keeps its items.
    """
    counts = {modality: len(matrix) for modality, (matrix, tokens) in raw.items() if tokens is None}
    if not counts:
        return
    modality = next(iter(counts))
    not_numbers = [token for token in source.catalogue if not is_item_number(token)]
    if not_numbers:
        raise UserError(f"--feature {modality}={files[modality]} has no .items.txt beside it, so row i is item i, but "
                        f"{source.path} has {format_items(not_numbers, 'item')} that are not row numbers; write "
                        f"{Path(files[modality]).with_suffix('.items.txt')}, one item per line in row order")
    if len(set(counts.values())) > 1:
        rows = ", ".join(f"{files[m]} has {n}" for m, n in counts.items())
        raise UserError(f"--feature files differ in their number of rows: {rows}; give every modality one row per item")
    count, highest = counts[modality], max(map(int, source.catalogue))
    if highest >= count:
        raise UserError(f"feature file {files[modality]} has {count} rows, fewer than {source.path} needs: its highest item "
                        f"number is {highest}; give one row per item, from 0 to {highest}")
    if count > len(source.catalogue) and not source.filtered:
        interacted = set(source.catalogue)
        added = [str(i) for i in range(count) if str(i) not in interacted]
        padding = ""
        if not np.any(raw[modality][0][0]):
            padding = ("; its row 0 is all zeros: if that is padding, remove the row, or every item has the features of the "
                       "item before it")
        source.notes.append(
            f"{Path(files[modality]).name} has {count} rows, and {len(interacted)} items have interactions: row i is "
            f"read as item i, so the catalogue includes {format_items(added, 'item')} without interactions{padding}"
        )
    numbers, kept = [str(i) for i in range(count)], set(source.catalogue)
    source.catalogue = [number for number in numbers if number in kept] if source.filtered else numbers
    source.numbers = dict(zip(numbers, numbers))
    source.fixed = True


def _join(source: Source, modality: str, path: Path, matrix: np.ndarray, tokens: list[str] | None) -> FeatureTable:
    """Return the features in catalogue order; raise UserError unless file and catalogue have the same items."""
    if tokens is None:
        if not source.numbers:
            raise UserError(f"--feature {modality}={path} has no .items.txt beside it, but the items of {source.path} have no "
                            f"row numbers; write {path.with_suffix('.items.txt')}, one item per line in row order")
        tokens = list(source.numbers.values())
        if len(matrix) != len(tokens):
            fewer = "fewer" if len(matrix) < len(tokens) else "more"
            raise UserError(f"feature file {path} ({modality}) has {len(matrix)} rows, {fewer} than the "
                            f"{len(tokens)} items of {source.path}; give one row per item, in item number order")
    _check_same_items(tokens, source, f"feature file {path} ({path.with_suffix('.items.txt').name})")
    features.check_finite(matrix, tokens, path)
    return FeatureTable(tuple(source.catalogue), FeatureTable(tuple(tokens), matrix).select(source.catalogue))


def _rekey(source: Source, modality: str, path: Path) -> dict[str, list]:
    """Return published semantic IDs by item token; the keys of the file are item numbers or item tokens."""
    codes = read_json_object(path)
    if not set(codes) <= set(source.numbers) and set(codes) & set(source.catalogue):
        tokens = {token: token for token in source.catalogue}
    else:
        tokens = source.numbers
    _check_same_items([tokens.get(key, key) for key in codes], source, f"--semantic_ids {modality}={path}")
    decode_ids(path, codes)
    by_token = {tokens.get(key, key): code for key, code in codes.items()}
    return {token: by_token[token] for token in source.catalogue}


def _check_same_items(tokens: list[str], source: Source, file: str) -> None:
    known, given = set(source.catalogue), set(tokens)
    missing = [token for token in source.catalogue if token not in given]
    unknown = [] if source.filtered else [token for token in tokens if token not in known]
    if missing:
        raise UserError(f"{file} lacks {format_items(missing, 'item')} of {source.path}; give every item an entry")
    if unknown:
        raise UserError(f"{file} has {format_items(unknown, 'item')} that {source.path} lacks; "
                        "remove them or use files of one release")
