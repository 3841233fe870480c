"""What encoders read of the items of a dataset: texts, images, and the users who interacted with them."""
from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_macrec.config.options import import_command
from recbole_macrec.data import atomic, features
from recbole_macrec.data.atomic import DEFAULT_FORMAT, AtomicFormat
from recbole_macrec.data.encoders.base import Encoder, Kind, RawItem
from recbole_macrec.errors import UserError

logger = logging.getLogger(__name__)

TEXT_FIELDS = ("title", "description")
IMAGE_FIELD = "image"
Users = Mapping[str, np.ndarray]  # item token -> numbers of the users with a training interaction with it


@dataclass(frozen=True)
class ItemContent:
    """Texts, images and users of the items of a dataset.

    Attributes:
        folder: the dataset folder.
        name: name of the dataset.
        text_fields: text columns of ``NAME.item``.
        image_field: column of ``NAME.item`` with image paths.
        form: format of ``NAME.item``.
        users: returns the users of each item; called for encoders of interactions only. None outside of a run.
    """

    folder: Path
    name: str
    text_fields: Sequence[str] = TEXT_FIELDS
    image_field: str = IMAGE_FIELD
    form: AtomicFormat = DEFAULT_FORMAT
    users: Callable[[], Users] | None = None

    @classmethod
    def from_config(cls, config, folder: Path, name: str, users: Callable[[], Users] | None = None) -> ItemContent:
        """The content with the columns and the format that ``config`` names."""
        return cls(folder, name, config["text_fields"] or (), config["image_field"] or IMAGE_FIELD,
                   AtomicFormat.from_config(config), users)

    def encodable(self) -> set[str]:
        """Which of ``text`` and ``image`` can be encoded from the columns of ``NAME.item``."""
        if not (self.folder / f"{self.name}.item").is_file():
            return set()
        found = set(self.read())
        return {kind for kind, fields in (("text", self.text_fields), ("image", [self.image_field])) if found & set(fields)}

    def read(self) -> pd.DataFrame:
        """Read ``NAME.item``; see :func:`~recbole_macrec.data.atomic.read_items`."""
        return atomic.read_items(self.folder, self.name, self.form)

    def columns(self, frame: pd.DataFrame, kind: Kind, modality: str) -> list[str]:
        """The columns of ``frame`` that an encoder of ``kind`` reads.

        Raises:
            UserError: there are none.
        """
        if kind == "text":
            return self._text_columns(frame, modality)
        if self.image_field not in frame:
            raise self.unavailable(modality, f"{self.name}.item has no column {self.image_field} to encode")
        return [self.image_field]

    def _text_columns(self, frame: pd.DataFrame, modality: str) -> list[str]:
        present = [field for field in self.text_fields if field in frame]
        others = ", ".join(column for column in frame if column not in ("item_id", self.image_field, *present)) or "none"
        if not present:
            wanted = " or ".join(self.text_fields) or "(text_fields is empty)"
            raise self.unavailable(modality, f"{self.name}.item has no column {wanted} to encode (--text_fields chooses among "
                                             f"its columns: {others})")
        absent = [field for field in self.text_fields if field not in frame]
        if absent and tuple(self.text_fields) != TEXT_FIELDS:  # of the default columns, a dataset may lack one
            logger.warning(f"{self.name}.item has no column {' or '.join(absent)}, which text_fields names: texts are read "
                           f"only from {', '.join(present)} (other columns: {others})")
        return present

    def items(self, frame: pd.DataFrame, kind: Kind, names: Sequence[str]) -> list[RawItem]:
        """The items with their texts or images, sorted, as features must not depend on the order of the rows.

        Args:
            names: the columns with content of this ``kind``.
        """
        rows = zip(frame["item_id"], *(frame[column] for column in names))
        if kind == "text":
            items = [RawItem(token, tuple(texts)) for token, *texts in rows]
        else:
            items = [RawItem(token, image=self.folder / path if path else None) for token, path in rows]
        return sorted(items, key=lambda item: item.token)

    def items_with_users(self, frame: pd.DataFrame, encoder: Encoder) -> list[RawItem]:
        """The items with the users who interacted with them, sorted.

        Raises:
            UserError: outside of a run.
        """
        if self.users is None:
            raise UserError(f"encoder {encoder.name} reads the training interactions, which exist only in a run; choose "
                            "another encoder here, or set this one in the option encoders of a run")
        users_of, no_user = self.users(), np.empty(0, dtype=np.int64)
        return [RawItem(token, users=users_of.get(token, no_user)) for token in sorted(frame["item_id"])]

    def unavailable(self, modality: str, why: str) -> UserError:
        """The error that features of ``modality`` are missing; ``why`` is the reason why they cannot be encoded."""
        npy, txt = features.feature_paths(self.folder, modality)
        found = ", ".join(features.available_modalities(self.folder)) or "none"
        state = "was encoded from other columns" if npy.exists() else f"is missing (existing features: {found})"
        return UserError(
            f"modality '{modality}' of dataset {self.name} has no features for these options: {npy} {state} and {why}; import "
            f"features ({import_command(self.folder, self.name, modality)}) or put {npy.name} and {txt.name} there"
        )
