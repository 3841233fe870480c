"""Item titles, for people."""
from collections.abc import Sequence
from pathlib import Path

from recbole_macrec.data.atomic import AtomicFormat, read_items


def item_titles(config, item_tokens: Sequence[str]) -> dict[str, str]:
    """Item token -> title: the first column of ``text_fields`` that ``NAME.item`` has; empty where there is none.

    A model that reads no texts has no ``text_fields``; then it is the column ``title``.
    """
    folder, name = Path(config["data_path"]), config["dataset"]
    if not (folder / f"{name}.item").is_file():
        return {}
    items = read_items(folder, name, AtomicFormat.of(config))
    fields = config["text_fields"] if "text_fields" in config else ["title"]
    column = next((field for field in fields or [] if field in items), None)
    if column is None:
        return {}
    titles = dict(zip(items["item_id"], items[column]))
    return {token: titles[token] for token in item_tokens if titles.get(token)}
