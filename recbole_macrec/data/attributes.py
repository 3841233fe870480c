"""Item attributes: categories as tokens when importing, and the column that RecBole's models with attributes read."""
from __future__ import annotations

import logging
import re
from functools import cache
from pathlib import Path

import recbole
import yaml

from recbole_macrec.data.atomic import AtomicFormat, clean_text, read_items
from recbole_macrec.errors import UserError

COLUMN = "class"  # what RecBole's models read by default
KNOWN = (COLUMN, "category", "categories", "genre", "genres")  # columns that hold categories, the first one there is read
OPTIONS = ("selected_features", "item_attribute")  # of FDSA, GRU4RecF and SASRecF; of S3Rec
_SEPARATORS = re.compile(r"[,;|>]")

logger = logging.getLogger(__name__)


def category_tokens(value: object) -> str:
    """Return the categories in ``value``, a list or a text separated by ``, ; | >``, as tokens: "Arts & Crafts, Wool" becomes
    "Arts_&_Crafts Wool"."""
    text = ",".join(map(clean_text, value)) if isinstance(value, list) else clean_text(value)
    names = (name.split() for name in _SEPARATORS.split(text))
    return " ".join(dict.fromkeys("_".join(words) for words in names if words))


def choose_attributes(config, folder: Path, name: str) -> None:
    """Let a model with item attributes load its column of ``NAME.item``: the one that the options name, or where the option has
    RecBole's default, the first of KNOWN that holds values. Other models are left alone.

    Raises:
        UserError: when there is no such column.
    """
    for option in OPTIONS:
        if option in _options_of(config["model"]):
            form = AtomicFormat.of(config)
            columns = _columns(config, option, folder, name, form)
            config[option] = columns if option == "selected_features" else columns[0]
            loaded = config["load_col"]
            if loaded is not None and loaded.get("item") != "*":
                listed = loaded.get("item") or [form.item]
                config["load_col"] = {**loaded, "item": [*listed, *(column for column in columns if column not in listed)]}


def _columns(config, option: str, folder: Path, name: str, form: AtomicFormat) -> list[str]:
    path, given = folder / f"{name}.item", config[option]
    wanted = list(given) if isinstance(given, list | tuple) else [given]
    items = read_items(folder, name, form) if path.is_file() else {}
    there = [column for column in items if column != "item_id" and items[column].ne("").any()]
    lacks = [column for column in wanted if column not in there]
    if not lacks:
        return wanted
    chosen = next((column for column in KNOWN if column in there), None)
    if option in config.external_config_dict or chosen is None:
        seen = f"has values in {', '.join(there) or 'no column'}" if path.is_file() else "does not exist"
        raise UserError(f"{config['model']} reads item attributes from column {lacks[0]} ({option}), but {path} {seen}; name a "
                        f"column of categories with {option}, add one ({COLUMN}:token_seq), or choose a model without attributes")
    logger.info(f"{option} is not set: {chosen}, which {path.name} has")
    return [chosen]


@cache
def _options_of(model: str) -> frozenset[str]:
    """Return the options of RecBole's model ``model``, by its property file."""
    path = Path(recbole.__file__).parent / "properties" / "model" / f"{model}.yaml"
    return frozenset(yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else frozenset()
