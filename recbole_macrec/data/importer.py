"""Turn a source, feature files and ID files into one dataset folder in which everything is keyed by item token."""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_macrec.data import atomic, features
from recbole_macrec.data.features import FeatureTable, listing
from recbole_macrec.data.replace import new_folder
from recbole_macrec.data.sources import Source, read_json_object, read_source
from recbole_macrec.errors import UserError


@dataclass(frozen=True)
class Summary:
    """What an import wrote; counts are of interactions, users that have some, and the whole catalogue."""

    folder: Path
    users: int
    items: int
    interactions: int
    features: dict[str, tuple[int, int]]  # modality -> shape [n, d]
    semantic_ids: list[str]
    notes: list[str]


def import_dataset(src: Path, name: str, data_path: Path, feature_files: dict[str, Path] | None = None,
                   id_files: dict[str, Path] | None = None, overwrite: bool = False) -> Summary:
    """Import ``src`` into ``data_path/name``; raise UserError, with nothing on disk changed, if anything is wrong."""
    src, target = Path(src), Path(data_path) / name
    feature_files, id_files = feature_files or {}, id_files or {}
    for modality in (*feature_files, *id_files):
        features.check_modality(modality)
    _check_target(target, name, [src, *feature_files.values(), *id_files.values()], overwrite)
    source = read_source(src, name)
    raw = {modality: _read_rows(Path(path)) for modality, path in feature_files.items()}
    if not source.fixed:
        _extend_catalogue(source, feature_files, raw)
    tables = {modality: _join(source, modality, Path(feature_files[modality]), *raw[modality]) for modality in raw}
    ids = {modality: _rekey(source, modality, Path(path)) for modality, path in id_files.items()}
    with new_folder(target, overwrite) as folder:
        _write_interactions(folder / f"{name}.inter", source)
        columns = {f"{column}:token_seq": values for column, values in source.columns.items()}
        atomic.write(folder / f"{name}.item", {"item_id:token": source.catalogue, **columns})
        for modality, table in tables.items():
            table.save(folder, modality)
        for modality, codes in ids.items():
            path = folder / "semantic_ids" / f"{modality}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(codes, indent=0, ensure_ascii=False), encoding="utf-8")
    return Summary(target, len(set(source.users)), len(source.catalogue), len(source.items),
                   {modality: table.matrix.shape for modality, table in tables.items()}, list(ids), source.notes)


def _check_target(target: Path, name: str, inputs: list[Path], overwrite: bool) -> None:
    if name != Path(name).name or name in ("", ".", "..") or name.startswith("."):
        raise UserError(f"--dataset={name} is not usable as a folder name; use a plain name such as 'Arts'")
    if not target.exists():
        return
    if not overwrite:
        raise UserError(f"dataset {target} already exists; add --overwrite to replace it, or choose another --dataset")
    if not (target / f"{name}.inter").is_file():
        raise UserError(f"--overwrite: {target} holds no {name}.inter, so it is no imported dataset; remove it yourself "
                        "or choose another --dataset")
    inside = [path for path in inputs if path.resolve().is_relative_to(target.resolve())
              or target.resolve().is_relative_to(path.resolve())]
    if inside:
        raise UserError(f"--overwrite would delete {inside[0]}, which is to be imported; choose another --dataset or --data_path")


def _read_rows(path: Path) -> tuple[np.ndarray, list[str] | None]:
    """Return the matrix [n, d] and, when ``FILE.items.txt`` lies beside ``FILE.npy``, the item of each row."""
    matrix, names = features.read_matrix(path), path.with_suffix(".items.txt")
    tokens = features.read_tokens(names) if names.exists() else None
    if tokens is not None and len(tokens) != len(matrix):
        raise UserError(f"feature file {path} has {len(matrix)} rows but {names.name} names {len(tokens)} items; "
                        "give one row an item")
    return matrix, tokens


def _extend_catalogue(source: Source, files: dict[str, Path], raw: dict) -> None:
    """Let row-numbered features of a CSV tell the whole catalogue: row i is item i, also without interactions."""
    counts = {modality: len(matrix) for modality, (matrix, tokens) in raw.items() if tokens is None}
    if not counts:
        return
    modality = next(iter(counts))
    named = [token for token in source.catalogue if not (token.isascii() and token.isdigit() and str(int(token)) == token)]
    if named:
        raise UserError(f"--feature {modality}={files[modality]} has no .items.txt beside it, so row i is item i, but "
                        f"{source.path} has {listing(named, 'item')} that are no row numbers; write "
                        f"{Path(files[modality]).with_suffix('.items.txt')}, one item a line in row order")
    if len(set(counts.values())) > 1:
        seen = ", ".join(f"{files[m]} has {n}" for m, n in counts.items())
        raise UserError(f"--feature files differ in rows: {seen}; give every modality one row an item")
    count, highest = counts[modality], max(map(int, source.catalogue))
    if highest >= count:
        raise UserError(f"feature file {files[modality]} has {count} rows, fewer than {source.path} needs: its highest item "
                        f"number is {highest}; give one row an item, from 0 to {highest}")
    source.catalogue = [str(i) for i in range(count)]
    source.numbers = {token: token for token in source.catalogue}
    source.fixed = True


def _join(source: Source, modality: str, path: Path, matrix: np.ndarray, tokens: list[str] | None) -> FeatureTable:
    """Return the features in catalogue order; raise UserError unless file and catalogue hold the same items."""
    if tokens is None:
        if len(matrix) != len(source.catalogue):
            fewer = "fewer" if len(matrix) < len(source.catalogue) else "more"
            raise UserError(f"feature file {path} ({modality}) has {len(matrix)} rows, {fewer} than the "
                            f"{len(source.catalogue)} items of {source.path}; give one row an item, in item number order")
        tokens = source.catalogue
    names = path.with_suffix(".items.txt")
    _check_same(tokens, source, f"feature file {path} ({names.name})")
    features.check_finite(matrix, tokens, path)
    return FeatureTable(tuple(source.catalogue), FeatureTable(tuple(tokens), matrix).select(source.catalogue))


def _rekey(source: Source, modality: str, path: Path) -> dict[str, list]:
    """Return published IDs keyed by item token; the file is keyed by item number, or already by token."""
    codes = read_json_object(path)
    if not set(codes) <= set(source.numbers) and set(codes) & set(source.catalogue):
        names = {token: token for token in source.catalogue}
    else:
        names = source.numbers
    _check_same([names.get(key, key) for key in codes], source, f"--semantic_ids {modality}={path}")
    wrong = [key for key, code in codes.items()
             if not isinstance(code, list) or not code or not all(isinstance(level, str) for level in code)]
    if wrong:
        raise UserError(f'{path} has {listing(wrong, "item")} whose ID is not a list of codes; expected ["<a_1>", "<b_3>", ...]')
    by_token = {names[key]: code for key, code in codes.items()}
    return {token: by_token[token] for token in source.catalogue}


def _check_same(tokens: list[str], source: Source, what: str) -> None:
    known, given = set(source.catalogue), set(tokens)
    missing = [token for token in source.catalogue if token not in given]
    unknown = [token for token in tokens if token not in known]
    if missing:
        raise UserError(f"{what} lacks {listing(missing, 'item')} of {source.path}; give every item an entry")
    if unknown:
        raise UserError(f"{what} has {listing(unknown, 'item')} that {source.path} lacks; "
                        "remove them or use files of one release")


def _write_interactions(path: Path, source: Source) -> None:
    """Write rows by user, then time, then source order: RecBole sorts stably, by time rounded to float32."""
    user_rank = {user: i for i, user in enumerate(dict.fromkeys(source.users))}
    order = np.lexsort((source.timestamps, [user_rank[user] for user in source.users]))
    atomic.write(path, {"user_id:token": [source.users[i] for i in order], "item_id:token": [source.items[i] for i in order],
                        "timestamp:float": [_number(source.timestamps[i]) for i in order]})


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
