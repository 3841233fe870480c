"""Prompts of P5 and VIP5: words, items and users, with the running number of the word that each token belongs to.

A wording is a line of words between spaces. ``{user}`` inside a word is the user's number; the words ``{history}``,
``{candidate}`` and ``{candidates}`` are items, with commas between them. An item is one word: ``item_`` and the tokens of its
ID.
"""
from collections.abc import Sequence
from typing import NamedTuple

from recbole_macrec.baselines.text_to_text.backbones import Backbone

ITEM, END = "item_", 0  # the word number of the end of a prompt


class Prompt(NamedTuple):
    """A prompt; the three lists are equally long."""

    tokens: list[int]
    words: list[int]  # number of the word, from 1
    items: list[int]  # in a visual slot: number of the item; otherwise 0


class Sample(NamedTuple):
    """A prompt and the tokens to generate."""

    prompt: Prompt
    response: list[int]


class PromptWriter:
    """Writes prompts in the tokens of a backbone.

    Args:
        item_ids: tokens of the ID of each item, by item number.
        user_digits: tokens of the number of each user.
        slots: number of visual slots after an item, each a word of its own.
    """

    def __init__(self, backbone: Backbone, item_ids: Sequence[list[int]], user_digits: Sequence[list[int]], slots: int = 0):
        self.backbone, self.user_digits, self.slots = backbone, user_digits, slots
        self.item_start = backbone.encode(ITEM)
        self.items = [self.item_start + tokens for tokens in item_ids]
        self.comma, self.end = backbone.encode(","), backbone.tokenizer.eos_token_id
        self._parts: dict[str, list[int]] = {}

    def write(self, wording: str, user: int, history: Sequence[int], candidates: Sequence[int] = ()) -> Prompt:
        """Write a prompt.

        Args:
            user: number of the user.
            history: item numbers, oldest first.
            candidates: item numbers for ``{candidate}`` or ``{candidates}``.
        """
        prompt = Prompt([], [], [])
        for word in wording.split():
            if word == "{history}":
                self._add_items(prompt, history)
            elif word in ("{candidate}", "{candidates}"):
                self._add_items(prompt, candidates)
            elif "{user}" in word:
                before, after = word.split("{user}")
                self._add_word(prompt, self._encoded(before) + self.user_digits[user] + self._encoded(after))
            else:
                self._add_word(prompt, self._encoded(word))
        prompt.tokens.append(self.end)
        prompt.words.append(END)
        prompt.items.append(0)
        return prompt

    def response(self, item: int) -> list[int]:
        """The tokens of an item, and the end."""
        return [*self.items[item], self.end]

    def _encoded(self, text: str) -> list[int]:
        if text not in self._parts:
            self._parts[text] = self.backbone.encode(text) if text else []
        return self._parts[text]

    def _add_items(self, prompt: Prompt, items: Sequence[int]) -> None:
        for place, item in enumerate(items):
            if place:
                self._add_word(prompt, self.comma)
            self._add_word(prompt, self.items[item])
            for _ in range(self.slots):
                self._add_word(prompt, [0], item)

    @staticmethod
    def _add_word(prompt: Prompt, tokens: list[int], item: int = 0) -> None:
        number = (prompt.words[-1] if prompt.words else 0) + 1
        prompt.tokens.extend(tokens)
        prompt.words.extend([number] * len(tokens))
        prompt.items.extend([item] * len(tokens))
