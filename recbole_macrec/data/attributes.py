"""Item attributes: category tokens for imported items, and the attribute column of RecBole's models that read one."""
from __future__ import annotations

import logging
import re
from functools import cache
from pathlib import Path

from recbole_macrec.config.property_files import read_yaml
from recbole_macrec.data.atomic import AtomicFormat, clean_text, read_items
from recbole_macrec.errors import UserError
from recbole_macrec.utils.requirements import recbole_folder

CATEGORY_COLUMN = "class"  # what RecBole's models read by default
# usual columns of categories; the first with values is read
KNOWN = (CATEGORY_COLUMN, "category", "categories", "genre", "genres")
OPTIONS = ("selected_features", "item_attribute")  # of FDSA, GRU4RecF and SASRecF; of S3Rec
SEPARATORS = re.compile(r"[,;|>]")

logger = logging.getLogger(__name__)


def category_tokens(value: object) -> str:
    """Return the categories in ``value`` as tokens separated by spaces.

    ``value`` is a list, or a string separated by ``, ; | >``: "Arts & Crafts, Wool" becomes "Arts_&_Crafts Wool".
    """
    text = ",".join(map(clean_text, value)) if isinstance(value, list) else clean_text(value)
    names = (name.split() for name in SEPARATORS.split(text))
    return " ".join(dict.fromkeys("_".join(words) for words in names if words))


def choose_attributes(config, folder: Path, name: str) -> None:
    """Set the options with which a model that reads item attributes loads its columns of ``NAME.item``.

    The columns are those named by ``selected_features`` or ``item_attribute``. If that option has RecBole's default and the
    column has no values, the first of KNOWN with values is used. For other models nothing changes.

    Raises:
        UserError: if no column is usable.
    """
    for option in OPTIONS:
        if option in _options_of(config["model"]):
            form = AtomicFormat.from_config(config)
            columns = _attribute_columns(config, option, folder, name, form)
            config[option] = columns if option == "selected_features" else columns[0]
            load_col = config["load_col"]
            if load_col is not None and load_col.get("item") != "*":
                item_columns = load_col.get("item") or [form.item]
                added = [column for column in columns if column not in item_columns]
                config["load_col"] = {**load_col, "item": [*item_columns, *added]}


def _attribute_columns(config, option: str, folder: Path, name: str, form: AtomicFormat) -> list[str]:
    path, value = folder / f"{name}.item", config[option]
    requested = list(value) if isinstance(value, list | tuple) else [value]
    items = read_items(folder, name, form) if path.is_file() else {}
    with_values = [column for column in items if column != "item_id" and items[column].ne("").any()]
    missing = [column for column in requested if column not in with_values]
    if not missing:
        return requested
    chosen = next((column for column in KNOWN if column in with_values), None)
    if option in config.external_config_dict or chosen is None:
        seen = f"has values in {', '.join(with_values) or 'no column'}" if path.is_file() else "does not exist"
        raise UserError(
            f"{config['model']} reads item attributes from column {missing[0]} ({option}), but {path} {seen}; name a "
            f"column of categories with {option}, add one ({CATEGORY_COLUMN}:token_seq), or choose a model without attributes"
        )
    logger.info(f"{option} is not set; using column {chosen} of {path.name}")
    return [chosen]


@cache
def _options_of(model: str) -> frozenset[str]:
    """Return the option names in the property file of RecBole's model ``model``."""
    path = recbole_folder() / "properties" / "model" / f"{model}.yaml"
    return frozenset(read_yaml(path)) if path.is_file() else frozenset()
