"""Tables of several models: mean and standard deviation over the seeds, with the best and second-best value marked."""
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from recbole.evaluator import smaller_metrics


@dataclass(frozen=True)
class Cell:
    """The values of one column for one label, one per seed; empty if the label has no value in this column."""

    values: tuple[float, ...] = ()
    decimals: int = 4
    place: int = 0  # 1 for the best of the column, 2 for the second best, otherwise 0

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation; None for fewer than two seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def text(self, plus_minus: str = "±") -> str:
        if self.mean is None:
            return ""
        figure = f"{self.mean:,.{self.decimals}f}"
        return figure if self.deviation is None else f"{figure} {plus_minus} {self.deviation:,.{self.decimals}f}"


@dataclass
class Row:
    """The row of a label: means over its runs."""

    label: str
    cells: dict[str, Cell]  # column -> values
    collisions: str = ""  # mean collision rate of each modality's IDs, such as "text 0.52%, image 1.10%"
    note: str = ""  # unfinished or failed runs
    precision: dict[str, str] = field(default_factory=dict)  # "training" and "evaluation" -> precision, such as fp32


@dataclass
class Table:
    """The table of one dataset. CSV and JSON contain all cells, other formats only ``columns``; ``metrics`` are by item."""

    title: str
    columns: list[str]
    metrics: list[str]
    rows: list[Row]
    tests: list = field(default_factory=list)
    untested: list[tuple[str, str]] = field(default_factory=list)  # pairs of labels with different test rows
    foot: str = ""
    precision: str = ""  # one sentence
    remarks: list[str] = field(default_factory=list)  # further sentences


def build_table(title: str, groups: dict[str, list[dict]], notes: dict[str, str] | None = None) -> Table:
    """Build a table.

    Args:
        groups: label -> records of its runs.
        notes: label -> note on its failed or unfinished runs.
    """
    notes = notes or {}
    done = [record for records in groups.values() for record in records]
    metrics = metrics_of(done)
    ids = [name for name in metrics if any(name in _id_level(record) for record in done)]
    rows = []
    for label, records in groups.items():
        cells = {name: _cell([r["test_result"].get(name) for r in records]) for name in metrics}
        cells |= {f"{name} of IDs": _cell([_id_level(r).get(name) for r in records]) for name in ids}
        cells["epochs"] = _cell([r["epochs"] for r in records], 0)
        cells["parameters"] = _cell([r["parameters"] for r in records][:1], 0)
        cells["training s"] = _cell([r["seconds"]["training"] + r["seconds"].get("pretraining", 0) for r in records], 1)
        cells["users/s"] = _cell([r.get("users_per_second") for r in records], 1)
        cells["peak MiB"] = _cell([_peak(r) for r in records], 0)
        rows.append(Row(label, cells, _collisions(records), notes.get(label, ""), precisions(records)))
    hidden = {f"{name} of IDs" for name in ids if name not in largest_k(ids)}  # to limit the width
    names = rows[0].cells if rows else {}
    columns = [name for name in names if name not in hidden and any(row.cells[name].values for row in rows)]
    _mark(rows, [*metrics, *(f"{name} of IDs" for name in ids)])
    return Table(title, columns, metrics, rows, foot=_foot(done), precision=_precision_sentence(rows))


def metrics_of(records: Sequence[dict]) -> list[str]:
    """The metrics by item of runs, in ascending order of k, without ndcg@1 beside hit@1, which it equals."""
    metrics = dict.fromkeys(name for record in records for name in record["test_result"])
    kinds = list(dict.fromkeys(name.partition("@")[0] for name in metrics))
    in_order = sorted(metrics, key=lambda name: (kinds.index(name.partition("@")[0]), greatest_k([name])))
    return [name for name in in_order if name != "ndcg@1" or "hit@1" not in metrics]


def tested_metrics(records: Sequence[dict]) -> list[str]:
    """The metrics with the largest k, see :func:`largest_k`, among those that all runs have computed."""
    return largest_k([name for name in metrics_of(records) if all(name in record["test_result"] for record in records)])


def largest_k(metrics: Sequence[str]) -> list[str]:
    """The metrics hit, recall, ndcg and mrr with the largest k, such as hit@10 and ndcg@10."""
    testable = [name for name in metrics if name.partition("@")[0] in ("hit", "recall", "ndcg", "mrr")]
    most = greatest_k(testable)
    return [name for name in testable if int(name.partition("@")[2]) == most]


def greatest_k(metrics: Sequence[str]) -> int:
    """The largest k of metrics such as hit@10; 0 if none has a k."""
    return max((int(k) for _, _, k in (name.partition("@") for name in metrics) if k), default=0)


def _cell(values: Sequence[float | None], decimals: int = 4) -> Cell:
    return Cell(tuple(value for value in values if value is not None), decimals)


def _id_level(record: dict) -> dict[str, float]:
    """Metrics that count a hit if the ID is right, for any item with this ID."""
    return ((record.get("test_detail") or {}).get("fused") or {}).get("id") or {}


def _peak(record: dict) -> float | None:
    peak = record.get("peak_memory_mib") or {}
    return peak.get("gpu") or peak.get("host")


def _collisions(records: list[dict]) -> str:
    found: dict[str, list[float]] = {}
    for record in records:
        for modality, figures in record["semantic_ids"].items():
            if figures.get("collision_rate") is not None:
                found.setdefault(modality, []).append(100 * figures["collision_rate"])
    return ", ".join(f"{modality} {statistics.fmean(rates):.2f}%" for modality, rates in found.items())


def precisions(records: Sequence[dict]) -> dict[str, str]:
    """"training" and "evaluation" -> the precisions of the records, such as "bf16" or "bf16, fp32"."""
    found = [record["precision"] for record in records if "precision" in record]  # older records have none
    return {stage: ", ".join(sorted({each[stage] for each in found})) for stage in (found[0] if found else ())}


def _precision_sentence(rows: list[Row]) -> str:
    """A sentence such as "Training in bf16 (MACRec) and fp32 (SASRec), evaluation in fp32."; empty without precisions."""
    parts = []
    for stage in dict.fromkeys(stage for row in rows for stage in row.precision):
        labels: dict[str, list[str]] = {}
        for row in rows:
            if stage in row.precision:
                labels.setdefault(row.precision[stage], []).append(row.label)
        named = [f"{kind} ({', '.join(of)})" if len(labels) > 1 else kind for kind, of in labels.items()]
        parts.append(f"{stage} in {' and '.join(named)}")
    sentence = ", ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""


def precision_differences(table: Table) -> list[str]:
    """A sentence for each tested pair that was trained or evaluated in different precisions."""
    sentences = []
    precisions = {row.label: row.precision for row in table.rows}
    for first, second in dict.fromkeys((test.first, test.second) for test in table.tests):
        a, b = precisions.get(first, {}), precisions.get(second, {})
        found = [f"{stage} in {a[stage]} and {b[stage]}" for stage in a if a[stage] != b.get(stage, a[stage])]
        if found:
            sentences.append(f"{first} and {second} differ in precision: {', '.join(found)}.")
    return sentences


def test_notes(table: Table) -> list[str]:
    """Sentences on the method of a table's tests and on their scope, and the remarks on its rows."""
    notes = []
    if table.tests:
        seeds = table.tests[0].seeds
        effects = "users" if seeds == 1 else "seeds and users"
        notes.append(
            f"Paired over {_test_rows(table)}: two-sided test and 95 % interval by a mixed model, with random effects of "
            f"{effects}."
        )
        if seeds == 1:
            notes.append("With one seed, a difference is one between these two runs; other seeds may give another.")
    notes += precision_differences(table)
    notes += [f"{a} and {b} are not tested against each other: their test rows differ." for a, b in table.untested]
    return notes + table.remarks


def _test_rows(table: Table) -> str:
    """The numbers of test users and rows, with the pairs that have them if pairs differ, such as "30 test users"."""
    pairs_of: dict[str, list[str]] = {}
    for test in table.tests:
        users = f"{test.users:,} test users" if test.rows == test.users else f"{test.rows:,} test rows of {test.users:,} users"
        pairs_of.setdefault(users, []).append(f"{test.first} and {test.second}")
    if len(pairs_of) == 1:
        return next(iter(pairs_of))
    return " and ".join(f"{users} ({'; '.join(dict.fromkeys(pairs))})" for users, pairs in pairs_of.items())


def _mark(rows: list[Row], metrics: list[str]) -> None:
    """Mark the best and second-best cells of each metric; rows with equal means have the same place."""
    for name in metrics:
        sign = 1 if name.partition("@")[0] in smaller_metrics else -1
        means = sorted({sign * round(mean, 6) for row in rows if (mean := row.cells[name].mean) is not None})
        if len(means) < 2:
            continue
        for row in rows:
            cell = row.cells[name]
            if cell.mean is not None and sign * round(cell.mean, 6) in means[:2]:
                row.cells[name] = Cell(cell.values, cell.decimals, 1 + means.index(sign * round(cell.mean, 6)))


def _foot(records: list[dict]) -> str:
    if not records:
        return ""
    seeds = ", ".join(dict.fromkeys(str(record["seed"]) for record in records))
    machines = dict.fromkeys(_machine(record["hardware"]) for record in records)
    libraries = dict.fromkeys(_libraries(record["versions"]) for record in records)
    return "; ".join([f"Seeds {seeds}", *machines, *libraries])


def _machine(hardware: dict) -> str:
    return (
        f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB, "
        f"GPU: {', '.join(hardware['gpus']) or 'none'}"
    )


def _libraries(versions: dict) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)
