"""The users of a report: histories of some test users and the recommendations of each model, as JSON values for the page."""
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recbole_macrec.benchmark.compare.ranks import Ranks
from recbole_macrec.benchmark.compare.runs import Comparison, Run
from recbole_macrec.benchmark.report.items import short_titles, thumbnails

SHOWN = 10  # recommendations per model
SEEN = 20  # shown items of a history, if the models have no MAX_ITEM_LIST_LENGTH


@dataclass(frozen=True)
class UserViewOptions:
    """Which users and images a report shows.

    Attributes:
        users: number of users of each dataset.
        seed: random seed for choosing the users.
        image_bytes: total size of the images of all datasets in the page.
        data_path: folder of the datasets; None: as in the runs.
    """

    users: int = 200
    seed: int = 0
    image_bytes: int = 3 * 2**20
    data_path: str | None = None


def build_user_view(comparison: Comparison, dataset: str, options: UserViewOptions, image_bytes: int) -> dict | None:
    """Collect the data of one dataset.

    Returns:
        None if no run is finished, no user is requested, or the runs share no test row. Otherwise: labels; the seed of each
        label's run; users (see :func:`_user`); items, as columns token, title, training count and image (an index into
        ``images`` or None); and codes, with one entry per label and modality, whose ``table`` is an index into ``tables``. A
        table has the code of every item as a list, or None. Equal tables are stored once.
    """
    runs = {label: comparison.of(dataset, label)[0] for label in comparison.labels if comparison.of(dataset, label)}
    if not runs or not options.users:
        return None
    ranks = {label: run.ranks.single() for label, run in runs.items()}
    rows = {label: {key: row for row, key in enumerate(r.keys())} for label, r in ranks.items()}
    common = sorted(set.intersection(*(set(of_label) for of_label in rows.values())))
    if not common:
        return None
    targets = Counter(user for user, *_ in common)
    chosen = sorted(
        random.Random(options.seed).sample(common, min(options.users, len(common))), key=lambda key: (len(key[0]), key)
    )
    seen = max(_seen(run) for run in runs.values())
    users = [
        _user(_name(key, targets), {label: (ranks[label], rows[label][key]) for label in runs}, seen) for key in chosen
    ]  # fmt: skip
    numbers: dict[str, int] = {}
    frequency = Counter(token for user in users for token in _tokens(user))
    for token, _ in frequency.most_common():  # if image_bytes is too small, the most frequent items have images
        numbers[token] = len(numbers)
    items, images = _items(list(numbers), list(ranks.values()), _settings(runs, options), image_bytes)
    tables, codes = _codes(runs, ranks, list(numbers))
    return {
        "dataset": dataset,
        "labels": list(runs),
        "seeds": [run.spec.seed for run in runs.values()],
        "testUsers": len(common),
        "items": items,
        "images": images,
        "codes": codes,
        "tables": tables,
        "users": [_numbered(user, numbers) for user in users],
    }


def _items(tokens: list[str], ranks: list[Ranks], settings: dict, image_bytes: int) -> tuple[dict[str, list], list[str]]:
    """Return the columns of the items in the page, and the images.

    Training counts are those of the first label, or of a later one for items that it does not have.
    """
    counts: dict[str, int] = {}
    for of_label in reversed(ranks):
        counts |= dict(zip(of_label.items.tolist(), of_label.counts.tolist()))
    titles, images = short_titles(settings, tokens), thumbnails(settings, tokens, image_bytes)
    image_numbers = {token: number for number, token in enumerate(images)}
    columns: dict[str, list] = {
        "token": tokens,
        "title": [titles.get(token, "") for token in tokens],
        "trained": [counts[token] for token in tokens],
        "image": [image_numbers.get(token) for token in tokens],
    }
    return columns, list(images.values())


def _name(key: tuple, targets: Counter) -> str:
    """Return the user of a test row, followed by the target if the user has several."""
    user, (target,), number = key
    return user if targets[user] == 1 else f"{user}, {target}" + (f" ({number + 1})" if number else "")


def _user(user: str, rows: dict[str, tuple[Ranks, int]], seen: int) -> dict:
    """Return one test user with one target. Items are tokens.

    Returns:
        The last ``seen`` items of the history, the number of earlier items, the withheld target, and for each label the rank
        of the target and the first recommended items.
    """
    ranks, row = next(iter(rows.values()))
    history = ranks.items[ranks.histories[row]].tolist()
    return {
        "user": user,
        "history": history[-seen:],
        "earlier": max(0, len(history) - seen),
        "target": str(ranks.items[ranks.targets[row]]),
        "ranks": [int(r.ranks[i]) for r, i in rows.values()],
        "top": [[str(r.items[item]) for item in r.top[i][:SHOWN] if item] for r, i in rows.values()],
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


def _settings(runs: dict[str, Run], options: UserViewOptions) -> dict:
    """Return the settings that locate texts and images: those of the first model that uses texts."""
    every = [run.result["settings"] for run in runs.values()]
    settings = next((s for s in every if s.get("text_fields")), every[0])
    folder = Path(options.data_path) / settings["dataset"] if options.data_path else Path(settings["data_path"])
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
