"""Paired tests over seeds and test users of whether one model is better than another.

Shapes: S seeds, U users, R test rows of a seed, T targets (see :class:`~recbole_macrec.benchmark.compare.ranks.Ranks`).
"""
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import t as student

from recbole_macrec.benchmark.compare.ranks import TargetRanks
from recbole_macrec.trainer.ranking_metrics import user_values

LEVEL = 0.05
TEST_COLUMNS = ("first", "second", "metric", "difference", "95 % interval", "p", "p, Holm", "the first is")


@dataclass(frozen=True)
class PairedTest:
    """A test of whether ``first`` is better than ``second``.

    Attributes:
        users, rows: number of test users, and of test rows that the metric averages over, per seed; equal with one target per
            user.
        seeds: number of runs of each label. With one seed the result is about these two runs; other seeds may give another.
        difference: mean of first - second over seeds and rows, the difference of the values in the table.
        low, high: its 95 % confidence interval, see :func:`mixed_model`.
        p, p_holm: p-value of the two-sided test, without and with correction for all tests of the comparison.
        verdict: "better" or "worse" if the corrected test shows a difference, otherwise "no difference".
    """

    first: str
    second: str
    metric: str
    users: int
    rows: int
    seeds: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float = 1.0

    @property
    def verdict(self) -> str:
        if self.p_holm >= LEVEL:  # below it, the interval does not contain 0
            return "no difference"
        return "better" if self.difference > 0 else "worse"

    def as_dict(self) -> dict:
        return {**asdict(self), "verdict": self.verdict}

    def texts(self) -> list[str]:
        """Return the cells of the test in a table with the columns :data:`TEST_COLUMNS`."""
        verdict = "no different" if self.verdict == "no difference" else self.verdict
        numbers = [f"{self.difference:+.4f}", f"{self.low:+.4f} to {self.high:+.4f}", f"{self.p:.2g}", f"{self.p_holm:.2g}"]
        return [self.first, self.second, self.metric, *numbers, verdict]


@dataclass(frozen=True)
class RowMetrics:
    """Metrics of each test row of one run.

    Attributes:
        keys: [R], see :meth:`TargetRanks.keys`.
        values: metric -> [R].
    """

    keys: list[tuple]
    values: dict[str, np.ndarray]

    @classmethod
    def of(cls, ranks: TargetRanks, metrics: Sequence[str]) -> "RowMetrics":
        """Compute the metrics of a run from its ranks."""
        return cls(ranks.keys(), {metric: row_values(ranks.ranks, ranks.rows, metric) for metric in metrics})

    def in_order_of(self, other: "RowMetrics", metric: str) -> np.ndarray | None:
        """The values in the order of the rows of ``other``; None if the two runs have different rows."""
        rows = {key: row for row, key in enumerate(self.keys)}
        if rows.keys() != set(other.keys):
            return None
        return self.values[metric][[rows[key] for key in other.keys]]


def row_values(ranks: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """A metric of each row, as RecBole defines it for rows of several targets; [R].

    Hit@k and MRR@k are those of the best target. Recall@k is the share of the targets within the first k. NDCG@k is the sum of
    the targets' gains divided by that of the best ranking.

    Args:
        ranks: [T], 0 for an absent target.
        rows: [T], the row of each target, from 0, ascending.
    """
    single = user_values(ranks, metric)  # [T]
    name, _, k = metric.partition("@")
    starts, counts = np.unique(rows, return_index=True, return_counts=True)[1:]
    if name in ("hit", "mrr"):
        return np.maximum.reduceat(single, starts) if len(starts) else single
    ideal = counts
    if name == "ndcg":
        gains = np.cumsum(1 / np.log2(np.arange(2, int(k) + 2)))
        ideal = gains[np.minimum(counts, int(k)) - 1]
    return np.bincount(rows, weights=single, minlength=len(starts)) / ideal


def compare_labels(
    ranks: Mapping[str, Sequence[TargetRanks]], metrics: Sequence[str], pairs: Sequence[tuple[str, str]] = ()
) -> tuple[list[PairedTest], list[tuple[str, str]]]:
    """Test pairs of labels, see :func:`compare_pairs`.

    Args:
        ranks: label -> the ranks of its runs, in the order of the seeds.
        metrics: the tested metrics.
        pairs: those to test, apart from pairs with a label without runs; if none is left, the label with the best value of the
            last metric is tested against each other.
    """
    row_metrics = {label: [RowMetrics.of(run, metrics) for run in runs] for label, runs in ranks.items()}
    tested = [pair for pair in pairs if set(pair) <= set(row_metrics)]
    if not tested and row_metrics:
        best = max(row_metrics, key=lambda label: sum(run.values[metrics[-1]].mean() for run in row_metrics[label]))
        tested = [(best, other) for other in row_metrics if other != best]
    return compare_pairs(row_metrics, metrics, tested)


def compare_pairs(
    row_metrics: Mapping[str, Sequence[RowMetrics]], metrics: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> tuple[list[PairedTest], list[tuple[str, str]]]:
    """Test each pair under each metric, with Holm's correction for all tests.

    Args:
        row_metrics: label -> the metrics of its runs, in the order of the seeds.

    Returns:
        The tests, and the pairs that cannot be tested, since their runs of a seed have different test rows.
    """
    tested, untested = [], []
    for metric in metrics:
        for first, second in pairs:
            values = [
                (a.values[metric], b.in_order_of(a, metric))
                for a, b in zip(row_metrics[first], row_metrics[second], strict=True)
            ]
            if any(other is None for _, other in values):
                untested += [(first, second)] * ((first, second) not in untested)
                continue
            differences = [(own - other).round(12) for own, other in values]  # without rounding errors
            owners = [[user for user, *_ in run.keys] for run in row_metrics[first]]
            estimate = mixed_model(by_user(differences, owners))
            tested.append(PairedTest(first, second, metric, len(set(owners[0])), len(owners[0]), len(values), *estimate))
    corrected = holm([test.p for test in tested])
    return [PairedTest(**{**asdict(test), "p_holm": p}) for test, p in zip(tested, corrected)], untested


def by_user(values: Sequence[np.ndarray], owners: Sequence[Sequence[str]]) -> np.ndarray:
    """Values per seed and user, [S, U].

    With one row per user these are the values of the rows. Otherwise the value of a user with n rows is m + U (sum - m n) / R,
    where m is the mean over the R rows and sum the user's sum, so that the mean over the users is m.

    Args:
        values: [R] for each seed; seeds may differ in rows and users.
        owners: the user of each row, for each seed.
    """
    number = {user: i for i, user in enumerate(dict.fromkeys(user for of_seed in owners for user in of_seed))}
    table = np.empty((len(values), len(number)))
    for seed, (own, users) in enumerate(zip(values, owners)):
        mean, index = own.mean(), [number[user] for user in users]
        n = np.bincount(index, minlength=len(number))
        total = np.bincount(index, weights=own, minlength=len(number))
        table[seed] = mean + len(number) * (total - mean * n) / len(own)
    return table


def mixed_model(x: np.ndarray) -> tuple[float, float, float, float]:
    """Mean of ``x`` [S, U], the limits of its 95 % confidence interval, and the two-sided p-value of mean 0.

    x_su = m + a_s + b_u + e_su with independent random effects of seeds and users, and residuals e. The variance of the mean is
    (MS_seed + MS_user - MS_residual) / (S U), at least MS_user / (S U), with Satterthwaite's degrees of freedom. They are too
    many if few seeds differ much: at level 5 % the test then rejects up to 13 % of true hypotheses with two seeds, and 8 % with
    three. With one seed it is the t-test over users, which says nothing about other seeds. p is at least 2 / 2^U, that of the
    sign test with U equal signs.
    """
    seeds, users = x.shape
    mean = float(x.mean())
    if users < 2:
        return mean, mean, mean, 1.0
    seed_means, user_means = x.mean(1), x.mean(0)
    freedom = np.array([users - 1.0])
    squares = np.array([seeds * np.square(user_means - mean).sum()])
    if seeds > 1:
        residual = np.square(x - seed_means[:, None] - user_means + mean).sum()
        squares = np.append(squares, [users * np.square(seed_means - mean).sum(), -residual])
        freedom = np.append(freedom, [seeds - 1, (seeds - 1) * (users - 1)])
    squares = squares / freedom
    total = max(squares.sum(), squares[0])
    least = 2.0 ** (1 - users)
    if total < 1e-20:
        return mean, mean, mean, least if abs(mean) > 1e-10 else 1.0
    error, degrees = np.sqrt(total / x.size), total**2 / (squares**2 / freedom).sum()
    half = float(student.ppf(1 - LEVEL / 2, degrees) * error)
    return mean, mean - half, mean + half, max(least, float(2 * student.sf(abs(mean) / error, degrees)))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the smallest of m p-values times m, the next times m - 1, ..., in non-decreasing order."""
    order = np.argsort(p, kind="stable")
    corrected, largest = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, p[i] * (len(p) - place)))
        corrected[i] = largest
    return corrected
