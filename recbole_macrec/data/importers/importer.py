"""Import a source, feature files and ID files into one dataset folder, everything keyed by item token."""
from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from recbole_macrec.data import atomic, features
from recbole_macrec.data.atomic import DEFAULT_FORMAT, AtomicFormat
from recbole_macrec.data.id_files import IDS_FOLDER, modality_of
from recbole_macrec.data.importers.find_source import read_source
from recbole_macrec.data.importers.join import join_features, join_ids
from recbole_macrec.data.importers.raw import manifest
from recbole_macrec.data.importers.raw.amazon import read_amazon
from recbole_macrec.data.importers.raw.catalogue import Catalogue, FilterOptions, write_items
from recbole_macrec.data.importers.raw.filter_source import filter_source
from recbole_macrec.data.importers.raw.filtering import Step
from recbole_macrec.data.importers.raw.find import SHORT_NAMES, RawFiles, find_raw
from recbole_macrec.data.importers.raw.folder import ItemTable, read_folder
from recbole_macrec.data.importers.raw.records import Records
from recbole_macrec.data.importers.sources import Source
from recbole_macrec.data.importers.words import WORDS_COLUMN, read_words
from recbole_macrec.data.toy.toy import TOY_NAME
from recbole_macrec.errors import UserError
from recbole_macrec.utils.files import replace_folder
from recbole_macrec.utils.requirements import recbole_folder

AMAZON_CORE = 5  # the k of the k-core in all published catalogues of Amazon 2018


@dataclass(frozen=True)
class Summary:
    """Result of an import. ``users`` counts users with interactions, ``items`` the whole catalogue."""

    folder: Path
    users: int
    items: int
    interactions: int
    features: dict[str, tuple[int, int]]  # modality -> shape [n, d]
    semantic_ids: list[str]
    notes: list[str]
    steps: list[Step] = field(default_factory=list)  # counts after each filtering step; empty without filtering


@dataclass(frozen=True)
class ImportRequest:
    """Files to import, and how to read and filter them.

    Attributes:
        src: file or folder to import; see :func:`find_raw` and :func:`read_source` for the formats.
        feature_files: modality -> feature file.
        id_files: modality -> file of published semantic IDs; further tokenizations as ``text@2`` and so on.
        category: the Amazon category to import, if ``src`` contains several.
        core: k of the k-core filtering; None keeps all interactions, except that raw Amazon files are filtered as published.
        require_image: keep only items with an image; None does so only for raw Amazon files.
        words: file of texts released as word numbers; see :mod:`recbole_macrec.data.importers.words`.
        table_options: RecBole's options for columns and separators of tables in ``src``, such as
            ``{"ITEM_ID_FIELD": "product_id"}``.
    """

    src: Path
    feature_files: Mapping[str, Path] = field(default_factory=dict)
    id_files: Mapping[str, Path] = field(default_factory=dict)
    category: str | None = None
    core: int | None = None
    require_image: bool | None = None
    words: Path | None = None
    table_options: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise a UserError for a wrong modality or core."""
        for modality in (*self.feature_files, *map(modality_of, self.id_files)):
            features.check_modality(modality)
        if self.core is not None and self.core < 0:
            raise UserError(f"--core={self.core} is negative; expected the minimum number of interactions per user and item, "
                            "such as 5, or 0")

    @property
    def files(self) -> list[Path]:
        """All files and folders to read."""
        return [self.src, *self.feature_files.values(), *self.id_files.values(), *([self.words] if self.words else [])]


def import_dataset(
    request: ImportRequest, name: str, data_path: Path, overwrite: bool = False, form: AtomicFormat = DEFAULT_FORMAT
) -> Summary:
    """Import files into ``data_path/name``.

    A raw catalogue that was imported there before, from the same files with the same options, is not imported again.

    Args:
        name: name of the dataset.
        data_path: folder of all datasets.
        overwrite: replace an existing dataset.
        form: format of the dataset.

    Raises:
        UserError: if anything is wrong; then nothing on disk has changed.
    """
    target = Path(data_path) / name
    request.check()
    _check_name(name)
    raw = find_raw(request.src, name, request.category)
    _check_catalogue(name, raw)
    imported_before = raw is not None and not overwrite and (target / manifest.FILE).is_file()
    if not imported_before:
        _check_target(target, name, request.files, overwrite)
    if raw is None:
        source, steps = _read_plain(name, request)
        detected, notes = source.detected_files, source.notes
        chosen = replace(
            request,
            feature_files=detected.choose("--feature", detected.features, request.feature_files, notes),
            id_files=detected.choose("--semantic_ids", detected.ids, request.id_files, notes),
        )
        return _write(target, source, steps, chosen, overwrite, form)
    options, origin = _origin(raw, request)
    if imported_before:
        return _earlier_summary(target, manifest.unchanged(target, origin))
    with closing(Records(target.parent)) as records:
        if raw.kind == "folder":
            catalogue = read_folder(raw, options, records, request.table_options)
        else:
            catalogue = read_amazon(raw, options, records)
        catalogue.source.notes += catalogue.notes()
        return _write(target, catalogue.source, catalogue.steps, request, overwrite, form, (catalogue, origin))


def _read_plain(name: str, request: ImportRequest) -> tuple[Source, list[Step]]:
    """Read a source that is not a raw catalogue; filter it if ``core`` is given."""
    src, core = request.src, request.core
    if request.require_image is not None:
        raise UserError(f"--require_image filters items by their images, but SRC {src} names no images; leave the option out")
    source = read_source(src, name, request.table_options)
    items = src.with_name("items.csv")
    if src.suffix == ".csv" and items.is_file():
        source.notes.append(f"{items.name} beside it is not read, because SRC is a file; to import its texts and images, too, "
                            f"give the folder {src.parent} with interactions.csv and items.csv")
    if core is None:
        return source, []
    if source.fixed:
        why = "was filtered before its release" if source.path.suffix == ".json" else "has a catalogue of its own beside it"
        raise UserError(f"--core={core} filters interactions without a given catalogue, but {source.path} {why}; leave the "
                        "option out")
    return source, filter_source(source, core)


def _origin(raw: RawFiles, request: ImportRequest) -> tuple[FilterOptions, dict]:
    """The options with which a raw catalogue is filtered, and its origin for the manifest."""
    if request.words:
        raise UserError(f"--words={request.words} gives texts, but SRC {request.src} is a raw catalogue, which has texts; "
                        "leave the option out")
    amazon = raw.kind != "folder"
    if amazon and request.table_options:
        option = next(iter(request.table_options))
        raise UserError(f"--{option} is an option for tables, but SRC {request.src} contains raw Amazon files; leave the "
                        "option out")
    core = AMAZON_CORE if amazon and request.core is None else request.core
    options = FilterOptions(core=core, require_image=amazon if request.require_image is None else request.require_image)
    return options, manifest.origin(raw, options, _sources(raw, request), request.table_options)


def _sources(raw: RawFiles, request: ImportRequest) -> dict[str, Path]:
    """Return all files to read, by their names in the manifest."""
    folder = raw.metadata.parent
    images = ItemTable(raw.metadata, request.table_options).local_images() if raw.kind == "folder" else []
    files = {image: folder / image for image in images} | {path.name: path for path in (raw.reviews, raw.metadata)}
    for modality, path in request.feature_files.items():
        tokens = path.with_suffix(".items.txt")
        files |= {f"features/{modality}": path} | ({f"features/{modality} items": tokens} if tokens.exists() else {})
    return files | {f"semantic_ids/{modality}": path for modality, path in request.id_files.items()}


def _write(
    target: Path,
    source: Source,
    steps: list[Step],
    request: ImportRequest,
    overwrite: bool,
    form: AtomicFormat,
    raw: tuple[Catalogue, dict] | None = None,
) -> Summary:
    """Write the dataset folder; for ``raw``, a catalogue and its origin, also its texts, images and manifest."""
    tables, ids, name = join_features(source, request.feature_files), join_ids(source, request.id_files), target.name
    shapes = {modality: table.matrix.shape for modality, table in tables.items()}
    if request.words:
        source.columns[f"{WORDS_COLUMN}:token_seq"] = read_words(request.words, source)
    with replace_folder(target, overwrite) as folder:
        _write_interactions(folder / f"{name}.inter", source, form)
        if raw is None:
            atomic.write(folder / f"{name}.item", {f"{form.item}:token": source.catalogue, **source.columns}, form)
        else:
            catalogue, origin = raw
            write_items(folder, name, catalogue, form)
            added = {"features": shapes, "semantic_ids": list(ids), "notes": source.notes}
            manifest.write(folder, origin, catalogue, (f"{name}.inter", f"{name}.item"), added)
        for modality, table in tables.items():
            table.save(folder, modality)
        for modality, codes in ids.items():
            path = folder / IDS_FOLDER / f"{modality}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(codes, indent=0, ensure_ascii=False), encoding="utf-8")
    return Summary(target, len(set(source.users)), len(source.catalogue), len(source.items), shapes, list(ids), source.notes,
                   steps)


def _earlier_summary(target: Path, found: dict | None) -> Summary:
    """Return the summary of an earlier import by its manifest; ``found`` is None if it had other sources or options."""
    if found is None:
        raise UserError(f"dataset {target} already exists, imported from other files, with other options or by an "
                        "earlier version; add --overwrite to replace it, or choose another --dataset")
    counts = found["counts"]
    return Summary(target, counts["users"], counts["items"], counts["interactions"],
                   {modality: tuple(shape) for modality, shape in found["features"].items()}, found["semantic_ids"],
                   [*found["notes"], "imported before from the same files with the same options: nothing to do"],
                   [Step(**step) for step in found["steps"]])


def _check_name(name: str) -> None:
    if name != Path(name).name or name in ("", ".", "..") or name.startswith("."):
        raise UserError(f"--dataset={name} is not a valid folder name; use a name such as 'my-shop'")
    if (recbole_folder() / "dataset_example" / name).is_dir():
        raise UserError(f"--dataset={name} is a dataset of RecBole's package, from which RecBole always reads it; use another "
                        f"name, such as 'my-{name}'")
    if name == TOY_NAME:
        raise UserError(f"--dataset={name} is the synthetic dataset of this project, with its own settings; use another name, "
                        "such as 'my-shop'")


def _check_catalogue(name: str, raw: RawFiles | None) -> None:
    """Raise UserError if the user's own items and interactions are to be imported as a published catalogue."""
    if raw is not None and raw.kind == "folder" and name in SHORT_NAMES:
        raise UserError(f"--dataset={name} is a catalogue of Amazon, whose settings in properties/dataset/{name}.yaml do not "
                        f"suit {raw.metadata.parent}; use another name, such as 'my-{name.lower()}'")


def _check_target(target: Path, name: str, inputs: list[Path], overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise UserError(f"dataset {target} already exists; add --overwrite to replace it, or choose another --dataset")
    if not (target / f"{name}.inter").is_file():
        raise UserError(f"--overwrite: {target} contains no {name}.inter, so it is not an imported dataset; remove it yourself "
                        "or choose another --dataset")
    inside = [path for path in inputs if path.resolve().is_relative_to(target.resolve())
              or target.resolve().is_relative_to(path.resolve())]
    if inside:
        raise UserError(
            f"--overwrite would delete {inside[0]}, which is a file to import; choose another --dataset or --data_path"
        )


def _write_interactions(path: Path, source: Source, form: AtomicFormat) -> None:
    """Write interactions sorted by user, time and source order; RecBole keeps this order for equal times."""
    user_rank = {user: i for i, user in enumerate(dict.fromkeys(source.users))}
    order = np.lexsort((source.timestamps, [user_rank[user] for user in source.users]))
    columns = {f"{form.user}:token": source.users, f"{form.item}:token": source.items,
               f"{form.time}:float": list(map(_number, source.timestamps))}
    atomic.write(path, {name: [values[i] for i in order] for name, values in columns.items()}, form)


def _number(value: float) -> str:
    """Return ``value`` as a string, without a decimal point if it is an integer."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))
