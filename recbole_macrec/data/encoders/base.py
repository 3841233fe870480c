"""What an item encoder is, and what every encoder asks of its items."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np

from recbole_macrec.data.features import listing
from recbole_macrec.errors import UserError

NAMED = 20  # items, or reasons, that a message names
REMEDIES = {
    "text": "fill the columns that text_fields names in the .item file, set missing_texts: mean, or leave the modality out of "
            "modalities",
    "image": "put the files there, correct the column that image_field names in the .item file, set missing_images: mean, or leave "
             "the modality out of modalities",
}


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

    def unusable(self, items: Sequence[RawItem]) -> dict[str, str]:
        """Return item token -> why this encoder can make no features of it, such as ``empty text``."""
        ...

    def encode(self, items: Sequence[RawItem]) -> np.ndarray:
        """Return float32 [len(items), d], the same for the same items; raise UserError naming unusable items."""
        ...


def require_usable(kind: str, unusable: Mapping[str, str]) -> None:
    """Raise UserError naming all items that cannot be encoded.

    Args:
        unusable: item token -> why, such as ``empty text``; items of one reason are named together.
    """
    if not unusable:
        return
    by_reason: dict[str, list[str]] = {}
    for token, reason in unusable.items():
        by_reason.setdefault(reason, []).append(token)
    named = "; ".join(f"{listing(tokens, 'item', shown=NAMED)}: {reason}" for reason, tokens in list(by_reason.items())[:NAMED])
    others = sum(len(tokens) for tokens in list(by_reason.values())[NAMED:])
    raise UserError(f"{named}{f'; and {others} more' if others else ''}; {REMEDIES[kind]}")


def without_text(items: Sequence[RawItem]) -> dict[str, str]:
    """Item token -> why it has no text to encode."""
    return {item.token: "empty text" for item in items if not item.text}


def without_image(items: Sequence[RawItem]) -> dict[str, str]:
    """Item token -> why it has no image file."""
    return {item.token: "no image" if item.image is None else f"no file {item.image}"
            for item in items if item.image is None or not item.image.is_file()}
