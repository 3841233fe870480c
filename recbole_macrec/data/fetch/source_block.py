"""The ``source:`` block of a property file: the raw files of a dataset, their URLs and the import options."""
from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from recbole_macrec.data.fetch.download import Remote
from recbole_macrec.errors import UserError, nearest

SYNTHETIC = "synthetic"  # instead of the block: a generated dataset
MIRRORS = "RECBOLE_MACREC_MIRRORS"  # environment variable: URLs of folders, separated by spaces, tried before all others
FILE_KEYS = ("urls", "sha256", "max_bytes")


@dataclass(frozen=True)
class SourceBlock:
    """Content of the block; None for the default of the importer."""

    path: Path  # SRC of the import, a folder or CSV file; files are downloaded there
    files: Mapping[str, Remote]  # name in ``path`` -> URLs, checksum, size limit
    category: str | None = None
    core: int | None = None
    require_image: bool | None = None
    unreachable_images: str = "stop"  # images of unreachable hosts: stop with an error, or treat as missing

    @classmethod
    def read(cls, given: Any, dataset_folder: Path) -> SourceBlock:
        """Read and check the option ``source`` of a dataset.

        Args:
            given: value of the option.
            dataset_folder: folder of the dataset.

        Raises:
            UserError: a key is unknown or a value invalid.
        """
        if not isinstance(given, Mapping):
            raise UserError(f"source is {given!r}; expected keys such as path: FOLDER, or files: {{NAME: URL}}, "
                            f"or {SYNTHETIC}")
        known = [field.name for field in fields(cls)] + ["mirrors"]
        for key in given:
            if key not in known:
                raise UserError(f"source has the key '{key}', which is unknown; expected {', '.join(known)}."
                                f"{nearest(str(key), known)}")
        values = {key: value for key, value in given.items() if value is not None}
        for key, kind, example in (("path", str, "a folder"), ("category", str, "Video_Games"), ("core", int, "5"),
                                   ("require_image", bool, "True"), ("files", Mapping, "{NAME: URL}")):
            if key in values and (not isinstance(values[key], kind) or kind is int and isinstance(values[key], bool)):
                raise UserError(f"{key} of source is {values[key]!r}; expected a value such as {example}")
        if values.get("unreachable_images", "stop") not in ("stop", "missing"):
            raise UserError(f"unreachable_images of source is {values['unreachable_images']!r}; expected stop or missing")
        path, files = values.pop("path", None), values.pop("files", {})
        if path is None and not files:
            raise UserError("source has neither path (a folder or CSV file) nor files (to download); add one")
        folders = [*os.environ.get(MIRRORS, "").split(), *_strings(values.pop("mirrors", []), "mirrors")]
        path = Path(path).expanduser() if path else default_path(dataset_folder)
        return cls(path, {name: _remote(name, entry, folders) for name, entry in files.items()}, **values)

    def missing(self) -> list[str]:
        """Return the files to download that are not in ``path``, neither compressed nor uncompressed."""
        return [name for name in self.files
                if not any((self.path / variant).exists() for variant in (name, name.removesuffix(".gz"), f"{name}.gz"))]


def default_path(dataset_folder: Path) -> Path:
    """Return the default folder of a dataset's raw files: ``NAME.raw`` beside its folder."""
    return dataset_folder.with_name(f"{dataset_folder.name}.raw")


def _remote(name: Any, entry: Any, folders: list[str]) -> Remote:
    if not isinstance(name, str) or name != Path(name).name or name.startswith(".") or "\\" in name or not name:
        raise UserError(f"files of source names {name!r}; expected a file name without folders")
    if not isinstance(entry, Mapping):
        entry = {"urls": entry}
    for key in entry:
        if key not in FILE_KEYS:
            raise UserError(f"{name} in files of source has the key '{key}', which is unknown; expected {', '.join(FILE_KEYS)}."
                            f"{nearest(str(key), FILE_KEYS)}")
    mirrors = [f"{folder.rstrip('/')}/{name}" for folder in folders]
    urls = (*mirrors, *_strings(entry.get("urls", []), f"urls of {name}"))
    wrong = [url for url in urls if not url.lower().startswith(("http://", "https://"))]
    if wrong:
        raise UserError(f"source has the URL {wrong[0]} for {name}; expected http:// or https://; set path: FOLDER for "
                        "local files")
    sha256, limit = entry.get("sha256"), entry.get("max_bytes", Remote._field_defaults["max_bytes"])
    if sha256 is not None and (not isinstance(sha256, str) or len(sha256) != 64):
        raise UserError(f"sha256 of {name} in source is {sha256!r}; expected 64 hexadecimal digits, in quotes")
    if not isinstance(limit, int | float) or isinstance(limit, bool) or limit < 1:
        raise UserError(f"max_bytes of {name} in source is {limit!r}; expected a number of bytes")
    return Remote(urls, sha256.lower() if sha256 else None, int(limit))


def _strings(value: Any, key: str) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(text, str) for text in values):
        raise UserError(f"{key} in source is {value!r}; expected a URL or a list of URLs")
    return list(values)
