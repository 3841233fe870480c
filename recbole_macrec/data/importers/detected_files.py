"""Feature and ID files that lie beside a source under a name that tells their modality."""
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recbole_macrec.errors import UserError

# Names without the dataset's, and the modality: MQL4GRec and MACRec, LC-Rec and LETTER; MMRec's are <modality>_feat.npy.
FEATURES = {r"\.emb-llama.*\.npy": "text", r"\.emb-vit.*\.npy": "image"}
IDS = {r"\.index\.json": "text", r"\.index_lemb\.json": "text", r"\.index_vitemb\.json": "image"}
_UNCLEAR = re.compile(r"\.(emb-.*\.npy|index.*\.json)", re.IGNORECASE)
_MMREC = "_feat.npy"


@dataclass
class DetectedFiles:
    """Files by modality, sorted by name, and files that look like features or IDs of no known modality."""

    features: dict[str, list[Path]] = field(default_factory=dict)
    ids: dict[str, list[Path]] = field(default_factory=dict)
    unclear: list[Path] = field(default_factory=list)

    def choose(self, option: str, found: Mapping[str, list[Path]], given: Mapping[str, Path], notes: list[str]) -> dict[str, Path]:
        """Return the file of each modality, what ``option`` gave first; UserError where names leave a choice.

        ``notes`` tells what was taken by its name, and what was left out.
        """
        chosen = dict(given)
        for modality, files in found.items():
            if modality in given:
                continue
            if len(files) > 1:
                raise UserError(f"{files[0].parent} holds {' and '.join(file.name for file in files)} for modality '{modality}'; "
                                f"choose: {option} {modality}={files[0]}")
            chosen[modality] = files[0]
            notes.append(f"{files[0].name} is taken for modality '{modality}'")
        used = {Path(path).resolve() for path in given.values()}
        suffix = ".npy" if found is self.features else ".json"
        notes += [f"{path.name} is left out unless an option says what it is: {option} MODALITY={path}"
                  for path in self.unclear if path.suffix == suffix and path.resolve() not in used]
        return chosen


def find_beside(source: Path, stem: str) -> DetectedFiles:
    """Return what lies in the folder of ``source`` and bears the name ``stem``, and MMRec's feature files there."""
    found = DetectedFiles()
    for path in sorted(source.parent.iterdir()):
        rest = path.name.removeprefix(stem)
        if path.name.endswith(_MMREC):
            found.features.setdefault(path.name.removesuffix(_MMREC), []).append(path)
        elif rest != path.name and _UNCLEAR.fullmatch(rest):
            for known, place in ((FEATURES, found.features), (IDS, found.ids)):
                modality = next((m for name, m in known.items() if re.fullmatch(name, rest, re.IGNORECASE)), None)
                if modality is not None:
                    place.setdefault(modality, []).append(path)
                    break
            else:
                found.unclear.append(path)
    return found
