"""Generate ``arts-toy``, the interactions of a synthetic craft shop, with no real users, items or images.

An item is a kind (one step of one craft), a brand and a colour. Its text gives kind and brand, its image gives kind and
colour: each alone matches several items, both together exactly one. A user follows the steps of a craft and then of a related
one, mostly with the same brand and colour, so the next item depends on order, text and image.
"""
from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from recbole_macrec.data import atomic
from recbole_macrec.utils.files import replace_folder

TOY_NAME = "arts-toy"
USERS = 500
SHORTEST, LONGEST = 6, 20
NEXT_STEP, SAME_BRAND, SAME_COLOR = 0.8, 0.85, 0.8
# Craft -> nouns for its steps in item texts, in order.
CRAFTS = {
    "calligraphy": ("practice paper", "dip pen", "bottled ink", "drying rack"),
    "watercolour": ("cotton paper block", "round brush", "paint pan set", "varnish spray"),
    "knitting": ("wool yarn", "needle pair", "stitch markers", "blocking mat"),
    "candle making": ("soy wax flakes", "pouring pitcher", "braided wicks", "glass jar"),
    "leatherwork": ("hide panel", "edge punch", "waxed thread", "burnishing cream"),
    "bookbinding": ("folded sections", "bone folder", "linen cord", "cover boards"),
}
# Brand -> material in item texts.
BRANDS = {"Aldermoor": "unbleached natural", "Brightwell": "professional grade",
          "Corvane": "beginner friendly", "Dunmore": "hand finished"}
WORDINGS = ("Made for {craft}, {material}, tested in our own workshop.",
            "{material} quality for everyone who enjoys {craft}.",
            "A reliable {noun} for {craft}; {material}.")
README = """# arts-toy: a synthetic craft shop

All of this is synthetic: users, items, texts and images were made by `python -m recbole_macrec.data toy` from a fixed
seed. No figure reached here says anything about real shops. It is for trying the commands and for tests, offline.

{users} users, {items} items, {interactions} interactions. An item is a kind (a step of a craft), a brand and a colour; \
text tells kind
and brand, image tells kind and colour. Users follow the steps of a craft, mostly keeping brand and colour.
"""
_T = TypeVar("_T")


class Item(NamedTuple):
    """One item; the numbers are indices of CRAFTS, the craft's steps, BRANDS and COLORS."""

    craft: int
    step: int
    brand: int
    color: int


def write_toy(data_path: Path, overwrite: bool = False) -> Path:
    """Write ``data_path/arts-toy`` and return its path; the bytes are always the same. UserError if it exists."""
    rng = random.Random(20)  # use only random(): Python guarantees its results across versions, but not those of other methods
    items = _shuffled(_catalogue(), rng)
    tokens = {item: f"toy{number:03d}" for number, item in enumerate(items)}
    popularity = {item: 0.3 + 6 * rng.random() ** 8 for item in items}
    related = {craft: [(craft + 1) % len(CRAFTS), (craft + 2) % len(CRAFTS)] for craft in range(len(CRAFTS))}
    histories = [_history(rng, popularity, related) for _ in range(USERS)]
    texts = {item: _texts(item, rng) for item in items}
    target = Path(data_path) / TOY_NAME
    with replace_folder(target, overwrite) as folder:
        rows = [(f"u{user:03d}", tokens[item], time) for user, history in enumerate(histories)
                for time, item in enumerate(history)]
        users, item_ids, times = (list(column) for column in zip(*rows))
        interactions = {"user_id:token": users, "item_id:token": item_ids, "timestamp:float": times}
        atomic.write(folder / f"{TOY_NAME}.inter", interactions)
        atomic.write(folder / f"{TOY_NAME}.item", {
            "item_id:token": [tokens[item] for item in items],
            "title:token_seq": [texts[item][0] for item in items],
            "description:token_seq": [texts[item][1] for item in items],
            "category:token": [list(CRAFTS)[item.craft] for item in items],
            "image:token": [f"images/{tokens[item]}.png" for item in items]})
        (folder / "images").mkdir()
        for item in items:
            shift = int(rng.random() * 5) - 2, int(rng.random() * 5) - 2
            draw(item.craft, item.step, item.color, shift).save(folder / "images" / f"{tokens[item]}.png", optimize=True)
        (folder / "README.md").write_text(README.format(users=USERS, items=len(items), interactions=len(rows)))
        (folder / ".gitignore").write_text("features/\nsemantic_ids/\n")
    return target


def _catalogue() -> list[Item]:
    """Return every kind in half of all pairs of brand and colour: 3 items have the same text, 2 the same image."""
    kinds = product(range(len(CRAFTS)), range(4))
    pairs = [(brand, color) for brand, color in product(range(len(BRANDS)), range(len(COLORS))) if (brand + color) % 2 == 0]
    return [Item(craft, step, brand, color) for (craft, step), (brand, color) in product(kinds, pairs)]


def _history(rng: random.Random, popularity: dict[Item, float], related: dict[int, list[int]]) -> list[Item]:
    """Return the items of one user in time order, without repetitions."""
    length = SHORTEST + int(rng.random() * (LONGEST - SHORTEST + 1))
    history = [_pick(list(popularity), rng, popularity)]
    current = history[0]  # last item that followed the steps; random purchases do not change it
    while len(history) < length:
        if rng.random() < NEXT_STEP:
            craft, step = (current.craft, current.step + 1) if current.step < 3 else (_pick(related[current.craft], rng), 0)
            candidates = [item for item in popularity if item[:2] == (craft, step)]
            same_brand, same_color = rng.random() < SAME_BRAND, rng.random() < SAME_COLOR
            candidates = [item for item in candidates if (not same_brand or item.brand == current.brand)
                          and (not same_color or item.color == current.color)]
            chosen = current = _pick(candidates, rng, popularity)
        else:
            chosen = _pick(list(popularity), rng, popularity)
        if chosen not in history:
            history.append(chosen)
    return history


def _texts(item: Item, rng: random.Random) -> tuple[str, str]:
    craft, noun = list(CRAFTS)[item.craft], list(CRAFTS.values())[item.craft][item.step]
    brand, material = list(BRANDS.items())[item.brand]
    description = _pick(WORDINGS, rng).format(craft=craft, noun=noun, material=material)
    return f"{brand} {noun}", description[0].upper() + description[1:]


def _pick(choices: Sequence[_T], rng: random.Random, weights: dict[_T, float] | None = None) -> _T:
    """Return a random choice, with probability proportional to ``weights``."""
    cumulative, total = [], 0.0
    for choice in choices:
        total += weights[choice] if weights else 1.0
        cumulative.append(total)
    threshold = rng.random() * total
    return next(choice for choice, limit in zip(choices, cumulative) if threshold < limit)


def _shuffled(items: list[Item], rng: random.Random) -> list[Item]:
    keyed = sorted((rng.random(), item) for item in items)
    return [item for _, item in keyed]


if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 48
COLORS = {"red": (200, 45, 50), "blue": (45, 85, 190), "green": (50, 145, 70), "yellow": (230, 190, 40),
          "violet": (130, 60, 160), "black": (45, 45, 50)}
PAPER = (244, 242, 236)


def draw(craft: int, step: int, color: int, shift: tuple[int, int]) -> Image:
    """Return a 48 x 48 RGB picture; ``shift`` moves the shape by that many pixels down and right."""
    from PIL import Image

    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    y, x = (rows - SIDE // 2 + 0.5 - shift[0]) / 19, (columns - SIDE // 2 + 0.5 - shift[1]) / 19
    pixels = np.empty((SIDE, SIDE, 3), dtype=np.uint8)
    pixels[:] = PAPER
    pixels[_painted(craft, step, y, x)] = list(COLORS.values())[color]
    return Image.fromarray(pixels)


def _painted(craft: int, step: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return which pixels are painted: step 0 solid, 1 a thick outline, 2 stripes, 3 four small copies."""
    if step == 1:
        return _inside(craft, y, x) & ~_inside(craft, y / 0.6, x / 0.6)
    if step == 2:
        return _inside(craft, y, x) & (np.floor((y + 2) * 19 / 4) % 2 == 0)
    if step == 3:
        return _inside(craft, (np.abs(y) - 0.52) * np.sign(y) / 0.45, (np.abs(x) - 0.52) / 0.45)
    return _inside(craft, y, x)


def _inside(craft: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return which points of the square [-1, 1] x [-1, 1] are inside the shape of a craft."""
    across, down = np.abs(x), np.abs(y)
    return (
        x * x + y * y <= 0.9,  # disc
        (across <= 0.8) & (down <= 0.8),  # square
        (y <= 0.8) & (2 * across <= y + 1),  # triangle
        across + down <= 1,  # diamond
        (np.minimum(across, down) <= 0.3) & (np.maximum(across, down) <= 0.95),  # cross
        (across <= 1) & (down <= 0.45),  # bar
    )[craft]
