"""A table of a comparison on the terminal, and as Markdown, LaTeX, CSV and JSON."""
import csv
import io
import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from recbole_macrec.benchmark.compare.run_files import write_json
from recbole_macrec.benchmark.compare.statistics import TEST_COLUMNS
from recbole_macrec.benchmark.compare.table import Table, test_notes
from recbole_macrec.utils.files import atomic_write

_LATEX = {sign: f"\\{sign}" for sign in "&%$#_{}"}
_LATEX |= {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "|": "\\textbar{}"}
_LATEX |= {"<": "\\textless{}", ">": "\\textgreater{}"}
_LATEX |= {"[": "{[}", "*": "{*}"}  # at the start of a row they would be arguments of the line break before it


def header(table: Table) -> list[str]:
    """Names of all columns."""
    return ["model", *table.columns, *_text_columns(table)]


def _text_columns(table: Table) -> list[str]:
    """The columns after the figures: collisions of semantic IDs, and notes on unfinished or failed runs, if a row has any."""
    return [name for name in ("collisions", "note") if any(getattr(row, name) for row in table.rows)]


def plain_rows(table: Table, text=lambda cell: cell.text()) -> list[list[str]]:
    """The texts of each row."""
    texts = _text_columns(table)
    return [
        [row.label, *(text(row.cells[name]) for name in table.columns), *(getattr(row, name) for name in texts)]
        for row in table.rows
    ]


def print_table(table: Table) -> None:
    """Print the table to the terminal."""
    shown = RichTable(title=Text(table.title), caption=Text(table.precision))
    names = header(table)
    for i, name in enumerate(names):
        shown.add_column(Text(name), justify="right" if 0 < i <= len(table.columns) else "left", no_wrap=True)
    styles = {0: "", 1: "bold", 2: "underline"}
    for row, texts in zip(table.rows, plain_rows(table)):
        styles_of_row = ["", *(styles[row.cells[name].place] for name in table.columns)]
        # Text, since labels may contain "[...]"
        shown.add_row(*(Text(text, style) for text, style in zip_longest(texts, styles_of_row, fillvalue="")))
    console = Console()
    needed = Console(width=1000).measure(shown).maximum  # not cut in a narrow terminal or a pipe
    Console(width=max(console.width, needed)).print(shown)


def markdown(tables: Sequence[Table]) -> str:
    """The tables in Markdown, with their tests."""
    marks = {0: "{}", 1: "**{}**", 2: "<u>{}</u>"}
    lines: list[str] = []
    for table in tables:
        width = 1 + len(table.columns)
        texts = plain_rows(table, lambda c: marks[c.place].format(c.text()))
        rows = [[cell_text(row[0]), *row[1:width], *map(cell_text, row[width:])] for row in texts]
        lines += [f"# {table.title}", "", *markdown_lines(header(table), rows)]
        lines += ["", *_test_lines(table), " ".join(filter(None, [table.precision, table.foot])), ""]
    return "\n".join(lines)


def _test_lines(table: Table) -> list[str]:
    if not table.tests:
        notes = test_notes(table)
        return [*notes, ""] if notes else []
    lines = markdown_lines(TEST_COLUMNS, [list(map(cell_text, test.texts())) for test in table.tests])
    return [*lines, "", *test_notes(table), ""]


def markdown_lines(names: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table with the columns ``names``; texts of users need :func:`cell_text`."""
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names), *("| " + " | ".join(row) + " |" for row in rows)]


def cell_text(text: str) -> str:
    """``text`` in a cell of a Markdown table. Signs of Markdown in labels are escaped."""
    return re.sub(r"([\\|~^`*\[]|<(?=[A-Za-z/!?])|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))


def _spreadsheet_text(text: str) -> str:
    """``text`` in CSV. A spreadsheet would evaluate a leading = + - @ as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def latex(tables: Sequence[Table]) -> str:
    """The tables in LaTeX, with their tests and notes."""
    marks = {0: "{}", 1: "\\textbf{{{}}}", 2: "\\underline{{{}}}"}
    lines: list[str] = []
    for table in tables:
        width = 1 + len(table.columns)
        texts = plain_rows(table, lambda cell: marks[cell.place].format(cell.text("$\\pm$")))
        rows = [[_escaped(row[0]), *row[1:width]] for row in texts]
        notes = [f"{row.label}: {row.note}." for row in table.rows if row.note] + test_notes(table)
        lines += ["\\begin{table}", "\\centering", f"\\caption{{{_escaped(_caption(table))}}}"]
        lines += _tabular("l" + "r" * len(table.columns), header(table)[:width], rows)
        if table.tests:
            lines += ["\\par\\medskip"]
            lines += _tabular("lllrrrrl", TEST_COLUMNS, [list(map(_escaped, test.texts())) for test in table.tests])
        if notes:
            lines += ["\\par\\medskip", f"{{\\footnotesize {_escaped(' '.join(notes))}\\par}}"]
        lines += ["\\end{table}", ""]
    return "\n".join(lines)


def _tabular(alignment: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    body = [" & ".join(row) + " \\\\" for row in rows]
    head = " & ".join(map(_escaped, names)) + " \\\\"
    return [f"\\begin{{tabular}}{{{alignment}}}", "\\hline", head, "\\hline", *body, "\\hline", "\\end{tabular}"]


def _caption(table: Table) -> str:
    return f"{table.title}. {table.precision}" if table.precision else table.title


def _escaped(text: str) -> str:
    return re.sub("-(?=-)", "-{}", "".join(_LATEX.get(sign, sign) for sign in text))  # -- would be a dash


def comma_separated(tables: Sequence[Table]) -> str:
    """The tables in CSV, with a line per dataset, label and figure: mean, standard deviation, number of seeds."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["table", "label", "figure", "mean", "std", "seeds", "training", "evaluation"])
    for table in tables:
        for row in table.rows:
            for name, cell in row.cells.items():
                if cell.values:
                    figures = [cell.mean, cell.deviation, len(cell.values)]
                    writer.writerow(
                        [
                            _spreadsheet_text(table.title),
                            _spreadsheet_text(row.label),
                            name,
                            *figures,
                            *(row.precision.get(s) for s in ("training", "evaluation")),
                        ]
                    )
    return file.getvalue()


def as_dict(table: Table) -> dict:
    """The table as plain values."""
    rows = [
        {
            "label": row.label,
            "figures": {
                name: {"mean": cell.mean, "std": cell.deviation, "values": list(cell.values), "place": cell.place}
                for name, cell in row.cells.items() if cell.values
            },
            "collisions": row.collisions,
            "note": row.note,
            "precision": row.precision,
        }
        for row in table.rows
    ]  # fmt: skip
    tests = [test.as_dict() for test in table.tests]
    return {"title": table.title, "columns": table.columns, "metrics": table.metrics, "rows": rows, "tests": tests,
            "test_notes": test_notes(table), "foot": table.foot, "precision": table.precision}


def write_tables(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Write ``table.md``, ``.tex``, ``.csv`` and ``.json`` into ``folder`` and return their paths."""
    paths = []
    for suffix, text in (("md", markdown(tables)), ("tex", latex(tables)), ("csv", comma_separated(tables))):
        paths.append(folder / f"table.{suffix}")
        with atomic_write(paths[-1]) as fresh:
            fresh.write_text(text, encoding="utf-8")
    return [*paths, write_json({"tables": [as_dict(table) for table in tables]}, folder / "table.json")]
