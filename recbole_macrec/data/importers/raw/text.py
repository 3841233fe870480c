"""Text of a shop's web pages as plain text."""
from __future__ import annotations

import html
from html.parser import HTMLParser

from recbole_macrec.data.atomic import clean_text

_UNSEEN = {"script", "style"}
_INSIDE_WORDS = {"a", "b", "em", "font", "i", "small", "span", "strong", "sub", "sup", "u"}  # others part words: <br>, <li>


def plain_text(value: object) -> str:
    """Return a string, or a list of them, without tags, entities, scripts, style sheets and runs of white space.

    Whatever is neither (null, a number that stands for a missing value) is the empty text.
    """
    if isinstance(value, list):
        return " ".join(filter(None, map(plain_text, value)))
    if not isinstance(value, str):
        return ""
    if "<" in value or "&" in value:
        value = _strip(html.unescape(value))  # first: descriptions often hold escaped tags
    return clean_text(value)


def _strip(value: str) -> str:
    parser = _Text()
    parser.feed(value)
    parser.close()
    return "".join(parser.parts)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self._unseen += tag in _UNSEEN
        self._part(tag)

    def handle_endtag(self, tag: str) -> None:
        self._unseen = max(self._unseen - (tag in _UNSEEN), 0)
        self._part(tag)

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(data)

    def _part(self, tag: str) -> None:
        if tag not in _INSIDE_WORDS:
            self.parts.append(" ")
