"""Is one model better than another? Paired tests over the test users, each user's value averaged over the seeds.

Legend: U users.
"""
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import bootstrap, wilcoxon

from recbole_macrec.benchmark.runs import Ranks, Run
from recbole_macrec.errors import UserError

LEVEL = 0.05
RESAMPLES = 2000


@dataclass(frozen=True)
class PairedTest:
    """Whether ``first`` is better than ``second``.

    Attributes:
        difference: mean over users of first - second; above 0 the first is better.
        low, high: its 95 % bootstrap confidence interval.
        p, p_holm: two-sided Wilcoxon signed-rank test, and corrected for all tests made together.
        verdict: "better" or "worse", where the corrected test and the interval agree that there is a difference,
            else "no difference".
    """

    first: str
    second: str
    metric: str
    users: int
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


def user_values(ranks: np.ndarray, metric: str) -> np.ndarray:
    """A metric such as ``hit@10`` or ``ndcg@5`` of each user, from the ranks [U] of one target each (0: absent); [U].

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
    raise UserError(f"{metric} is no metric of one target a user; expected hit, recall, ndcg or mrr.")


def mean_values(runs: Sequence[Run], metric: str) -> dict[str, float]:
    """User token -> the metric, averaged over ``runs`` (a label's seeds).

    Raises:
        UserError: when they did not test the same users.
    """
    total: dict[str, float] | None = None
    for run in runs:
        ranks: Ranks = run.ranks
        values = dict(zip(ranks.users.tolist(), user_values(ranks.ranks, metric).tolist()))
        if total is None:
            total = values
        elif total.keys() == values.keys():
            total = {user: value + values[user] for user, value in total.items()}
        else:
            raise UserError(f"{run.folder} tested other users than the runs beside it; use one split for all.")
    return {user: value / len(runs) for user, value in (total or {}).items()}


def compare_pairs(values: dict[str, dict[str, dict[str, float]]], pairs: Sequence[tuple[str, str]], seed: int = 0) -> list[PairedTest]:
    """PairedTest every pair under every metric, corrected together.

    Args:
        values: metric -> label -> user -> value.
    """
    tested = []
    for metric, labels in values.items():
        for first, second in pairs:
            a, b = labels[first], labels[second]
            if a.keys() != b.keys():
                raise UserError(f"{first} and {second} tested different users; use one split for all.")
            difference = np.array([a[user] - b[user] for user in a]).round(12)  # equal ones stay tied
            tested.append(PairedTest(first, second, metric, len(difference), *paired(difference, seed)))
    corrected = holm([test.p for test in tested])
    return [PairedTest(**{**asdict(test), "p_holm": p}) for test, p in zip(tested, corrected)]


def paired(difference: np.ndarray, seed: int = 0) -> tuple[float, float, float, float]:
    """Mean of the differences [U], the ends of its 95 % bootstrap interval (percentiles), Wilcoxon's two-sided p."""
    mean = float(difference.mean())
    if not difference.any():
        return 0.0, 0.0, 0.0, 1.0
    if len(difference) < 2 or np.ptp(difference) == 0:
        low = high = mean
    else:
        found = bootstrap(
            (difference,), np.mean, n_resamples=RESAMPLES, batch=50, method="percentile", confidence_level=1 - LEVEL,
            random_state=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        low, high = float(found.low), float(found.high)
    return mean, low, high, float(wilcoxon(difference, alternative="two-sided").pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the smallest of m values times m, the next times m - 1, ..., never decreasing."""
    order = np.argsort(p, kind="stable")
    corrected, largest = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, p[i] * (len(p) - place)))
        corrected[i] = largest
    return corrected
