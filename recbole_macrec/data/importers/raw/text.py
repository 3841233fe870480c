"""Convert HTML texts of shops to plain text."""
from __future__ import annotations

import html
import re
from html.parser import HTMLParser

from recbole_macrec.data.atomic import clean_text

_INVISIBLE = {"script", "style"}
# "<!" that begins neither a comment, nor a declaration, nor a section
_NO_DECLARATION = re.compile(r"<!(?!--|doctype\b|\[(?:cdata|if|else|endif)(?![-.\w]))", re.IGNORECASE)
# other tags separate words: <br>, <li>
_INSIDE_WORDS = {"a", "b", "em", "font", "i", "small", "span", "strong", "sub", "sup", "u"}


def plain_text(value: object) -> str:
    """Return a string, or a list of them, without tags, entities, scripts, style sheets and repeated white space.

    Other values (null, a number that stands for a missing value) give "".
    """
    if isinstance(value, list):
        return " ".join(filter(None, map(plain_text, value)))
    if not isinstance(value, str):
        return ""
    if "<" in value or "&" in value:
        value = _strip(html.unescape(value))  # unescape first: descriptions often hold escaped tags
    return clean_text(value)


def _strip(value: str) -> str:
    parser = _Text()
    parser.feed(_NO_DECLARATION.sub("&lt;!", value))  # an error in some versions of Python
    parser.close()
    return "".join(parser.parts)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._n_invisible = 0  # open script and style tags

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self._n_invisible += tag in _INVISIBLE
        self._separate_words(tag)

    def handle_endtag(self, tag: str) -> None:
        self._n_invisible = max(self._n_invisible - (tag in _INVISIBLE), 0)
        self._separate_words(tag)

    def handle_data(self, data: str) -> None:
        if not self._n_invisible:
            self.parts.append(data)

    def _separate_words(self, tag: str) -> None:
        if tag not in _INSIDE_WORDS:
            self.parts.append(" ")
