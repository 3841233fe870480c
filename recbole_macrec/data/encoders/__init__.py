"""Item encoders by name: raw text and images to features."""
from __future__ import annotations

from collections.abc import Callable

from recbole_macrec.data.encoders.base import Encoder, RawItem
from recbole_macrec.data.encoders.pixels import Pixels
from recbole_macrec.data.encoders.tfidf import Tfidf
from recbole_macrec.errors import UserError, nearest

ENCODERS: dict[str, Callable[[], Encoder]] = {"tfidf": Tfidf, "pixels": Pixels}


def create_encoder(name: str) -> Encoder:
    """Return a new encoder; raise UserError with the nearest name if there is none."""
    if name not in ENCODERS:
        raise UserError(f"encoders names '{name}', which is unknown; known are {', '.join(sorted(ENCODERS))}."
                        f"{nearest(name, ENCODERS)}")
    return ENCODERS[name]()


__all__ = ["ENCODERS", "Encoder", "RawItem", "create_encoder"]
