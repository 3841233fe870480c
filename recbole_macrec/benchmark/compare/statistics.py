"""Is one model better than another? Paired tests over seeds and test users.

Shapes: S seeds, U users, R test rows of a seed, T targets (see :class:`~recbole_macrec.benchmark.compare.runs.Ranks`).
"""
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import t as student

from recbole_macrec.benchmark.compare.runs import Run
from recbole_macrec.errors import UserError

LEVEL = 0.05


@dataclass(frozen=True)
class PairedTest:
    """Whether ``first`` is better than ``second``.

    Attributes:
        users, rows: test users, and test rows that the metric averages over, of a seed; equal with one target a user.
        seeds: runs of each; the result of one seed holds between these two runs, another seed may give another.
        difference: mean of first - second over seeds and rows, the difference of the table's figures.
        low, high: its 95 % confidence interval, see :func:`mixed_model`.
        p, p_holm: of the two-sided test, and corrected for all tests made together.
        verdict: "better" or "worse", where the corrected test and the interval agree that there is a difference,
            else "no difference".
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
        if self.p_holm >= LEVEL or self.low <= 0 <= self.high:
            return "no difference"
        return "better" if self.difference > 0 else "worse"

    def as_dict(self) -> dict:
        return {**asdict(self), "verdict": self.verdict}


@dataclass(frozen=True)
class Measured:
    """The test rows of one run.

    Attributes:
        keys: what each row is about, as :meth:`Ranks.keys` says; [R].
        values: metric -> [R].
    """

    keys: list[tuple]
    values: dict[str, np.ndarray]

    @classmethod
    def of(cls, run: Run, metrics: Sequence[str]) -> "Measured":
        ranks = run.ranks
        return cls(ranks.keys(), {metric: row_values(ranks.ranks, ranks.rows, metric) for metric in metrics})

    def in_order_of(self, other: "Measured", metric: str) -> np.ndarray | None:
        """The values in the order of the rows of ``other``; None where those are other rows."""
        rows = {key: row for row, key in enumerate(self.keys)}
        if rows.keys() != set(other.keys):
            return None
        return self.values[metric][[rows[key] for key in other.keys]]


def user_values(ranks: np.ndarray, metric: str) -> np.ndarray:
    """A metric such as ``hit@10`` or ``ndcg@5`` of rows with one target each, from their ranks [R] (0: absent); [R].

    With one target NDCG@k is 1 / log2(rank + 1) within the first k, else 0.
    """
    name, _, k = metric.partition("@")
    found = (ranks > 0) & (ranks <= int(k))
    if name in ("hit", "recall"):
        return found.astype(float)
    if name == "ndcg":
        return np.where(found, 1 / np.log2(np.maximum(ranks, 1) + 1.0), 0.0)
    if name == "mrr":
        return np.where(found, 1 / np.maximum(ranks, 1), 0.0)
    raise UserError(f"{metric} is not a metric of ranks; expected hit, recall, ndcg or mrr.")


def row_values(ranks: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """A metric of each row as RecBole defines it for rows of several targets; [R].

    Hit@k and MRR@k are those of the best target, Recall@k is the share of the targets within the first k, and NDCG@k the
    sum of their gains over that of a list that begins with them.

    Args:
        ranks: [T], 0 for an absent target.
        rows: [T], the row of each target, from 0, rising.
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


def compare_pairs(
    measured: dict[str, Sequence[Measured]], metrics: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> tuple[list[PairedTest], list[tuple[str, str]]]:
    """PairedTest every pair under every metric, corrected together.

    Args:
        measured: label -> the test rows of its runs, one a seed, in the order of the seeds.

    Returns:
        The tests, and the pairs without one: those tested on different rows with the same seed.
    """
    tested, apart = [], []
    for metric in metrics:
        for first, second in pairs:
            values = [(a.values[metric], b.in_order_of(a, metric)) for a, b in zip(measured[first], measured[second], strict=True)]
            if any(other is None for _, other in values):
                apart += [(first, second)] * ((first, second) not in apart)
                continue
            differences = [(own - other).round(12) for own, other in values]  # equal ones stay equal
            owners = [[user for user, *_ in run.keys] for run in measured[first]]
            found = mixed_model(by_user(differences, owners))
            tested.append(PairedTest(first, second, metric, len(set(owners[0])), len(owners[0]), len(values), *found))
    corrected = holm([test.p for test in tested])
    return [PairedTest(**{**asdict(test), "p_holm": p}) for test, p in zip(tested, corrected)], apart


def by_user(values: Sequence[np.ndarray], owners: Sequence[Sequence[str]]) -> np.ndarray:
    """One number of every user in every seed, [S, U], from values [R] of the rows of each seed and the users that own them.

    With one row a user these are the values. Else a user counts by the rows: m + U (sum - m n) / R, where m is the mean
    over the R rows, and the user has n of them; so the mean over the users is m. Seeds may have other rows and users.
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
    """Mean of ``x`` [S, U], the ends of its 95 % interval, and the two-sided p of mean 0.

    x_su = m + a_s + b_u + e_su with independent random effects of seed, user and rest. The variance of the mean is
    (MS_seed + MS_user - MS_rest) / (S U), at least MS_user / (S U), with Satterthwaite's degrees of freedom; with one seed
    it is that of the t-test over users, which knows nothing of other seeds. p is at least that of the sign test of U equal
    signs, 2 / 2^U.
    """
    seeds, users = x.shape
    mean = float(x.mean())
    if users < 2 or not x.any():
        return mean, mean, mean, 1.0
    of_seed, of_user = x.mean(1), x.mean(0)
    freedom = np.array([users - 1.0])
    squares = np.array([seeds * np.square(of_user - mean).sum()])
    if seeds > 1:
        rest = np.square(x - of_seed[:, None] - of_user + mean).sum()
        squares = np.append(squares, [users * np.square(of_seed - mean).sum(), -rest])
        freedom = np.append(freedom, [seeds - 1, (seeds - 1) * (users - 1)])
    squares = squares / freedom
    total = max(squares.sum(), squares[0])
    least = 2.0 ** (1 - users)
    if total < 1e-20:
        return mean, mean, mean, least
    error, degrees = np.sqrt(total / x.size), total**2 / (squares**2 / freedom).sum()
    half = float(student.ppf(1 - LEVEL / 2, degrees) * error)
    return mean, mean - half, mean + half, max(least, float(2 * student.sf(abs(mean) / error, degrees)))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the smallest of m values times m, the next times m - 1, ..., never decreasing."""
    order = np.argsort(p, kind="stable")
    corrected, largest = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, p[i] * (len(p) - place)))
        corrected[i] = largest
    return corrected
