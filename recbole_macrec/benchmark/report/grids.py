"""The tables of the page: cells with text, sort value and mark."""
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from recbole.evaluator import smaller_metrics

from recbole_macrec.benchmark.compare.runs import Comparison
from recbole_macrec.benchmark.compare.statistics import TEST_COLUMNS
from recbole_macrec.benchmark.compare.table import Table, largest_k, test_notes
from recbole_macrec.benchmark.study.kinds import Spread, StudyResult

MARKS = {0: "", 1: "best", 2: "second"}


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        value: sort key; None: sort by the text.
        mark: CSS class: best, second, better, worse, note.
        after: shown in a smaller font after the text.
        share: fraction of the largest value of the column, drawn as a bar behind the text.
    """

    text: str
    value: float | None = None
    mark: str = ""
    after: str = ""
    share: float | None = None


@dataclass
class Grid:
    """A table. Columns are (name, is numeric); the first column names the row."""

    caption: str
    columns: list[tuple[str, bool]]
    rows: list[list[Cell]] = field(default_factory=list)


def results(table: Table) -> Grid:
    """Return the results on one dataset."""
    caption = ". ".join(filter(None, ["Mean ± standard deviation over the seeds", table.precision.rstrip(".")]))
    grid = Grid(caption, [("model", False), *((name, True) for name in table.columns)])
    collisions = any(row.collisions for row in table.rows)
    grid.columns += [("collisions", False)] * collisions
    most = {name: max((row.cells[name].mean or 0 for row in table.rows), default=0) for name in table.columns}
    for row in table.rows:
        entries = [Cell(row.label)]
        for name in table.columns:
            cell = row.cells[name]
            metric = "@" in name and name.partition("@")[0] not in smaller_metrics
            share = cell.mean / most[name] if metric and most[name] and cell.mean is not None else None
            number, spread, deviation = cell.text().partition(" ±")
            entries.append(Cell(number, cell.mean, MARKS[cell.place], spread + deviation, share))
        entries += [Cell(row.collisions)] * collisions
        grid.rows.append(entries)
    return grid


def notes(table: Table) -> list[str]:
    """Return the notes on unfinished or failed runs, and those of the caption of :func:`tests` if there are no tests."""
    return [f"{row.label}: {row.note}" for row in table.rows if row.note] + ([] if table.tests else test_notes(table))


def tests(table: Table) -> Grid | None:
    """Return the paired tests; None if there are none."""
    if not table.tests:
        return None
    numeric = ("difference", "95 % interval", "p", "p, Holm")
    grid = Grid(
        " ".join([*test_notes(table), "p values are corrected by Holm's method for all tests of the table"]),
        [(name, name in numeric) for name in TEST_COLUMNS],
    )
    for test in table.tests:
        values = {"difference": test.difference, "95 % interval": test.low, "p": test.p, "p, Holm": test.p_holm}
        cells = [Cell(text, values.get(name)) for name, text in zip(TEST_COLUMNS, test.texts())]
        cells[-1] = Cell(cells[-1].text, mark=test.verdict.replace(" ", "-"))
        grid.rows.append(cells)
    return grid


def verdict(table: Table) -> str:
    """Return one sentence: the best model by a metric that all models have, and those that it significantly beats."""
    finished = [row for row in table.rows if any(cell.values for cell in row.cells.values())]
    common = [name for name in table.metrics if all(row.cells[name].values for row in finished)]
    metrics = [test.metric for test in table.tests] or largest_k(common)
    if not metrics:
        return ""
    metric = metrics[-1]
    leading = [row for row in table.rows if row.cells[metric].place == 1]
    if len(leading) != 1:
        return ""
    best = leading[0]
    tests = [test for test in table.tests if test.metric == metric and best.label in (test.first, test.second)]
    others = [test.second if test.first == best.label else test.first for test in tests]
    beaten = [other for other, test in zip(others, tests) if test.verdict != "no difference"]
    alike = [other for other, test in zip(others, tests) if test.verdict == "no difference"]
    sentence = f"{best.label} has the highest {metric}, {best.cells[metric].text()}"
    if beaten:
        sentence += f"; significantly better than {join_names(beaten)}" + " between these runs of one seed" * (
            tests[0].seeds == 1
        )
    if alike:
        sentence += f"; no significant difference from {join_names(alike)}"
    return sentence + "."


def join_names(names: Sequence[str]) -> str:
    """Join names as in ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def semantic_ids(comparison: Comparison, dataset: str) -> Grid | None:
    """Return collisions and codebook use by label and modality, mean over the seeds."""
    numeric = ("collisions", "distinct IDs", "items")
    names = ("model", "modality", *numeric, "codes in use, by layer", "perplexity, by layer")
    grid = Grid(
        "Before collisions are resolved, mean over the seeds. Perplexity: the number of equally used codes with the same "
        "entropy",
        [(name, name in numeric) for name in names],
    )
    for label in comparison.labels:
        by_seed = [run.result["semantic_ids"] for run in comparison.of(dataset, label)]
        for modality in dict.fromkeys(m for ids in by_seed for m in ids):
            seeds = [ids[modality] for ids in by_seed if modality in ids]
            rate = _mean(seeds, "collision_rate")
            distinct, items = _mean(seeds, "distinct"), _mean(seeds, "items")
            grid.rows.append([
                Cell(label), Cell(modality), Cell("" if rate is None else f"{100 * rate:.2f}%", rate),
                *(Cell("" if n is None else f"{n:,.0f}", n) for n in (distinct, items)),
                *(Cell(_by_layer(seeds, key)) for key in ("usage", "perplexity")),
            ])  # fmt: skip
    return grid if grid.rows else None


def _mean(seeds: Sequence[dict], key: str) -> float | None:
    values = [seed[key] for seed in seeds if seed.get(key) is not None]
    return statistics.fmean(values) if values else None


def _by_layer(seeds: Sequence[dict], key: str) -> str:
    return " · ".join(f"{statistics.fmean(layer):.0f}" for layer in zip(*(seed[key] for seed in seeds if seed.get(key))))


def study(content: dict) -> Grid:
    """Return the table stored in study.json."""
    result = StudyResult.of_record(content)
    rows = [[_study_entry(value) for value in row] for row in result.rows]
    columns = [(name or "row", _has_numbers([row[i] for row in rows])) for i, name in enumerate(result.columns)]
    return Grid("Mean ± standard deviation over the seeds", columns, rows)


def _has_numbers(column: Sequence[Cell]) -> bool:
    """Whether the cells of a column are numbers or empty, with at least one number."""
    return any(cell.value is not None for cell in column) and not any(cell.text and cell.value is None for cell in column)


def _study_entry(value) -> Cell:
    if isinstance(value, Spread):
        return replace(_study_entry(value.mean), after="" if value.deviation is None else f" ± {value.deviation:.4f}")
    if isinstance(value, float):
        return Cell(f"{value:.4f}", value)
    return Cell("" if value is None else str(value), value if isinstance(value, int) else None)
