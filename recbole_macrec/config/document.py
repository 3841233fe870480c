"""Write docs/options.md from the option schema.

    python -m recbole_macrec.config.document docs/options.md
"""
import sys
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from recbole_macrec.config.schema.alignment import ExplicitOptions, ImplicitOptions
from recbole_macrec.config.schema.base import Options, expected, paper_of
from recbole_macrec.config.schema.features import FeatureOptions
from recbole_macrec.config.schema.general import FeatureReaderOptions, LayerOptions, PairwiseOptions
from recbole_macrec.config.schema.models import MODELS, AnyModelOptions
from recbole_macrec.config.schema.network import NetworkOptions, SizeOptions
from recbole_macrec.config.schema.ranking import PrecisionOptions, RankingOptions
from recbole_macrec.config.schema.recbole import RecBoleOptions
from recbole_macrec.config.schema.semantic_ids import SemanticIDOptions, TokenizationOptions
from recbole_macrec.config.schema.text_to_text import TextOptions
from recbole_macrec.config.schema.training import SequenceOptions, TrainingOptions
from recbole_macrec.utils.arguments import CommandParser
from recbole_macrec.utils.files import atomic_write
from recbole_macrec.utils.reporting import run_command

HEAD = """# Options

Every option is `--name=value` on the command line, `name: value` in a YAML file given by `--config_files`, and an entry of
`config_dict` in Python. There are two exceptions: `output` cannot be set on the command line, where `--output` is the folder of
results, and `trust_checkpoint` cannot be set in a file. Values are checked before any file is read; whether they fit the
dataset is checked when it is read.
[RecBole's other options](https://recbole.io/docs/user_guide/config_settings.html) are passed to RecBole as they are.

Defaults are those of `properties/overall.yaml` and `properties/model/`, and for RecBole's models those of RecBole. Files of
datasets and presets change some. `run_recbole_macrec.py`, `compare` and `study` apply `properties/overall.yaml` to RecBole's
models too; where it differs from the defaults below, these hold only in Python. If a cell has several values, the first one is
that of all models that the cell does not name. "Paper" is the value of a paper or its released code, if known; for TIGER it is
that of MQL4GRec's authors. This page is written by `python -m recbole_macrec.config.document docs/options.md`.
"""
GROUPS: list[tuple[str, list[type[Options]]]] = [
    ("RecBole and the protocol", [RecBoleOptions]),
    ("Datasets and item features", [FeatureOptions]),
    ("Semantic IDs", [SemanticIDOptions, TokenizationOptions]),
    ("Training", [TrainingOptions, SequenceOptions]),
    ("Network", [SizeOptions, NetworkOptions]),
    ("Ranking", [PrecisionOptions, RankingOptions]),
    ("Alignment (MQL4GRec, MACRec)", [ExplicitOptions, ImplicitOptions]),
    ("General recommenders", [PairwiseOptions, FeatureReaderOptions, LayerOptions]),
    ("Text-to-text (P5, VIP5, LCRec)", [TextOptions]),
]


def document() -> str:
    """The page as Markdown."""
    lines = [HEAD]
    listed: set[str] = set()
    for title, groups in GROUPS:
        names = dict.fromkeys(name for group in groups for name in group.model_fields if name not in listed)
        listed |= set(names)
        lines += _table(title, list(names))
    for model, schema in MODELS.items():
        if own := [name for name in schema.model_fields if name not in listed]:
            lines += _table(f"{model} only", own)
    return "\n".join(lines)


def _table(title: str, names: list[str]) -> list[str]:
    lines = [f"## {title}", "", "| option | type and range | default | paper | description |", "|---|---|---|---|---|"]
    for name in names:
        schemas = {model: schema for model, schema in MODELS.items() if name in schema.model_fields}
        fields = {model: schema.model_fields[name] for model, schema in schemas.items()}
        if name in AnyModelOptions.model_fields and name in RecBoleOptions.model_fields:
            fields = {"RecBole's models": AnyModelOptions.model_fields[name]} | fields
        cells = [
            _by_model({m: expected(f) for m, f in fields.items()}),
            _by_model({m: _text(f) for m, f in fields.items()}),
            _papers({m: schema.model_fields[name] for m, schema in schemas.items() if m != "SASRecPerUser"}),
            _by_model({m: f.description or "" for m, f in fields.items()}, separator=". "),
        ]
        lines.append(f"| `{name}` | " + " | ".join(_cell(cell) for cell in cells) + " |")
    return [*lines, ""]


def _by_model(values: dict[str, str], separator: str = "; ") -> str:
    """The most frequent value, then those of models with another one."""
    if not values:
        return ""
    counts = list(values.values())
    usual = max(dict.fromkeys(counts), key=counts.count)
    others: dict[str, list[str]] = {}
    for model, value in values.items():
        if value != usual:
            others.setdefault(value, []).append(model)
    return separator.join([usual, *(f"{', '.join(models)}: {value}" for value, models in others.items())])


def _papers(fields: dict[str, FieldInfo]) -> str:
    """The values of the papers, with the names of the models unless all papers have the same value."""
    models: dict[str, list[str]] = {}
    for model, field in fields.items():
        if paper_of(field) is not None:
            models.setdefault(f"`{_yaml(paper_of(field))}`", []).append(model)
    if len(models) == 1 and len(next(iter(models.values()))) == len(fields):
        return next(iter(models))
    return "; ".join(f"{', '.join(names)}: {value}" for value, names in models.items())


def _text(field: FieldInfo) -> str:
    return f"`{_yaml(field.default)}`"


def _yaml(value: Any) -> str:
    """``value`` as it is written in YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return {"\t": "tab", " ": "space"}.get(value, value) if isinstance(value, str) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(argv: list[str] | None = None) -> int:
    """Write the page into the file that ``argv`` names; a UserError becomes one line on stderr and exit code 1."""
    return run_command(_run, sys.argv[1:] if argv is None else argv)


def _run(argv: list[str]) -> int:
    parser = CommandParser("python -m recbole_macrec.config.document", "Write the table of all options as a Markdown page.")
    parser.add_argument("file", type=Path, metavar="FILE.md", help="the page of the repository is docs/options.md")
    with atomic_write(parser.parse(argv).file) as fresh:
        fresh.write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
