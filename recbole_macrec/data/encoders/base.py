"""The interface of item encoders, and checks of the items to encode."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np

from recbole_macrec.data.features import format_items
from recbole_macrec.errors import UserError

Kind: TypeAlias = Literal["text", "image", "interactions"]
NAMED = 20  # maximum number of items or reasons in a message
REMEDIES = {
    "text": "fill the columns that text_fields names in the .item file, set missing_texts: mean, or leave the modality out of "
    "modalities",
    "image": "put the files there (python -m recbole_macrec.data images downloads those imported with URLs), correct the "
    "column that image_field names in the .item file, set missing_images: mean, or leave the modality out of modalities",
}


class RawItem(NamedTuple):
    """Raw content of one item; an encoder reads the field of its kind: ``texts``, ``image`` or ``users``."""

    token: str
    texts: tuple[str, ...] = ()  # one per text field, in the order of text_fields
    image: Path | None = None
    users: np.ndarray = np.empty(0, dtype=np.int64)  # numbers of the users with a training interaction with it

    @property
    def text(self) -> str:
        """All texts joined by spaces."""
        return " ".join(self.texts).strip()


class Encoder(Protocol):
    """Compute features of raw items.

    Attributes:
        settings: everything that affects the features, as JSON values. If it changes, features are encoded again.
        details: further entries of the manifest, such as versions.
    """

    name: str
    kind: Kind
    settings: dict
    details: dict

    def unusable(self, items: Sequence[RawItem]) -> dict[str, str]:
        """Return item token -> reason why the item cannot be encoded, such as ``empty text``."""
        ...

    def encode(self, items: Sequence[RawItem]) -> np.ndarray:
        """Return features, float32 [len(items), d], deterministic; raise UserError naming unusable items."""
        ...


def require_usable(kind: str, unusable: Mapping[str, str]) -> None:
    """Raise UserError naming all items that cannot be encoded.

    Args:
        kind: ``text`` or ``image``.
        unusable: item token -> reason, such as ``empty text``; items with the same reason are named together.
    """
    if not unusable:
        return
    by_reason: dict[str, list[str]] = {}
    for token, reason in unusable.items():
        by_reason.setdefault(reason, []).append(token)
    named = "; ".join(
        f"{format_items(tokens, 'item', shown=NAMED)}: {reason}" for reason, tokens in list(by_reason.items())[:NAMED]
    )
    others = sum(len(tokens) for tokens in list(by_reason.values())[NAMED:])
    raise UserError(f"{named}{f'; and {others} more' if others else ''}; {REMEDIES[kind]}")


def without_text(items: Sequence[RawItem]) -> dict[str, str]:
    """Return item token -> reason for the items without text."""
    return {item.token: "empty text" for item in items if not item.text}


def without_image(items: Sequence[RawItem]) -> dict[str, str]:
    """Return item token -> reason for the items without an image file."""
    return {item.token: "no image" if item.image is None else f"no file {item.image}"
            for item in items if item.image is None or not item.image.is_file()}
