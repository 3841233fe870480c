"""Detect feature and ID files beside a source; the file name gives their modality."""
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recbole_macrec.errors import UserError

# File name after the dataset's name -> modality, as released with MQL4GRec, MACRec, LC-Rec and LETTER.
FEATURES = {r"\.emb-llama.*\.npy": "text", r"\.emb-vit.*\.npy": "image"}
IDS = {r"\.index\.json": "text", r"\.index_lemb\.json": "text", r"\.index_vitemb\.json": "image"}
_FEATURE_OR_IDS = re.compile(r"\.(emb-.*\.npy|index.*\.json)", re.IGNORECASE)
_MMREC = "_feat.npy"  # MMRec: <modality>_feat.npy


@dataclass
class DetectedFiles:
    """Feature and ID files by modality, sorted by name; ``unclear`` are such files of unknown modality."""

    features: dict[str, list[Path]] = field(default_factory=dict)
    ids: dict[str, list[Path]] = field(default_factory=dict)
    unclear: list[Path] = field(default_factory=list)

    def choose(
        self, option: str, found: Mapping[str, list[Path]], given: Mapping[str, Path], notes: list[str]
    ) -> dict[str, Path]:
        """Return the file of each modality.

        Args:
            option: the option for these files, ``--feature`` or ``--semantic_ids``.
            found: ``features`` or ``ids`` of this object.
            given: the files given with ``option``, which have precedence over detected ones.
            notes: receives a note about each detected file.

        Raises:
            UserError: if several files were detected for one modality.
        """
        chosen = dict(given)
        for modality, files in found.items():
            if modality in given:
                continue
            if len(files) > 1:
                raise UserError(
                    f"{files[0].parent} contains {' and '.join(file.name for file in files)} for modality '{modality}'; "
                    f"choose one, for example {option} {modality}={files[0]}"
                )
            chosen[modality] = files[0]
            notes.append(f"{files[0].name} is used for modality '{modality}'")
        used = {Path(path).resolve() for path in given.values()}
        suffix = ".npy" if found is self.features else ".json"
        notes += [f"{path.name} is not used, because its modality is unknown; {option} MODALITY={path} adds it"
                  for path in self.unclear if path.suffix == suffix and path.resolve() not in used]
        return chosen


def find_beside(source: Path, stem: str) -> DetectedFiles:
    """Return the feature and ID files in the folder of ``source`` whose names begin with ``stem``, or end as MMRec's do."""
    found = DetectedFiles()
    for path in sorted(source.parent.iterdir()):
        suffix = path.name.removeprefix(stem)
        if path.name.endswith(_MMREC):
            found.features.setdefault(path.name.removesuffix(_MMREC), []).append(path)
        elif suffix != path.name and _FEATURE_OR_IDS.fullmatch(suffix):
            files, known = (found.features, FEATURES) if path.suffix.lower() == ".npy" else (found.ids, IDS)
            modality = next((m for pattern, m in known.items() if re.fullmatch(pattern, suffix, re.IGNORECASE)), None)
            (found.unclear if modality is None else files.setdefault(modality, [])).append(path)
    return found
