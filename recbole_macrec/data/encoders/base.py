"""What an item encoder is, and what every encoder asks of its items."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np

from recbole_macrec.data.features import listing
from recbole_macrec.errors import UserError


class RawItem(NamedTuple):
    """The raw content of one item; an encoder reads what its kind says: ``texts``, ``image`` or ``users``."""

    token: str
    texts: tuple[str, ...] = ()  # one of each text field, in the order of text_fields
    image: Path | None = None
    users: np.ndarray = np.empty(0, dtype=np.int64)  # the users who took it in the training interactions, by number

    @property
    def text(self) -> str:
        """The fields as one text."""
        return " ".join(self.texts).strip()


class Encoder(Protocol):
    """Turns raw items into features.

    ``settings`` holds, as plain JSON values, everything that changes the result: features are encoded again when it does.
    ``details`` holds what else is worth a line in the manifest, such as versions.
    """

    name: str
    kind: Literal["text", "image", "interactions"]
    settings: dict
    details: dict

    def encode(self, items: Sequence[RawItem]) -> np.ndarray:
        """Return float32 [len(items), d], the same for the same items; raise UserError naming unusable items."""
        ...


def require_text(items: Sequence[RawItem]) -> None:
    """Raise UserError naming the items that have no text."""
    empty = [item.token for item in items if not item.text]
    if empty:
        raise UserError(f"{listing(empty, 'item')} have empty text; fill the columns that text_fields names in the .item file, "
                        "set missing_texts: mean, or leave the modality out of modalities")


def require_images(items: Sequence[RawItem]) -> None:
    """Raise UserError naming the items without an image, or whose image file is missing."""
    unnamed = [item.token for item in items if item.image is None]
    if unnamed:
        raise UserError(f"{listing(unnamed, 'item')} have no image; fill the column that image_field names in the .item file, "
                        "set missing_images: mean, or leave the modality out of modalities")
    missing = [item for item in items if not item.image.is_file()]
    if missing:
        raise UserError(f"image files are missing for {listing([item.token for item in missing], 'item')}, the first is "
                        f"{missing[0].image}; put them there, mend the column that image_field names, or set missing_images: "
                        "mean")
