"""Checksums of the files of a dataset, with which a comparison detects changed data."""
from collections.abc import Iterable
from functools import cache
from glob import escape
from itertools import chain
from pathlib import Path

from recbole_macrec.data.encoders.encoded_manifest import is_imported
from recbole_macrec.data.features import available_modalities, feature_paths
from recbole_macrec.data.id_files import IDS_FOLDER
from recbole_macrec.utils.files import sha256_of


def checksums_of_atomic_files(folder: Path, name: str) -> dict[str, str]:
    """Return file name -> SHA-256 of the atomic files of the dataset ``name`` in ``folder``, ``NAME.inter`` and others."""
    return _checksums(folder, folder.glob(f"{escape(name)}.*"))


def checksums_of_dataset(folder: Path, name: str) -> dict[str, str]:
    """Return path in ``folder`` -> SHA-256 of the files that the user gave to the dataset ``name``.

    These are the atomic files, imported features and published semantic IDs; features computed by a run are left out.
    """
    imported = [modality for modality in available_modalities(folder) if is_imported(folder, modality)]
    features = chain.from_iterable(feature_paths(folder, modality) for modality in imported)
    return checksums_of_atomic_files(folder, name) | _checksums(folder, chain(features, (folder / IDS_FOLDER).glob("*.json")))


def _checksums(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    stats = [(file, file.stat()) for file in sorted(files) if file.is_file()]
    return {file.relative_to(folder).as_posix(): _checksum(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats}


@cache
def _checksum(file: Path, size: int, changed: int) -> str:
    """Return the SHA-256 of a file; a cached result is used if size and modification time are unchanged."""
    return sha256_of(file)
