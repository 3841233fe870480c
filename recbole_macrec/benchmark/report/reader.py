"""The reader's corner: some test users, what they took, and what each model would recommend, as plain values for the page."""
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recbole_macrec.benchmark.compare.runs import Comparison, Ranks, Run
from recbole_macrec.benchmark.report.items import images_of, titles_of

SHOWN = 10  # of each list
SEEN = 20  # last items of a history, where the models don't say how many they see


@dataclass(frozen=True)
class Corner:
    """What the reader's corner may hold.

    Attributes:
        users: of each dataset.
        seed: of their drawing.
        image_bytes: of the images of all datasets together, as they stand in the page.
        data_path: where the datasets lie; None: where they lay for the runs.
    """

    users: int = 200
    seed: int = 0
    image_bytes: int = 3 * 2**20
    data_path: str | None = None


def read_corner(comparison: Comparison, dataset: str, corner: Corner, image_bytes: int) -> dict | None:
    """Everything the page needs of one dataset; None where no run is finished, no user requested, or no test row shared.

    Returns:
        labels, seed of each label's run, users (see :func:`_user`), items (token, title and how often trained on, as columns;
        ``image`` numbers into ``images`` or is null), and codes: one entry for each label and modality, whose table (equal
        ones are kept once) has the code of every item as a list, or null.
    """
    runs = {label: comparison.of(dataset, label)[0] for label in comparison.labels if comparison.of(dataset, label)}
    if not runs or not corner.users:
        return None
    ranks = {label: run.ranks.single() for label, run in runs.items()}
    rows = {label: {key: row for row, key in enumerate(r.keys())} for label, r in ranks.items()}
    common = sorted(set.intersection(*(set(of_label) for of_label in rows.values())))
    if not common:
        return None
    targets = Counter(user for user, *_ in common)
    chosen = sorted(random.Random(corner.seed).sample(common, min(corner.users, len(common))), key=lambda key: (len(key[0]), key))
    seen = max(_seen(run) for run in runs.values())
    users = [
        _user(_name(key, targets), {label: (ranks[label], rows[label][key]) for label in runs}, seen) for key in chosen
    ]  # fmt: skip
    numbers: dict[str, int] = {}
    often = Counter(token for user in users for token in _tokens(user))
    for token, _ in often.most_common():  # the first ones get an image, should the room for images not suffice
        numbers[token] = len(numbers)
    first = next(iter(ranks.values()))
    counts = dict(zip(first.items.tolist(), first.counts.tolist()))
    settings = _settings(runs, corner)
    titles = titles_of(settings, list(numbers))
    images = images_of(settings, list(numbers), image_bytes)
    places = {token: place for place, token in enumerate(images)}
    tables, codes = _codes(runs, ranks, list(numbers))
    return {
        "dataset": dataset,
        "labels": list(runs),
        "seeds": [run.spec.seed for run in runs.values()],
        "testUsers": len(common),
        "items": {
            "token": list(numbers),
            "title": [titles.get(token, "") for token in numbers],
            "trained": [counts[token] for token in numbers],
            "image": [places.get(token) for token in numbers],
        },
        "images": list(images.values()),
        "codes": codes,
        "tables": tables,
        "users": [_numbered(user, numbers) for user in users],
    }


def _name(key: tuple, targets: Counter) -> str:
    """The user of a test row, with the target where the user has several."""
    user, (target,), number = key
    return user if targets[user] == 1 else f"{user}, {target}" + (f" ({number + 1})" if number else "")


def _user(user: str, found: dict[str, tuple[Ranks, int]], seen: int) -> dict:
    """One test user and target: the last ``seen`` items of the history, how many came before them, the withheld target, and each
    label's rank of it and best items; items are tokens."""
    ranks, row = next(iter(found.values()))
    history = ranks.items[ranks.histories[row]].tolist()
    return {
        "user": user,
        "history": history[-seen:],
        "earlier": max(0, len(history) - seen),
        "target": str(ranks.items[ranks.targets[row]]),
        "ranks": [int(r.ranks[i]) for r, i in found.values()],
        "top": [r.items[r.top[i][:SHOWN]].tolist() for r, i in found.values()],
    }


def _tokens(user: dict) -> Iterable[str]:
    yield user["target"]
    yield from user["history"]
    for top in user["top"]:
        yield from top


def _numbered(user: dict, numbers: dict[str, int]) -> dict:
    return {
        **user,
        "history": [numbers[token] for token in user["history"]],
        "target": numbers[user["target"]],
        "top": [[numbers[token] for token in top] for top in user["top"]],
    }


def _seen(run: Run) -> int:
    return int(run.result["settings"].get("MAX_ITEM_LIST_LENGTH") or SEEN)


def _settings(runs: dict[str, Run], corner: Corner) -> dict:
    """The settings that say where texts and images are, of the first model that reads any."""
    every = [run.result["settings"] for run in runs.values()]
    settings = next((s for s in every if s.get("text_fields")), every[0])
    folder = Path(corner.data_path) / settings["dataset"] if corner.data_path else Path(settings["data_path"])
    return {**settings, "data_path": str(folder)}


def _codes(runs: dict[str, Run], ranks: dict[str, Ranks], tokens: Sequence[str]) -> tuple[list, list]:
    tables: list[list] = []
    codes = []
    for label, run in runs.items():
        rows = {token: row for row, token in enumerate(ranks[label].items[1:].tolist())}
        for modality, table in run.codes["codes"].items():
            shown = [table[rows[token]].tolist() if token in rows else None for token in tokens]
            if shown not in tables:
                tables.append(shown)
            codes.append({"label": label, "modality": modality, "table": tables.index(shown)})
    return tables, codes
